"""A pretrained sentence encoder: a transformer whose states, averaged over the tokens of a text, are its vector.

The default is MiniLM-L6-H384 (Wang et al., NeurIPS 2020, https://arxiv.org/abs/2002.10957), fine-tuned on sentence
pairs as sentence-transformers/all-MiniLM-L6-v2 (Reimers and Gurevych, EMNLP 2019, https://arxiv.org/abs/1908.10084).
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personae.nn.pretrained import ENCODERS, load, packaged, readable, require_weights, room
from personae.text import Kept

STEP = 8
"""The lengths of padded texts are multiples of it."""

log = logging.getLogger(__name__)


class SentenceEncoder(nn.Module):
    """A frozen encoder, from a folder or a hub id, None for MiniLM's package, which `field` of the recipe names. Of a
    text `longest` tokens are read, or as many as it can. The unit vectors of texts are kept in `vectors`, so that each
    is encoded once. A vector is the same to the last bit whatever is encoded beside or before: how a text is padded is
    its own business, and none is multiplied in a product of a few rows, which is rounded otherwise."""

    def __init__(self, source: str | None = None, *, field: str = "task.model.encoder", longest: int = 128) -> None:
        super().__init__()
        self.tokenizer, self.transformer = load(source or packaged(), field, ENCODERS)
        require_weights(self.transformer, field)
        self.longest = min(longest, room(self.transformer.config))
        self.transformer.requires_grad_(False).eval()
        self.vectors: Kept[Tensor] = Kept()
        self._cut = False

    @torch.no_grad()
    def encode(self, texts: Iterable[str]) -> None:
        """Sees to it that each text has its vector (width,), on the processor. That one is too long is logged, once."""
        new = sorted(self.vectors.new(texts), key=lambda text: (len(text), text))
        for start in range(0, len(new), 1024):
            some = new[start : start + 1024]
            made: Any = self.tokenizer(list(map(readable, some)), truncation=True, max_length=self.longest)
            if not self._cut and any(one.overflowing for one in made.encodings or ()):
                self._cut = True
                log.warning(
                    "the sentence encoder reads the first %d tokens of a text; the rest is left out", self.longest
                )
            for chunk, length in _alike(dict(zip(some, made["input_ids"], strict=True)), self.longest):
                self.vectors.update(zip(chunk, self._encoded(list(chunk.values()), length), strict=False))

    def _encoded(self, tokens: Sequence[Sequence[int]], length: int) -> Tensor:
        """The unit vectors (texts, width) of texts that are padded to so many tokens; more rows where there are few."""
        spare = -(-4 * STEP // length) - len(tokens)
        rows = [[*text, *[self.tokenizer.pad_token_id] * (length - len(text))] for text in tokens]
        given = torch.tensor(rows + rows[-1:] * spare, device=self.transformer.device)
        sizes = [len(text) for text in tokens]
        sizes += sizes[-1:] * spare
        mask = (torch.arange(length) < torch.tensor(sizes)[:, None]).long().to(given.device)  # (texts, tokens)
        states = self.transformer(input_ids=given, attention_mask=mask).last_hidden_state  # (texts, tokens, width)
        return F.normalize((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=1).cpu()


def _alike(tokens: Mapping[str, Sequence[int]], longest: int) -> Iterator[tuple[dict[str, Sequence[int]], int]]:
    """Texts and their tokens, some that are padded to the same length at a time, and that length."""
    alike: dict[int, dict[str, Sequence[int]]] = {}
    for text, one in tokens.items():
        alike.setdefault(min(-(-len(one) // STEP) * STEP, longest), {})[text] = one
    for length, group in alike.items():
        for start in range(0, len(group), 64):
            yield dict(list(group.items())[start : start + 64]), length
