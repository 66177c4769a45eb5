"""The persona reranker in the forms of other libraries: a folder for transformers and sentence-transformers, and a
graph for ONNX Runtime. All read pairs of texts, which `pairs` makes of cases."""

import copy
import importlib.util
import inspect
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig

import personae
from personae import portable
from personae.data import lines
from personae.models.selection.persona_reranker import PARTNER, SELF, PersonaReranker
from personae.portable import MARKERS, PersonaRerankerConfig, PersonaRerankerForSequenceClassification
from personae.types import Example, InputError

MODULE = "modeling_persona_reranker"
"""What `portable` is called in a folder."""

GRAPH, SMALL_GRAPH = "onnx/model.onnx", "onnx/model_int8.onnx"

OPSET = 17

INPUTS = ("input_ids", "attention_mask", "token_type_ids")

_SPECIAL = re.compile(r"\[(?=[^\[\]]+\])")


def pairs(model: Any, example: Example) -> list[tuple[str, str]]:
    """What an exported model reads of a case, for each of its candidates: the first text and the second. What the
    reranker would not read is left out; where that is within a word, a piece of it may be read otherwise."""
    model.collate([example])
    told = []
    for kind, text in model.heard(example):
        most = model.line_tokens if kind in (SELF, PARTNER) else model.utterance_tokens
        told.append(f"{MARKERS[kind - 1]} {_cut(model, text, most, end=kind not in (SELF, PARTNER))}")
    first = " ".join(told)
    return [(first, _cut(model, text, model.reply_tokens)) for text in example.target.candidates]


def _cut(model: Any, text: str, most: int, *, end: bool = False) -> str:
    """So many tokens at the beginning of a text, or at its end, in which nothing is a marker."""
    plain = {"add_special_tokens": False, "split_special_tokens": True, "return_offsets_mapping": True}
    places = model.encoder.tokenizer(text, **plain)["offset_mapping"]
    if len(places) > most:
        text = text[places[-most][0] :] if end else text[: places[most - 1][1]]
    return _SPECIAL.sub("[ ", text)


def write(model: Any, out: Path, *, name: str, graph: bool) -> None:
    """Writes the folder, with weights or with graphs. InputError where the model is no persona reranker with a BERT, or
    ONNX is not installed."""
    if not isinstance(model, PersonaReranker):
        raise InputError(f"{name}: is no persona reranker, which is what other libraries read; export it --to small")
    if (kind := model.encoder.backbone.config.model_type) != "bert":
        raise InputError(
            f"{name}: its backbone is of the type {kind!r}, other libraries read one of bert; train on one"
        )
    if graph:
        _require_onnx()
    made = module(model)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(model)
    tokenizer.save_pretrained(out)
    if graph:
        plain = {name: value for name, value in made.config.to_dict().items() if name != "auto_map"}
        BertConfig(**plain).save_pretrained(out)
        _graphs(made, tokenizer, out)
    else:
        lines.save(inspect.getsource(portable).splitlines(), out / f"{MODULE}.py")
        made.save_pretrained(out)
    lines.save(_card(model, graph).splitlines(), out / "README.md")


def module(model: PersonaReranker) -> PersonaRerankerForSequenceClassification:
    """The reranker as a module of transformers, with the same weights, ready to answer."""
    config = PersonaRerankerConfig(**model.encoder.backbone.config.to_dict())
    config.first_marker = len(model.encoder.tokenizer)
    config.cls_token_id, config.sep_token_id = model.encoder.start, model.encoder.end
    config.num_labels = 1
    config.architectures = [PersonaRerankerForSequenceClassification.__name__]
    config.auto_map = {
        "AutoConfig": f"{MODULE}.{PersonaRerankerConfig.__name__}",
        "AutoModelForSequenceClassification": f"{MODULE}.{PersonaRerankerForSequenceClassification.__name__}",
    }
    config.sentence_transformers = {"activation_fn": "torch.nn.modules.linear.Identity"}
    made = PersonaRerankerForSequenceClassification(config)
    made.load_state_dict(
        {
            name.replace("encoder.backbone.", "bert.").replace("encoder.subtypes.", "subtypes."): weight
            for name, weight in model.state_dict().items()
        }
    )
    made.train(False)
    return made


