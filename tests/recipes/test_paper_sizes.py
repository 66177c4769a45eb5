"""The sizes that papers state: in the recipes for a GPU, in the defaults of constructors, and in the layers made of
them. And that a recipe's `paper` is what it trains."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from personae import recipes, run
from personae.models.selection.dgmn import DGMN
from personae.models.selection.dim import DIM
from personae.models.selection.fire import FIRE
from personae.models.selection.hre import HRE
from personae.nn.words import Words

LIMITS = {"utterances": 15, "utterance_words": 20, "lines": 5, "line_words": 15, "reply_words": 20}

READ = {f"task.model.limits.{name}": most for name, most in LIMITS.items()}

MATCHER = {  # persona-fusion, section 5.3; the same in DIM, section 6.3
    "task.model.words": None,  # so that they are Words(), below
    "task.model.hidden": 200,
    "task.model.features": 256,
    "task.model.dropout": 0.2,
    **READ,
    "task.batch_size": 16,
    "task.negatives": None,  # so that they are drawn: 1 right, 19 wrong
    "task.objective.kind": "listwise",
    "task.optimization.learning_rate": 0.001,
    "task.optimization.muon": None,
    "task.optimization.decay": 0.96,
    "task.optimization.decay_steps": 5000,
    "task.optimization.warmup": 0.0,
    "task.optimization.cooldown": 0.0,
    "task.optimization.weight_decay": 0.0,
    "trainer.max_epochs": 10,
}

BERT = {  # persona-fusion, section 5.3, and what it follows BERT in, as its code has it
    "task.model.backbone": "google-bert/bert-base-uncased",
    "task.model.subtype": True,
    "task.model.shared": False,
    "task.model.dropout": 0.1,
    "task.model.longest": 320,
    "task.model.utterances": None,
    "task.batch_size": 6,  # with a right and a wrong reply each: 12 sequences
    "task.negatives.class_path": "personae.tasks.negatives.Rotating",
    "task.negatives.candidates": 20,
    "task.objective.kind": "pointwise",
    "task.optimization.learning_rate": 2e-5,
    "task.optimization.muon": None,
    "task.optimization.decay": 1.0,
    "task.optimization.warmup": 0.1,
    "task.optimization.cooldown": 0.9,
    "task.optimization.weight_decay": 0.01,
    "trainer.max_epochs": 19,
    "trainer.gradient_clip_val": 1.0,
}

MEMORY = {  # the published code of Zhang et al. and StarSpace's loss, as their docstrings say
    "task.model.hidden": 500,
    "task.model.dropout": 0.0,
    **READ,
    "task.model.limits.utterances": 2,
    "task.negatives.class_path": "personae.tasks.negatives.Drawn",
    "task.objective.kind": "pairwise",
    "task.objective.violating": True,
}

FT_PC = {
    "task.model.hidden": 300,
    "task.model.layers": 4,
    "task.negatives.class_path": "personae.tasks.negatives.InBatch",
}

FUSIONS = ("none", "na", "ca", "ra", "cra")

STATED: dict[str, dict[str, Any]] = {
    **{f"hre-personachat-{fusion}-gpu": MATCHER for fusion in FUSIONS},
    **{
        f"imn-personachat-{fusion}-gpu": {**MATCHER, "task.model.aggregation": "rnn", "task.model.with_hre": False}
        for fusion in (*FUSIONS, "ctx", "utr")
    },
    "dim-personachat-gpu": MATCHER,
    "fire-personachat-gpu": {  # its published code: sizes as DIM's, three iterations, and a threshold without effect
        **MATCHER,
        "task.model.iterations": 3,
        "task.model.threshold": 0.0,
        "task.optimization.learning_rate": 0.00025,
        "trainer.max_epochs": 15,
    },
    "dgmn-personachat-gpu": {  # the code that its docstring names
        **READ,
        "task.model.hidden": 300,
        "task.model.features": 300,
        "task.model.filters": 32,
        "task.batch_size": 32,
        "task.optimization.learning_rate": 0.0001,
    },
    **{f"bert-personachat-{fusion}-gpu": BERT for fusion in FUSIONS},
    "persona_reranker-personachat-gpu": {"task.batch_size": 256},
    "persona_reranker-spc-gpu": {"task.batch_size": 512},
    "p5-personachat-gpu": {  # two lines, a question, a softmax over the candidates; as long as BERT can read
        "task.model.backbone": "google-bert/bert-base-uncased",
        "task.model.top": 2,
        "task.model.question": "what is your personality?",
        "task.model.longest": 512,
        "task.negatives.class_path": "personae.tasks.negatives.Drawn",
        "task.negatives.candidates": 20,
        "task.objective.kind": "listwise",
    },
    **{f"{name}-personachat-gpu": MEMORY for name in ("starspace", "profile_memory", "kv_profile_memory")},
    "ft_pc-personachat-gpu": FT_PC,
    "ft_pc-spc-gpu": FT_PC,
}

OTHER_DEFAULTS = {  # MiniLM where no backbone is named; what the paper of FIRE says; what the other word models read
    "task.model.backbone": None,
    "task.model.threshold": 0.3,
    "task.model.limits.utterances": 15,
}


def resolved(recipe: str) -> dict[str, Any]:
    """Every argument of a recipe by the name that it has on the command line."""
    return {name.replace(".init_args", ""): value for name, value in run.resolved(recipe, {}).items()}


def test_every_recipe_for_a_gpu_has_its_sizes_below() -> None:
    assert len(STATED) == 28
    chosen = {name for name in recipes.shipped() if name.startswith("selection/") and name.endswith("-gpu")}
    assert {f"selection/{name}" for name in STATED} == chosen


@pytest.mark.parametrize("name", STATED)
def test_a_recipe_for_a_gpu_has_the_sizes_of_its_paper(name: str) -> None:
    found = resolved(f"selection/{name}")
    assert {key: found[key] for key in STATED[name]} == STATED[name]


@pytest.mark.parametrize("name", STATED)
def test_the_defaults_are_those_of_the_paper(name: str, tmp_path: Path) -> None:
    """Of each model; of the task, those of the models that match words."""
    arguments = recipes.read(f"selection/{name}")
    model = {"class_path": arguments["task"]["init_args"]["model"]["class_path"]}
    arguments["task"]["init_args"] = {"model": model}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(arguments), encoding="utf-8")
    found = resolved(str(recipe))
    of = "task." if STATED[name].get("task.optimization.learning_rate") == 0.001 else "task.model."
    expected = {key: OTHER_DEFAULTS.get(key, value) for key, value in STATED[name].items() if key.startswith(of)}
    assert {key: found[key] for key in expected} == expected


def test_words_are_represented_as_in_the_papers() -> None:
    """But for GloVe, of which the package has 50 features, and a file may have the papers' 300."""
    words = Words()
    assert words.width == 50 + 100 + 150
    assert Words(glove="vectors.txt", glove_size=300).width == 300 + 100 + 150
    assert [(layer.kernel_size, layer.out_channels) for layer in words.convolutions] == [
        ((3,), 50),
        ((4,), 50),
        ((5,), 50),
    ]
    assert (words.longest, words.dropout.p) == (18, 0.2)


