"""A pretrained sentence encoder: a transformer whose states, averaged over the tokens of a text, are its vector.

The default is MiniLM-L6-H384 (Wang et al., NeurIPS 2020, https://arxiv.org/abs/2002.10957), fine-tuned on sentence
pairs as sentence-transformers/all-MiniLM-L6-v2 (Reimers and Gurevych, EMNLP 2019, https://arxiv.org/abs/1908.10084).
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personae.nn.pretrained import ENCODERS, load, packaged, readable, require_weights, room


class SentenceEncoder(nn.Module):
    """A frozen encoder, from a folder or a hub id, None for MiniLM's package, which `field` of the recipe names. Of a
    text `longest` tokens are read, or as many as it can. The unit vectors of texts are kept in `vectors`, so that each
    is encoded once."""

    def __init__(self, source: str | None = None, *, field: str = "task.model.encoder", longest: int = 128) -> None:
        super().__init__()
        self.tokenizer, self.transformer = load(source or packaged(), field, ENCODERS)
        require_weights(self.transformer, field)
        self.longest = min(longest, room(self.transformer.config))
        self.transformer.requires_grad_(False).eval()
        self.vectors: dict[str, Tensor] = {}

    @torch.no_grad()
    def encode(self, texts: Iterable[str]) -> None:
        """Sees to it that each text has its vector (width,), on the processor."""
        new = sorted((text for text in texts if text not in self.vectors), key=lambda text: (len(text), text))
        for start in range(0, len(new), 64):
            chunk = new[start : start + 64]
            inputs: Any = self.tokenizer(
                list(map(readable, chunk)),
                padding=True,
                truncation=True,
                max_length=self.longest,
                return_tensors="pt",
            ).to(self.transformer.device)
            states = self.transformer(**inputs).last_hidden_state  # (texts, tokens, width)
            mask = inputs["attention_mask"][..., None]
            vectors = F.normalize((states * mask).sum(1) / mask.sum(1), dim=1).cpu()
            self.vectors.update(zip(chunk, vectors, strict=True))
