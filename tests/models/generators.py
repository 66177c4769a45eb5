"""Generators as small as they can be made, in every way there is: with and without a tensor, whose questions are looked
up or encoded, and vectors of users."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_backbone import write
from torch import Tensor

from personae import catalogue, run
from personae.data.candidates import examples
from personae.data.planted import Planted
from personae.nn.decoding import Decoding
from personae.tasks.base import Task
from personae.types import Dialogue, Example, InputError, Persona, Turn

Way = tuple[str, dict[str, Any]]
Make = Callable[..., Task]

SMALL: dict[str, Any] = {
    "sizes": {"width": 8, "hidden": 12, "layers": 2, "dropout": 0.1, "min_count": 1, "words": 20},
    "memories": 3,
    "longest": 128,
    "reply": 32,
}
"""What makes a model small: arguments by their names, given to those models that take them."""

BACKBONES = {"minilm_seq2seq": "bert"}
"""Those of models that are built on no causal language model."""

SPEAKERS = {"speaker"}
"""Models that have vectors of users in any case."""

TENSORS: dict[str, Any] = {
    name: {"ranks": [4, 5, 3], "question": name, "balance": 0.4, "spread": 0.5} for name in ("table", "encoder")
}
STARTS: dict[str, Any] = {
    "random": {"width": 5},
    "history": {"width": 3},
    "tf-u": {"factors": "FACTORS", "factor_width": 5},
    "history+tf-u": {"width": 3, "factors": "FACTORS", "factor_width": 5},
}
PLANTED = {"users": 6, "topics": 3, "answers": 5, "held_out": 1}
CLASSES = {model["name"]: model["class"] for model in catalogue.models() if "generation" in model["families"]}


@cache
def takes(name: str) -> Sequence[str]:
    """The arguments of a model."""
    module, _, constructor = CLASSES[name].rpartition(".")
    return list(inspect.signature(getattr(import_module(module), constructor)).parameters)


def ways(name: str) -> list[dict[str, Any]]:
    """How a model can be made: "tensor" is what stands for a question, "speakers" what users' vectors begin as."""
    tensors = [{}, *({"tensor": question} for question in TENSORS)] if "tensor" in takes(name) else [{}]
    if "speakers" not in takes(name):
        return tensors
    known = [{**way, "speakers": "random"} for way in tensors]
    return [*known, *({"speakers": start} for start in list(STARTS)[1:]), *(tensors if name not in SPEAKERS else [])]


WAYS: list[Way] = [(name, way) for name in CLASSES for way in ways(name)]
PERSONAL = [(name, way) for name, way in WAYS if way or name == "memory"]
WITH_TENSOR = [(name, way) for name, way in WAYS if "tensor" in way]


def called(way: Way) -> str:
    return "-".join((way[0], *way[1].values()))


def told(dialogue: Dialogue) -> Dialogue:
    """The dialogue with a persona of both, and every other one with two turns before the question."""
    speakers = [replace(speaker, persona=Persona((f"i am {speaker.id}",))) for speaker in dialogue.speakers]
    before = (Turn(1, "good day"), Turn(0, "yes yeah")) if dialogue.id.endswith(("1", "3")) else ()
    return replace(dialogue, speakers=(speakers[0], speakers[1]), turns=(*before, *dialogue.turns))


TRAIN, VALID = ([told(dialogue) for dialogue in Planted(**PLANTED).split(name)] for name in ("train", "valid"))
HELD_OUT = examples(VALID)
CASES = [*examples(TRAIN[::4]), *HELD_OUT]


def maker(root: Path, backbone: str) -> Make:
    """Makes a task with a model by a recipe below `root`, and prepares it; `changes` are arguments of the model, and
    `backbone` is a BERT."""
    (root / "causal").mkdir()
    folders = {"bert": backbone, "causal": write(root / "causal", "llama")}
    places = iter(range(10**6))

    def make(way: Way, *, folder: Path | None = None, seed: int = 0, prepared: bool = True, **changes: Any) -> Task:
        name, parts = way
        arguments = {**SMALL, "backbone": folders[BACKBONES.get(name, "causal")]}
        if "tensor" in parts:
            arguments["tensor"] = TENSORS[parts["tensor"]]
        if "speakers" in parts:
            start = {**STARTS[parts["speakers"]], "start": parts["speakers"]}
            if "factors" in start:
                start["factors"] = str(factors())
            arguments["speakers"] = {"class_path": "personae.nn.speakers.Speakers", "init_args": start}
        for key, value in changes.items():
            arguments[key] = {**arguments[key], **value} if isinstance(value, dict) else value
        model = {key: value for key, value in arguments.items() if key in takes(name)}
        made = {"model": {"class_path": CLASSES[name], "init_args": model}, "optimization": {"learning_rate": 0.01}}
        recipe = {"task": {"class_path": "personae.tasks.generation.Generation", "init_args": made}, "seed": seed}
        folder = folder or root / str(next(places))
        folder.mkdir(exist_ok=True)
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        torch.manual_seed(seed)
        try:
            task = run.build(str(folder / "recipe.yaml")).eval()
            if prepared:
                task.prepare(TRAIN)
        except InputError as error:
            if "not installed" not in str(error):
                raise
            pytest.skip(str(error))
        return task

    @cache
    def factors() -> Path:
        run.save(make(("seq2seq", {"tensor": "table"}), folder=root / "factors"), root / "factors")
        return root / "factors"

    return make


def learn(task: Task, steps: int = 3, seed: int = 0) -> Task:
    """Some steps of training on the cases."""
    optimizer = task.configure_optimizers()["optimizer"]
    task.train()
    for step in range(steps):
        torch.manual_seed(1000 * seed + step)
        optimizer.zero_grad()
        task.model.loss(task.model.collate(CASES)).backward()
        optimizer.step()
    return task.eval()


@torch.no_grad()
def likelihoods(task: Task, cases: Sequence[Example]) -> tuple[Tensor, Tensor]:
    sums, tokens = task.model.log_likelihood(task.model.collate(cases))
    return sums, tokens


@torch.no_grad()
def texts(task: Task, cases: Sequence[Example], **how: Any) -> list[list[str]]:
    found: list[list[str]] = task.model.generate(task.model.collate(cases), Decoding(**{"longest": 12, **how}))
    return found


def asked(case: Example, **changes: Any) -> Example:
    return replace(case, context=replace(case.context, **changes))


def of_user(case: Example, name: str, **changes: Any) -> Example:
    """The case, as if somebody else replied."""
    return asked(case, speakers=(case.context.speakers[0], replace(case.user, id=name, **changes)))