def _tokenizer(model: PersonaReranker) -> Any:
    """The model's, with the markers."""
    tokenizer = copy.deepcopy(model.encoder.tokenizer)
    tokenizer.add_tokens(list(MARKERS), special_tokens=True)
    tokenizer.model_max_length = model.encoder.backbone.config.max_position_embeddings
    return tokenizer


class _Logits(nn.Module):
    """Logits alone, as a graph gives them."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> Tensor:
        """(B, 1)."""
        logits: Tensor = self.module(*inputs).logits
        return logits


def _require_onnx() -> None:
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"--to onnx: {' and '.join(missing)} not installed; run `pip install 'personae[onnx]'`")


def _graphs(module: nn.Module, tokenizer: Any, out: Path) -> None:
    """Writes the graph, and the graph with eight bits."""
    from onnxruntime import quantization
    from onnxruntime.quantization import shape_inference

    example = tokenizer([("[you] hello", "hi"), ("[you] hello there", "hi !")], padding=True, return_tensors="pt")
    inputs = tuple(example[name] for name in INPUTS)
    axes = {name: {0: "pairs", 1: "tokens"} for name in INPUTS} | {"logits": {0: "pairs"}}
    (out / GRAPH).parent.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Logits(module),
            inputs,
            str(out / GRAPH),
            input_names=list(INPUTS),
            output_names=["logits"],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,  # whose graph onnxruntime does not quantize
        )
        plain = out / f"{GRAPH}.plain"  # without nodes that give a weight another name, which would not be quantized
        shape_inference.quant_pre_process(out / GRAPH, plain, skip_symbolic_shape=True)
        quantization.quantize_dynamic(plain, out / SMALL_GRAPH, per_channel=True)
        plain.unlink()


def _card(model: PersonaReranker, graph: bool) -> str:
    """What is in the folder, and how it is used."""
    first = " ".join(
        f"{marker} {text}"
        for marker, text in zip(
            ("[my persona]", "[your persona]", "[you]", "[me]", "[you]"),
            ("i have two dogs .", "i sail .", "hello !", "hi , how are you ?", "well ! any pets ?"),
            strict=True,
        )
    )
    call = _ONNX_CALL if graph else _CALL
    places = model.encoder.backbone.config.max_position_embeddings
    return f"""# A persona reranker

Written by personae {personae.__version__}. A pair of texts gets a logit: of the candidates of one case, the greatest is
the reply that fits. The first text is what is known before the reply, each line and utterance behind its marker,
persona lines first: {", ".join(f"`{marker}`" for marker in MARKERS)}, where `me` is the one who
replies. The second is a reply.

```python
first = "{first}"
replies = ["two dogs , they are my life !", "i am a pilot ."]
{call}
```

In a text that holds one of the markers or of BERT's special tokens, put a blank behind the bracket. In training,
{model.line_tokens} tokens of a line were read, {model.utterance_tokens} of an utterance, its last ones,
{model.reply_tokens} of a reply, and {model.longest} of all but the reply. Leave out the oldest utterances of what is
longer: a tokenizer cuts off the newest, and there are places for {places} tokens. `personae.lend.pairs` makes such
pairs of cases.
"""


_CALL = """
from sentence_transformers import CrossEncoder

model = CrossEncoder("FOLDER", trust_remote_code=True)
print(model.predict([(first, reply) for reply in replies]))

from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER", trust_remote_code=True)
model = AutoModelForSequenceClassification.from_pretrained("FOLDER", trust_remote_code=True)
print(model(**tokenizer([first] * 2, replies, padding=True, return_tensors="pt")).logits[:, 0])""".strip()

_ONNX_CALL = """
from onnxruntime import InferenceSession
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
session = InferenceSession("FOLDER/onnx/model.onnx")  # or model_int8.onnx: a quarter of the size, other rounding
inputs = tokenizer([first] * 2, replies, padding=True, return_tensors="np")
print(session.run(["logits"], {name: inputs[name] for name in tokenizer.model_input_names})[0][:, 0])""".strip()
