"""TransferTransfo: a pretrained language model reads persona and history, learns to go on with the reply and to tell it
from others.

Thomas Wolf, Victor Sanh, Julien Chaumond, Clement Delangue. TransferTransfo: A Transfer Learning Approach for Neural
Network Based Conversational Agents. 2019. https://arxiv.org/abs/1901.08149

It writes replies and chooses among candidates. The loss is that of language modelling, times `language`, and of
next-utterance classification, where replies come with candidates. As the published code is run
(huggingface/transfer-learning-conv-ai), `language` is 2, only the reply's tokens count for it, a reply has one
distractor of another dialogue and is drawn from the nucleus (the recipes say so), and two exchanges before the last
utterance are read.

Differs from the paper: the backbone is SmolLM2-135M unless another is named (the paper's is "openai-gpt"), it may be
tuned by low-rank adapters (Hu et al., ICLR 2022), and an end of text stands where the paper has tokens for the
speakers, who are told by embeddings of their own beside each token. The lines of a persona keep their order. Not in the
paper: the partner's persona.
"""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from personae.nn.decoding import Decoding
from personae.nn.double_heads import Asked, DoubleHeads, Tune
from personae.nn.objective import Objective
from personae.types import Dialogue, Example, InputError, Whose


class TransferTransfo(nn.Module):
    """A language model with two heads, of a folder or a hub id, None for SmolLM2's package. Of a context the last
    `utterances` are read, all if None, with the persona `longest` tokens, and of a reply the first `reply` ones. A
    candidate's score is how well it fits, or, with a share of `likelihood` (0 to 1), the mean log-likelihood of its
    tokens. B cases, N candidates."""

    scale = "logit"

    def __init__(
        self,
        *,
        backbone: str | None = None,
        persona: Whose = "self",
        tune: Tune = "full",
        rank: int = 8,
        dropout: float = 0.1,
        utterances: int | None = 5,
        longest: int = 160,
        reply: int = 64,
        language: float = 2.0,
        likelihood: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 < language < float("inf"):
            raise InputError(f"task.model.language: {language} is not above 0")
        if not 0 <= likelihood <= 1:
            raise InputError(f"task.model.likelihood: {likelihood} is not between 0 and 1")
        self.persona: Whose = persona
        self.language, self.likelihood = language, likelihood
        self.heads = DoubleHeads(
            backbone=backbone,
            whose=persona,
            tune=tune,
            rank=rank,
            dropout=dropout,
            utterances=utterances,
            longest=longest,
            reply=reply,
        )
        self.tokens = self.heads.words.name

    def prepare(self, dialogues: Sequence[Dialogue]) -> None:
        """Needs to learn nothing, but must have its weights."""
        self.heads.words.require_weights()

    def collate(self, examples: Sequence[Example]) -> Asked:
        """The model's input."""
        return self.heads.collate(examples, self.persona)

    def size(self, example: Example) -> int:
        """How many tokens are read and written."""
        return self.heads.size(example, self.persona)

    def score(self, batch: Asked) -> Tensor:
        """Scores (B, N), -inf where a case has fewer candidates."""
        return self.heads.score(batch, likelihood=self.likelihood)

    def loss(self, batch: Asked, objective: Objective = Objective()) -> Tensor:  # noqa: B008 - frozen
        """`language` times the mean negative log-likelihood of a token of the true replies, and what `objective` makes
        of the candidates' scores by the head; without candidates, the former alone."""
        said, chosen = self.heads.losses(batch, objective)
        return said if chosen is None else self.language * said + chosen

    def log_likelihood(self, batch: Asked) -> tuple[Tensor, Tensor]:
        """The log-likelihoods of replies, in nats, and how many tokens they have, the end among them: both (B,)."""
        return self.heads.log_likelihood(batch)

    def generate(self, batch: Asked, decoding: Decoding) -> list[list[str]]:
        """Of each case so many replies as `decoding` says, the best first."""
        return self.heads.generate(batch, decoding)

    def stream(self, batch: Asked, decoding: Decoding) -> Iterator[str]:
        """The reply to one case, piece by piece."""
        return self.heads.stream(batch, decoding)
