import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from personae import results, run
from personae.data import jsonl
from personae.data.candidates import examples
from personae.data.planted import Planted
from personae.metrics import per_hits
from personae.metrics.ngram import NgramModels
from personae.metrics.ranking import ranks
from personae.nn.decoding import Decoding
from personae.tasks.generation import Generation, Judges
from personae.text import standard, words
from personae.types import Dialogue, Example, InputError, Speaker, Spoken, Turn

PLANTED = {"users": 6, "topics": 3, "answers": 5, "held_out": 1}
TINY = {"width": 4, "hidden": 5, "layers": 1, "min_count": 1}
TENSOR = {"ranks": [2, 2, 2]}


@dataclass(frozen=True)
class Inputs:
    examples: Sequence[Example]

    def to(self, device: torch.device | str) -> "Inputs":
        return self


class Parrot(nn.Module):
    """Says what was last said; each letter of a reply costs it half a nat."""

    tokens = "letter"

    def prepare(self, dialogues: Sequence[Dialogue]) -> None:
        self.known = dialogues

    def collate(self, examples: Sequence[Example]) -> Inputs:
        return Inputs(examples)

    def size(self, example: Example) -> int:
        return len(example.target.text)

    def loss(self, batch: Inputs) -> Tensor:
        return torch.tensor(0.5)

    def log_likelihood(self, batch: Inputs) -> tuple[Tensor, Tensor]:
        tokens = torch.tensor([len(example.target.text) + 1 for example in batch.examples])
        return tokens * -0.5, tokens

    def generate(self, batch: Inputs, decoding: Decoding) -> list[list[str]]:
        return [[example.context.turns[-1].text] for example in batch.examples]


def recipe(folder: Path, *, corpus: dict[str, Any] | None = None, tensor: bool = True, **task: Any) -> str:
    """A file of a recipe that trains a tiny model for a moment."""
    model = {"sizes": TINY, **({"tensor": TENSOR} if tensor else {})}
    made = {"class_path": "personae.models.generation.seq2seq.Seq2Seq", "init_args": model}
    quiet = ("logger", "enable_checkpointing", "enable_model_summary", "enable_progress_bar")
    trainer = {"max_epochs": 2, "accelerator": "cpu", "num_sanity_val_steps": 0, "val_check_interval": 2}
    whole = {
        "task": {
            "class_path": "personae.tasks.generation.Generation",
            "init_args": {"model": made, "batch_size": 8, "decoding": {"longest": 6}, **task},
        },
        "corpus": corpus or {"class_path": "personae.data.planted.Planted", "init_args": PLANTED},
        "trainer": {"class_path": "lightning.Trainer", "init_args": {**trainer, **dict.fromkeys(quiet, False)}},
        "save_every": 1,
    }
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(whole))
    return str(file)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    run.train(recipe(folder), {}, out=folder / "run")
    return folder / "run"


def files(folder: Path) -> dict[str, Any]:
    """A corpus of three files, of users who have no history."""
    for name in ("train", "dev", "valid"):
        jsonl.write(Planted(**PLANTED).split(name), folder / f"{name}.jsonl")
    paths = {"train": [str(folder / "train.jsonl")], "dev": str(folder / "dev.jsonl")}
    return {
        "class_path": "personae.data.files.Files",
        "init_args": {**paths, "valid": str(folder / "valid.jsonl")},
    }


