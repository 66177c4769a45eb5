"""Generators that know users learn to write as those of `personae.data.planted` do, and a tensor helps those that
do not know them."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from personae import results, run
from personae.data.planted import Planted

HISTORY = {"class_path": "personae.nn.speakers.Speakers", "init_args": {"start": "history"}}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "seq2seq": ("seq2seq.Seq2Seq", {}),
    "speaker": ("speaker.Speaker", {"speakers": HISTORY}),
    "memory": ("memory.Memory", {}),
    "memory+speaker": ("memory.Memory", {"speakers": HISTORY}),
    "transformer": ("causal_lm.CausalLM", {"tune": "lora", "longest": 24, "reply": 24}),
}
USERS = 100

Trained = Callable[[str, str | None], Path]


def train(
    folder: Path,
    name: str,
    question: str | None,
    *,
    epochs: int = 30,
    every: int = 5,
    rate: float = 0.003,
    layers: int = 2,
    spread: float = 1.0,
) -> Path:
    """The run of a model, by its name and what stands for a question in its tensor (None without one)."""
    module, parts = MODELS[name]
    sizes = {} if name == "transformer" else {"sizes": {"width": 64, "hidden": 128, "layers": layers, "min_count": 1}}
    arguments = {**sizes, **parts}
    if question is not None:
        arguments["tensor"] = {"question": question, "spread": spread}
    quiet = ("logger", "enable_checkpointing", "enable_model_summary", "enable_progress_bar")
    trainer = {"max_epochs": epochs, "check_val_every_n_epoch": every, "gradient_clip_val": 5.0, "accelerator": "cpu"}
    recipe = {
        "task": {
            "class_path": "personae.tasks.generation.Generation",
            "init_args": {
                "model": {"class_path": f"personae.models.generation.{module}", "init_args": arguments},
                "batch_size": 16 if name == "transformer" else 32,
                "optimization": {"learning_rate": rate, "cooldown": 0.5, "decay": 1.0},
            },
        },
        "corpus": {"class_path": "personae.data.planted.Planted", "init_args": {"users": USERS}},
        "trainer": {
            "class_path": "lightning.Trainer",
            "init_args": {**trainer, "num_sanity_val_steps": 0, **dict.fromkeys(quiet, False)},
        },
    }
    if name == "transformer":
        recipe["trainer"]["init_args"]["precision"] = "bf16-mixed"
    file = folder / f"{name}-{question}.yaml"
    file.write_text(yaml.safe_dump(recipe))
    run.train(str(file), {}, out=folder / f"{name}-{question}")
    return folder / f"{name}-{question}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("planted")
    own: dict[str, dict[str, Any]] = {"transformer": {"epochs": 2, "every": 1, "rate": 0.002, "spread": 0.02}}
    return cache(lambda name, question: train(folder, name, question, **own.get(name, {})))


def hits(path: Path) -> float:
    value: float = results.read(path)[0]["metrics"][f"per-hits@1/{USERS}"]["value"]
    return value


def test_a_tensor_learns_who_users_are_in_a_few_epochs(tmp_path: Path) -> None:
    path = train(tmp_path, "seq2seq", "encoder", epochs=12, every=12, rate=0.006, layers=1)
    assert hits(path) >= 10 / USERS
    corpus = Planted(users=USERS)
    _, rows = results.read(path)
    questions = {f"{dialogue.id}#1": str(dialogue.question) for dialogue in corpus.split("valid")}
    assert sum(corpus.styled(row.user, row.text) for row in rows) / len(rows) > 0.5  # 1/6 is chance
    assert len({row.text for row in rows if questions[row.id] == questions[rows[0].id]}) > 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("question", ["table", "encoder"])
@pytest.mark.parametrize("name", MODELS)
def test_with_a_tensor_replies_are_of_their_users(name: str, question: str, trained: Trained) -> None:
    path = trained(name, question)
    assert hits(path) >= 10 / USERS
    found = results.compare(path, trained(name, None))["metrics"]
    for metric in (f"per-hits@1/{USERS}", f"per-hits-avg/{USERS}"):
        difference = found[metric]["difference"]
        if name in ("seq2seq", "transformer"):
            assert difference["low"] > 0
            assert found[metric]["wilcoxon"]["p"] < 0.01
        else:  # it knows the user in any case
            assert difference["low"] > -0.05


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_without_users_replies_are_of_anybody(trained: Trained) -> None:
    metrics = results.read(trained("seq2seq", None))[0]["metrics"]
    assert metrics[f"per-hits@1/{USERS}"]["low"] <= 1 / USERS + 0.02
    assert hits(trained("seq2seq", None)) < 0.05