def test_layers_have_the_sizes_that_the_papers_state() -> None:
    """Of 200 units a direction, the greatest and the last state of both: 800 features a part."""
    assert DIM().classifier.hidden.weight.shape == (256, 4 * 800)
    assert HRE().classifier.hidden.weight.shape == (256, 3 * 800)
    assert len(FIRE().iterations) == 3
    dgmn = DGMN()
    assert dgmn.additive.score.in_features == 100
    for layers in dgmn.convolve.values():
        assert (layers.first.out_channels, layers.second.out_channels) == (32, 16)


UNPUBLISHED = {
    "ft_pc-personachat",
    "ft_pc-spc",
    "p5-personachat",
    "persona_reranker-personachat",
    "persona_reranker-spc",
    "imn-personachat-with-hre-ra",
    "imn-toy-ra",
    "p2bot-personachat",
    "p2bot-personachat-play",
    "seq2seq-planted-tf",
    "transfertransfo-personachat",
}
"""In no table of the papers, or with revised personas only."""


@pytest.mark.parametrize("name", recipes.shipped())
def test_what_is_said_to_be_published_is_what_is_trained(name: str) -> None:
    """Row "IMN-RA" or "IMN_ctx", column "self hits@1": the model, how it reads a persona, and whose."""
    found = resolved(name)
    if "paper.row" not in found:
        assert Path(name).name.removesuffix("-gpu") in UNPUBLISHED
        return
    if name.startswith("generation/"):
        _check_generation(found)
        return
    system, _, fusion = found["paper.row"].replace("_", "-").partition("-")
    model = {"Profile": "profile_memory", "KV Profile": "kv_profile_memory"}.get(system, system.lower())
    assert found["task.model.class_path"].split(".")[-2] == model
    *read, metric = found["paper.column"].split()
    assert metric == "hits@1"
    assert found.get("task.model.fusion", "").removeprefix("none") == fusion.lower()
    if found.get("task.model.fusion") == "none":
        assert read == []
    else:
        assert read[0] in (found["task.model.persona"], found["task.model.persona"] + "/original")


def _check_generation(found: dict[str, Any]) -> None:
    """Row "Memory+Speaker+TF" or "MiniLM-CA-Self": the model, what it knows of users, whose persona it reads."""
    model, row = found["task.model.class_path"].split(".")[-2], found["paper.row"]
    if row.startswith("MiniLM"):
        assert (model, found["paper.column"]) == ("minilm_seq2seq", "bleu")
        whose = row.removeprefix("MiniLM").removeprefix("-CA-").lower() or "none"
        assert found["task.model.persona"] == whose
        return
    parts = row.split("+")
    assert model == {"DialoGPT": "causal_lm"}.get(parts[0], parts[0].lower())
    assert ("TF" in parts) == ("task.model.tensor.ranks" in found)
    assert ("Speaker" in parts[1:]) == (model == "memory" and "task.model.speakers.class_path" in found)
    assert found["paper.column"] == "per-hits avg"


TENSOR = {  # tensor-factorization, section 5.4
    "task.model.tensor.ranks": (50, 50, 50),
    "task.model.tensor.question": "table",
    "task.model.tensor.balance": 0.2,
}

WRITER = {
    "task.model.sizes.hidden": 512,
    "task.model.sizes.layers": 2,
    "task.model.sizes.min_count": 4,
    "task.model.sizes.utterances": 1,
    "task.optimization.learning_rate": 0.001,
    "task.optimization.decay": 1.0,
    "task.decoding.kind": "sample",
    "task.decoding.top_k": 2,
    "task.select": "per-hits-avg",
}


@pytest.mark.parametrize("name", [name for name in recipes.shipped() if name.endswith("-ubuntu-tf-gpu")])
def test_generators_for_a_gpu_have_the_papers_sizes(name: str) -> None:
    found = resolved(name)
    wanted = {**TENSOR, **({} if "causal_lm" in name else WRITER)}
    assert {key: found[key] for key in wanted} == wanted
