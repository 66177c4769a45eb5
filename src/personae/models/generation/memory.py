"""Memory: an encoder-decoder that looks, besides at the question, at what the user said before that is most like it.

Saizheng Zhang, Emily Dinan, Jack Urbanek, Arthur Szlam, Douwe Kiela, Jason Weston. Personalizing Dialogue Agents: I
have a dog, do you have pets too? ACL 2018. https://arxiv.org/abs/1801.07243 (section 4.3, Generative Profile Memory
Network), as in Yuwei Wu, Xuezhe Ma, Diyi Yang. Personalized Response Generation via Tensor Factorization. GEM 2021.
https://aclanthology.org/2021.gem-1.5 (section 5.2)

Differs from the paper: memories are looked at by the decoder's state of the same step, and what is seen goes to the
output rather than to the next input, so that all steps of a training reply are computed at once. Not stated in the
paper: which responses are relevant; here those that share most words with the question (TF-IDF); and that the reply to
be learnt is not among its own memories. A memory is the sum of its words' vectors, weighted by how rare they are.

With `speakers`, a vector of the user stands beside every word besides (Memory+Speaker). Otherwise as Seq2Seq, and with
or without its tensor.
"""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from personae.nn.decoding import Decoding
from personae.nn.encoder_decoder import Sizes
from personae.nn.personalization import Factorization
from personae.nn.speakers import Speakers
from personae.nn.user_writer import Addressed, UserWriter
from personae.types import Dialogue, Example, InputError


class Memory(nn.Module):
    """An LSTM encoder-decoder with up to `memories` past responses, with or without a vector of each user and a
    `tensor`."""

    tokens = "word"

    def __init__(
        self,
        *,
        sizes: Sizes = Sizes(),  # noqa: B008 - frozen
        memories: int = 10,
        speakers: Speakers | None = None,
        tensor: Factorization | None = None,
    ) -> None:
        super().__init__()
        if memories < 1:
            raise InputError(f"task.model.memories: {memories} is not at least 1")
        self.writer = UserWriter(sizes=sizes, speakers=speakers, memories=memories, tensor=tensor)

    def prepare(self, dialogues: Sequence[Dialogue]) -> None:
        """Learns the vocabulary, and who answers what."""
        self.writer.prepare(dialogues)

    def collate(self, examples: Sequence[Example]) -> Addressed:
        """The model's input."""
        return self.writer.collate(examples)

    def size(self, example: Example) -> int:
        """How many words are read and written."""
        return self.writer.words.size(example)

    def loss(self, batch: Addressed) -> Tensor:
        """The mean negative log-likelihood of a word."""
        return self.writer.loss(batch)

    def log_likelihood(self, batch: Addressed) -> tuple[Tensor, Tensor]:
        """The log-likelihoods of replies, in nats, and how many words they have, the end among them: both (B,)."""
        return self.writer.log_likelihood(batch)

    def generate(self, batch: Addressed, decoding: Decoding) -> list[list[str]]:
        """Of each case so many replies as `decoding` says, the best first."""
        return self.writer.generate(batch, decoding)

    def stream(self, batch: Addressed, decoding: Decoding) -> Iterator[str]:
        """The reply to one case, piece by piece."""
        return self.writer.stream(batch, decoding)
