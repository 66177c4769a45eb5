"""Generators that know users learn to write as those of `personae.data.planted` do, and a tensor helps those that
do not know them."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from personae import results, run
from personae.data.planted import Planted

HISTORY = {"class_path": "personae.nn.speakers.Speakers", "init_args": {"start": "history"}}
SIZES = {"width": 64, "hidden": 128, "min_count": 1}
USERS = 100


@dataclass(frozen=True)
class Case:
    """A model's class and arguments, what its tensor has besides a question, and how it is trained."""

    model: str
    arguments: dict[str, Any]
    tensor: dict[str, Any] = field(default_factory=dict)
    epochs: int = 30
    every: int = 5
    batch: int = 32
    rate: float = 0.003
    precision: str = "32-true"


CASES = {
    "seq2seq": Case("seq2seq.Seq2Seq", {"sizes": SIZES}),
    "speaker": Case("speaker.Speaker", {"sizes": SIZES, "speakers": HISTORY}),
    "memory": Case("memory.Memory", {"sizes": SIZES}),
    "memory+speaker": Case("memory.Memory", {"sizes": SIZES, "speakers": HISTORY}),
    "transformer": Case(
        "causal_lm.CausalLM",
        {"tune": "lora", "longest": 24, "reply": 24},
        tensor={"spread": 0.1, "alike": True},
        epochs=2,
        every=1,
        batch=16,
        rate=0.002,
        precision="bf16-mixed",
    ),
}

Trained = Callable[[str, str | None], Path]


def train(folder: Path, case: Case, question: str | None) -> Path:
    """The run of a case, by what stands for a question in its tensor (None without one)."""
    arguments = {**case.arguments, **({} if question is None else {"tensor": {"question": question, **case.tensor}})}
    quiet = ("logger", "enable_checkpointing", "enable_model_summary", "enable_progress_bar")
    recipe = {
        "task": {
            "class_path": "personae.tasks.generation.Generation",
            "init_args": {
                "model": {"class_path": f"personae.models.generation.{case.model}", "init_args": arguments},
                "batch_size": case.batch,
                "optimization": {"learning_rate": case.rate, "cooldown": 0.5, "decay": 1.0},
            },
        },
        "corpus": {"class_path": "personae.data.planted.Planted", "init_args": {"users": USERS}},
        "trainer": {
            "class_path": "lightning.Trainer",
            "init_args": {
                "max_epochs": case.epochs,
                "check_val_every_n_epoch": case.every,
                "precision": case.precision,
                "gradient_clip_val": 5.0,
                "accelerator": "cpu",
                "num_sanity_val_steps": 0,
                **dict.fromkeys(quiet, False),
            },
        },
    }
    folder.mkdir()
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    run.train(str(file), {}, out=folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("planted")
    return cache(lambda name, question: train(folder / f"{name}-{question}", CASES[name], question))


def hits(path: Path) -> float:
    value: float = results.read(path)[0]["metrics"][f"per-hits@1/{USERS}"]["value"]
    return value


def test_a_tensor_learns_who_users_are_in_a_few_epochs(tmp_path: Path) -> None:
    sizes = {**SIZES, "layers": 1}
    case = replace(CASES["seq2seq"], arguments={"sizes": sizes}, epochs=12, every=12, rate=0.006)
    path = train(tmp_path / "seq2seq", case, "encoder")
    assert hits(path) >= 10 / USERS
    corpus = Planted(users=USERS)
    _, rows = results.read(path)
    questions = {f"{dialogue.id}#1": str(dialogue.question) for dialogue in corpus.split("valid")}
    assert sum(corpus.styled(row.user, row.text) for row in rows) / len(rows) > 0.5  # 1/6 is chance
    assert len({row.text for row in rows if questions[row.id] == questions[rows[0].id]}) > 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("question", ["table", "encoder"])
@pytest.mark.parametrize("name", CASES)
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
