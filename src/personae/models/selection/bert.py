"""BERT: read context, persona and reply as one sequence, and say how well they match.

Jia-Chen Gu, Hui Liu, Zhen-Hua Ling, Quan Liu, Zhigang Chen, Xiaodan Zhu. Partner Matters! An Empirical Study on Fusing
Personas for Personalized Response Selection in Retrieval-Based Chatbots. SIGIR 2021. https://arxiv.org/abs/2105.09050
(section 4.3; BERT is that of Devlin et al., NAACL 2019; RoBERTa and ELECTRA can take its place)

Differs from the paper: MiniLM (6 layers, 384 features) is read where no backbone is named, not BERT base; of a sequence
that is too long the oldest turns are left out, where the published code cuts the latest. The recipes for a processor
are `shared`, those for a GPU are not.

Not stated in the paper: [CLS] and the first [SEP] are of the subtypes of persona and context, which start as a
truncated normal with a deviation of .02, both as in the published code; the matching feature and the persona fusion
feature come from the same BERT, as there. "The embedding of [CLS]" is what BERT's pooler makes of it. Utterances follow
one another with nothing between them, neither [SEP] nor a word that marks their end, and so do persona lines; where the
paper generates replies, it separates utterances by [SEP]. A persona without lines is read as an empty sequence.
"""

import itertools
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from personae.nn.cross_encoder import CrossEncoder, Judge, Keys, Passes
from personae.nn.dialogue_batch import personas_read
from personae.nn.objective import Objective
from personae.nn.persona_fusion import Fusion, whose
from personae.nn.shared_context import SharedEncoder
from personae.types import Example, InputError, Whose, check


class BERT(nn.Module):
    """BERT with persona fusion: with "cra" one pass over persona, context and reply, with "na", "ca" and "ra" one over
    context and reply and one over the persona, alone, with the context or with the reply. B cases, N candidates, F
    passes, S distinct sequences, H hidden units.

    `backbone` is a folder or a hub id of a BERT, RoBERTa or ELECTRA, None for MiniLM's package. Without `context`,
    persona and reply are matched. Made for both personas, the lines of the partner are of a subtype of their own with
    "cra", and have a pass of their own with "na", "ca" and "ra". The last `utterances` are read, all that there is room
    for if None. Made `shared`, the reply attends to what is before it and is not attended to, so that this is read once
    for all candidates: several times as fast, a little less accurate, and a good start for a model that is not. Neither
    is in the paper.
    """

    scale = "logit"

    def __init__(
        self,
        *,
        backbone: str | None = None,
        fusion: Fusion = "cra",
        persona: Whose = "self",
        subtype: bool = True,
        context: bool = True,
        dropout: float = 0.1,
        longest: int = 320,
        utterances: int | None = None,
        shared: bool = False,
    ) -> None:
        super().__init__()
        if utterances is not None and utterances < 1:
            raise InputError(f"task.model.utterances: {utterances} is not at least 1")
        check("task.model.fusion", fusion, Fusion)
        self.persona, self.personas = whose(fusion, persona, context)
        self.fusion, self.context, self.utterances = fusion, context, utterances or 0
        rows = self.personas + 2 if fusion == "cra" and subtype else 0
        made = SharedEncoder if shared else CrossEncoder
        self.encoder = made(backbone, longest=longest, dropout=dropout, subtypes=rows)
        passes = 1 + (self.personas if fusion in ("na", "ca", "ra") else 0)
        self.judge = Judge(width=self.encoder.width, passes=passes, dropout=dropout)

    def prepare(self, texts: Iterable[str]) -> None:
        """Needs to learn nothing, but must have its weights."""
        self.encoder.require_weights()

    def collate(self, examples: Sequence[Example]) -> Passes:
        """The model's input."""
        return self.encoder.gather(examples, self.sequences(examples))

    def sequences(self, examples: Sequence[Example]) -> list[list[list[Keys]]]:
        """What is read in each pass, for each candidate of each example."""
        read = [self._read(example) for example in examples]
        self.encoder.tokens(
            text
            for example, (said, personas) in zip(examples, read, strict=True)
            for text in itertools.chain(said, *personas, example.target.candidates)
        )
        return [
            [self._sequences(said, personas, text) for text in example.target.candidates]
            for example, (said, personas) in zip(examples, read, strict=True)
        ]

    def size(self, example: Example) -> int:
        """The tokens of context and persona."""
        said, personas = self._read(example)
        read = list(itertools.chain(said, *personas))
        tokens = self.encoder.tokens(read)
        return sum(len(tokens[text]) for text in read)

    def _read(self, example: Example) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """The utterances of the context, and the lines of each persona."""
        said = [turn.text for turn in example.context.turns][-self.utterances :] if self.context else []
        return said, personas_read(example, self.persona, self.personas)

    def _sequences(self, said: Sequence[str], personas: Sequence[Sequence[str]], reply: str) -> list[Keys]:
        """What each pass reads."""
        tokens, fit, sequence = self.encoder.tokens(()), self.encoder.fit, self.encoder.sequence
        texts = (*personas, said, (reply,))
        rows = range(len(texts)) if self.encoder.subtypes is not None else (0,) * len(texts)
        pieces = [[(row, tokens[text]) for text in part] for row, part in zip(rows, texts, strict=True)]
        *told, context, answer = pieces
        if self.fusion == "cra" or not self.context:
            lines, turns, response = fit(list(itertools.chain(*told)), context, answer)
            return [sequence(lines + turns, response)]
        _, turns, response = fit([], context, answer)
        passes = [sequence(turns, response)]
        for persona in told if self.fusion != "none" else ():
            lines, turns, response = fit(
                persona, context if self.fusion == "ca" else [], answer if self.fusion == "ra" else []
            )
            passes.append(sequence(lines, {"na": None, "ca": turns, "ra": response}[self.fusion]))
        return passes

    def score(self, batch: Passes) -> Tensor:
        """Logits (B, N), -inf where a case has fewer candidates."""
        return self.judge(self.encoder(batch.sequences), batch.places)

    def loss(self, batch: Passes, objective: Objective = Objective()) -> Tensor:  # noqa: B008 - frozen
        """What `objective` makes of the scores."""
        return objective(self.score(batch), batch.target)
