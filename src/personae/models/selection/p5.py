"""P5: put the persona lines that are most like a reply before the context, as the answer to a question.

Joosung Lee, Minsik Oh, Donghun Lee. P5: Plug-and-Play Persona Prompting for Personalized Response Selection. EMNLP
2023. https://arxiv.org/abs/2310.06390

It reports hits@1 of 87.45 with original and 82.79 with revised personas of the speaker, on Persona-Chat.

Differs from the paper: MiniLM is read where no backbone is named, not RoBERTa, and MiniLM's sentence encoder
that of SimCSE. [CLS] stands at the beginning and goes through BERT's pooler; in the published code (rungjoo's
plug-and-play-prompt-persona) it stands before the reply, and is read as it is. Of a sequence that is too long, whole
turns are left out, the oldest first, not the beginning of the oldest.

As in that code: [SEP] between the question, the lines and the utterances, the most similar line first. The loss is the
task's: over all candidates, or each by itself (`pointwise`), as the code has it. What is fine-tuned there was trained
before as a standard selector, without personas: that run as `init_from`. Not stated: the second segment is the reply's;
equally similar lines keep their order.
"""

import itertools
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from personae.nn.cross_encoder import CrossEncoder, Judge, Keys, Passes, Piece
from personae.nn.dialogue_batch import personas_read
from personae.nn.objective import Objective
from personae.nn.sentence_encoder import SentenceEncoder
from personae.types import Example, InputError, Whose


class P5(nn.Module):
    """A cross-encoder over question, persona lines, context and reply; without lines, over context and reply alone. B
    cases, N candidates.

    `backbone` is the folder or hub id of a BERT, RoBERTa or ELECTRA, `sentence_encoder` that of the encoder by which
    the `top` lines are chosen for each reply, None for MiniLM's package. The partner's lines answer a question of their
    own, also where both personas are read; neither is in the paper. No weight is a persona's, so that any may be read
    after training. The last `utterances` are read, all that there is room for if None."""

    scale = "logit"

    def __init__(
        self,
        *,
        backbone: str | None = None,
        sentence_encoder: str | None = None,
        persona: Whose = "self",
        top: int = 2,
        question: str = "what is your personality?",
        partner_question: str = "what is my personality?",
        dropout: float = 0.1,
        longest: int = 512,
        utterances: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("top", top), ("utterances", utterances)):
            if value is not None and value < 1:
                raise InputError(f"task.model.{name}: {value} is not at least 1")
        self.persona: Whose = persona
        self.top, self.utterances = top, utterances or 0
        self.questions = (question, partner_question)
        self.encoder = CrossEncoder(backbone, longest=longest, dropout=dropout)
        self.judge = Judge(width=self.encoder.width, passes=1, dropout=dropout)
        similar = SentenceEncoder(sentence_encoder, field="task.model.sentence_encoder")
        self._similar = (similar,)  # no part of the module: neither trained nor saved

    def prepare(self, texts: Iterable[str]) -> None:
        """Needs to learn nothing, but must have its weights."""
        self.encoder.require_weights()

    def collate(self, examples: Sequence[Example]) -> Passes:
        """The model's input."""
        return self.encoder.gather(examples, self.sequences(examples))

    def sequences(self, examples: Sequence[Example]) -> list[list[list[Keys]]]:
        """What is read for each candidate of each example, in one pass."""
        personas = [personas_read(example, self.persona, 2) for example in examples]
        replies = [example.target.candidates for example in examples]
        said = [[turn.text for turn in example.context.turns][-self.utterances :] for example in examples]
        lines = [list(itertools.chain(*persona)) for persona in personas]
        self.encoder.tokens(itertools.chain(self.questions, *lines, *replies, *said))
        self._similar[0].encode(
            itertools.chain(*lines, *(case for case, read in zip(replies, lines, strict=True) if read))
        )
        read = []
        for turns, persona, candidates in zip(said, personas, replies, strict=True):
            chosen = zip(*(self._chosen(candidates, one) for one in persona), strict=True)
            read.append([[self._sequence(few, turns, reply)] for few, reply in zip(chosen, candidates, strict=True)])
        return read

    def size(self, example: Example) -> int:
        """The tokens of the context."""
        said = [turn.text for turn in example.context.turns][-self.utterances :]
        tokens = self.encoder.tokens(said)
        return sum(len(tokens[text]) for text in said)

    def _chosen(self, candidates: Sequence[str], lines: Sequence[str]) -> list[list[str]]:
        """The lines most similar to each candidate, the most similar first."""
        if not lines:
            return [[]] * len(candidates)
        vectors = self._similar[0].vectors
        similarity = (
            torch.stack([vectors[text] for text in candidates]) @ torch.stack([vectors[text] for text in lines]).t()
        )
        order = similarity.argsort(dim=1, descending=True, stable=True)[:, : self.top].tolist()
        return [[lines[place] for place in places] for places in order]

    def _sequence(self, personas: Sequence[Sequence[str]], said: Sequence[str], reply: str) -> Keys:
        """[CLS] question [SEP] lines [SEP] utterance [SEP] utterance [SEP] reply [SEP], the questions and lines of
        both personas one after the other."""
        tokens, end = self.encoder.tokens(()), (self.encoder.end,)
        prompt: list[Piece] = []
        for question, lines in zip(self.questions, personas, strict=True):
            if lines:
                prompt += [(0, tokens[question] + end), *((0, tokens[line]) for line in lines[:-1])]
                prompt.append((0, tokens[lines[-1]] + end))
        told, turns, response = self.encoder.fit(
            prompt, [(0, tokens[text] + end) for text in said], [(0, tokens[reply])]
        )
        first = told + turns
        if first and first[-1][1][-1:] == end:  # the sequence adds one
            first[-1] = (0, first[-1][1][:-1])
        return self.encoder.sequence(first, response)

    def score(self, batch: Passes) -> Tensor:
        """Logits (B, N), -inf where a case has fewer candidates."""
        return self.judge(self.encoder(batch.sequences), batch.places)

    def loss(self, batch: Passes, objective: Objective = Objective()) -> Tensor:  # noqa: B008 - frozen
        """What `objective` makes of the scores."""
        return objective(self.score(batch), batch.target)