def course(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "training.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "cpu_seconds"} for line in lines]


def test_of_a_dialogue_with_a_question_the_last_turn_is_the_example() -> None:
    turns = tuple(Turn(place % 2, f"text {place}") for place in range(4))
    dialogue = Dialogue("d", (Speaker("a"), Speaker("b")), turns, question="what")
    (example,) = Generation(model=Parrot()).cases([dialogue], "here", sides="both")[0]
    assert (example.target, example.context.turns, example.id) == (turns[3], turns[:3], "d#3")
    free = replace(dialogue, question=None)
    assert [each.id for each in examples([free])] == ["d#1", "d#3"]
    assert [each.id for each in examples([free], sides="both")] == ["d#1", "d#2", "d#3"]
    with pytest.raises(InputError, match="here: holds no reply to a turn before it; let speaker 1 be the one who"):
        Generation(model=Parrot()).cases([replace(dialogue, turns=turns[:1])], "here")


def test_what_is_measured_is_what_the_model_says() -> None:
    cases = examples(Planted().split("valid"))
    task = Generation(model=Parrot())
    batches = task.held_out(cases)
    sizes = [[len(example.target.text) for example in batch.examples] for batch in batches]
    assert sorted(size for batch in sizes for size in batch) == sorted(len(case.target.text) for case in cases)
    assert all(len(batch) <= 64 for batch in sizes)
    apart = sorted((min(batch), max(batch)) for batch in sizes)
    assert all(before[1] <= after[0] for before, after in pairwise(apart))  # alike in size
    rows = results.predict(task, cases)
    assert [row.id for row in rows] == [case.id for case in cases]
    for case, row in zip(cases, rows, strict=True):
        assert (row.user, row.text, row.reference) == (case.user.id, case.context.turns[-1].text, case.target.text)
        assert (row.nll, row.tokens) == (0.5 * row.tokens, len(case.target.text) + 1)
    values = task.values(rows)
    assert values["log-likelihood"] == pytest.approx(-0.5)
    measured = task.measure(rows)
    assert measured["perplexity/letter"].value == pytest.approx(np.exp(0.5))
    assert {name: value.value for name, value in measured.items()} == pytest.approx(
        {name: value for name, value in values.items() if name != "log-likelihood"}
    )


def test_users_are_judged_by_their_own_language() -> None:
    corpus = Planted(users=30)
    cases = examples(corpus.split("valid"))
    task = Generation(model=Parrot())
    rows = results.predict(task, cases)
    users = list(dict.fromkeys(case.user.id for case in cases))
    said = {case.user.id: case.user.history for case in cases}
    models = NgramModels([[words(standard(text)) for text in said[user]] for user in users])
    owners = [case.user.id for case in cases]
    for name, texts in (
        ("rank", [case.context.turns[-1].text for case in cases]),
        ("real", [case.target.text for case in cases]),
    ):
        perplexities = models.perplexities([words(standard(text)) for text in texts])
        found = per_hits.rows(perplexities, users, owners)
        assert [getattr(row, name) for row in rows] == ranks(found).tolist()
        wanted = per_hits.metrics(found)
        if name == "rank":
            values = task.values(rows)
            assert {metric: values[metric] for metric in wanted} == pytest.approx(
                {metric: np.mean(each) for metric, each in wanted.items()}
            )
        else:
            real = task.beside(rows)["real"]
            assert all(real[metric]["value"] == pytest.approx(np.mean(wanted[metric])) for metric in wanted)
    assert {row.users for row in rows} == {30}
    assert task.beside(rows)["chance"] == per_hits.chance(30)


def spoken(user: str, text: str) -> Spoken:
    return Spoken(f"{user}#{text}", user, text, text, 1.0, 1)


def test_judges_of_rough_histories() -> None:
    twins = ("i like the sea", "the sea is cold")
    histories = {"ann": twins, "bob": twins, "cid": ("one message only",), "dan": ("zebra", "")}
    judges = Judges(histories)
    rows = judges.judged([spoken("ann", "the sea"), spoken("bob", "the sea"), spoken("cid", "one message")])
    assert [row.rank for row in rows] == [1.5, 1.5, 1]  # of those alike, the mean place
    assert rows == judges.judged([spoken("ann", "the sea"), spoken("bob", "the sea"), spoken("cid", "one message")])
    for row in judges.judged([spoken("ann", ""), spoken("dan", "unheard of"), spoken("cid", "zebra")]):
        assert row.rank is not None
        assert 1 <= row.rank <= 4
        assert row.real == row.rank
        assert row.users == 4


def test_judges_of_a_hundred_thousand_messages_are_quick() -> None:
    drawn = random.Random(0)
    vocabulary = [f"word{number}" for number in range(2000)]
    many = tuple(" ".join(drawn.choices(vocabulary, k=6)) for _ in range(100_000))
    start = time.process_time()
    judges = Judges({"many": many, **{f"user-{number}": many[number : number + 3] for number in range(20)}})
    rows = judges.judged([spoken("many", text) for text in many[:200]])
    assert time.process_time() - start < 60
    assert {row.users for row in rows} == {21}


@pytest.mark.parametrize("blank", ["", " \t"])
def test_where_a_user_said_nothing_none_is_judged(blank: str) -> None:
    cases = examples(Planted(**PLANTED).split("valid"))
    mute = [replace(case.context.speakers[1], history=(blank, blank)) for case in cases[:1]]
    cases[0] = replace(cases[0], context=replace(cases[0].context, speakers=(cases[0].context.speakers[0], mute[0])))
    task = Generation(model=Parrot(), select="f1")
    rows = results.predict(task, cases)
    assert {row.rank for row in rows} == {None}
    assert task.beside(rows) == {}
    assert not any(name.startswith("per-hits") for name in task.values(rows))


def test_a_run_of_a_generator(finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["n"] == 6
    assert metrics["data"]["candidates"] is None
    assert {"per-hits@1/6", "per-hits-avg/6", "f1", "bleu-4/corpus", "perplexity/word"} <= set(metrics["metrics"])
    assert metrics["chance"]["per-hits@1/6"] == pytest.approx(1 / 6)
    assert metrics["real"]["per-hits@1/6"]["value"] > 0.5
    told, rows = results.read(finished)
    assert [type(row) for row in rows] == [Spoken] * 6
    lines = course(finished)
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    best = max(lines, key=lambda line: (line["per-hits-avg"], -line["step"]))["step"]
    assert json.loads((finished / "environment.json").read_text())["best_step"] == best
    task = run.load(str(finished))
    again = results.predict(task, task.cases(list(Planted(**PLANTED).split("valid")), "valid")[0])
    assert [row.text for row in again] == [row.text for row in rows]
    assert results.compare(finished, finished)["metrics"]["f1"]["difference"]["value"] == 0
    assert told["metrics"] == metrics["metrics"]


def test_a_run_resumed_from_any_point_is_one_that_was_never_interrupted(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[Path] = []
    save = lightning.Trainer.save_checkpoint

    def spy(self: lightning.Trainer, path: Path, weights_only: bool) -> None:
        save(self, path, weights_only=weights_only)
        folders.append(tmp_path / str(len(folders)))
        for file in (file for file in (tmp_path / "run").rglob("*") if file.is_file()):
            to = folders[-1] / file.relative_to(tmp_path / "run")
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(file.read_bytes())

    monkeypatch.setattr(lightning.Trainer, "save_checkpoint", spy)
    run.train(recipe(tmp_path), {}, out=tmp_path / "run")
    monkeypatch.setattr(lightning.Trainer, "save_checkpoint", save)
    assert len(folders) == 8
    for folder in (tmp_path / "run", *folders[::3]):
        if folder != tmp_path / "run":
            run.train(None, {}, out=folder, resume=True)
        for name in ("model.safetensors", "predictions.jsonl"):
            assert (folder / name).read_bytes() == (finished / name).read_bytes()
        assert course(folder) == course(finished)


def test_without_histories_weights_are_selected_by_log_likelihood(tmp_path: Path) -> None:
    given = recipe(tmp_path, corpus=files(tmp_path), tensor=False, select="log-likelihood")
    result = run.train(given, {}, out=tmp_path / "run")
    assert not any(name.startswith("per-hits") for name in result["metrics"])
    assert "chance" not in result
    lines = course(tmp_path / "run")
    best = max(lines, key=lambda line: (line["log-likelihood"], -line["step"]))
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["best_step"] == best["step"]
    on_dev = run.evaluate(str(tmp_path / "run"), str(tmp_path / "dev.jsonl"))["metrics"]["perplexity/word"]["value"]
    assert on_dev == pytest.approx(np.exp(-best["log-likelihood"]), rel=1e-4)


@pytest.mark.parametrize("users", [0, 4])
def test_where_per_hits_cannot_be_measured_it_selects_nothing(users: int, tmp_path: Path) -> None:
    planted = {**PLANTED, "users": users, "answers": 7}
    corpus = {"class_path": "personae.data.planted.Planted", "init_args": planted} if users else files(tmp_path)
    message = r"task\.select: per-hits-avg wants at least 5 users, .* or select by log-likel"
    with pytest.raises(InputError, match=message):
        run.train(recipe(tmp_path, corpus=corpus), {"save_every": "200"}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_users_whom_the_model_does_not_know_are_told_of(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = list(Planted(**PLANTED).split("valid"))
    stranger = replace(told[0], id="other", speakers=(told[0].speakers[0], Speaker("nobody")))
    jsonl.write([*told, stranger], tmp_path / "told.jsonl")
    run.evaluate(str(finished), str(tmp_path / "told.jsonl"))
    assert "told.jsonl: 1 of " in caplog.text
    assert "users, such as nobody, are not known" in caplog.text
    caplog.clear()
    jsonl.write(told, tmp_path / "known.jsonl")
    run.evaluate(str(finished), str(tmp_path / "known.jsonl"))
    assert "not known" not in caplog.text


def test_a_file_of_dialogues_with_questions_is_evaluated(finished: Path, tmp_path: Path) -> None:
    told = [
        replace(dialogue, turns=(Turn(1, "hello"), *dialogue.turns)) for dialogue in Planted(**PLANTED).split("valid")
    ]
    jsonl.write(told, tmp_path / "told.jsonl")
    result = run.evaluate(str(finished), str(tmp_path / "told.jsonl"), out=tmp_path / "out")
    assert result["n"] == len(told) == 6  # and not the first turn of theirs
    _, rows = results.read(tmp_path / "out")
    assert [row.reference for row in rows] == [dialogue.turns[-1].text for dialogue in told]
    _, before = results.read(finished)
    assert [row.nll for row in rows] == pytest.approx([row.nll for row in before], rel=1e-4)
    with pytest.raises(InputError, match=r"--candidates 5: .*is given none; leave the option out"):
        run.evaluate(str(finished), str(tmp_path / "told.jsonl"), candidates=5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task.model.sizes.hidden": "0"}, r"task\.model\.sizes\.hidden: 0 is not at least 1"),
        ({"task.model.sizes.dropout": "2"}, r"task\.model\.sizes\.dropout: 2\.0 is not at least 0 and less than 1"),
        ({"task.model.sizes.hiden": "8"}, r"task\.model\.sizes\.hiden: Sizes takes no hiden, did you mean hidden\?"),
        ({"task.model.sizes.min_count": "99"}, r"task\.model\.sizes\.min_count: no word .* occurs 99 times"),
        ({"task.model.tensor.balance": "-1"}, r"task\.model\.tensor\.balance: -1\.0 is not between 0 and 1"),
        ({"task.model.tensor.ranks": "[1, 0, 2]"}, r"task\.model\.tensor\.ranks: \[1, 0, 2\] are not three numbers"),
        ({"task.model.tensor.question": "x"}, r"task\.model\.tensor\.question: .*table, encoder.* x$"),
        ({"task.model.tensor.lambda": "1"}, r"task\.model\.tensor\.lambda: Factorization takes no lambda; it takes"),
        ({"task.select": "loss"}, r"task\.select: .*per-hits-avg, log-likelihood"),
        ({"task.batch_size": "0"}, r"task: batch_size must be at least 1, not 0"),
        ({"task.decoding.top_k": "0"}, r"decoding\.top_k: 0 is not at least 1"),
        ({"task.decoding.kind": "best"}, r"task\.decoding\.kind: .*sample, greedy, beam"),
        (
            {
                "task.model": "{class_path: personae.models.generation.speaker.Speaker, init_args: {speakers: "
                "{class_path: personae.nn.speakers.Speakers, init_args: {start: tf-u}}}}"
            },
            r"task\.model\.speakers\.factors: start is tf-u; name the run",
        ),
        (
            {"task.model": "{class_path: personae.models.generation.memory.Memory, init_args: {memories: 0}}"},
            r"task\.model\.memories: 0 is not at least 1",
        ),
    ],
)
def test_mistakes_of_a_recipe_are_named(changes: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        run.train(recipe(tmp_path), changes, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
