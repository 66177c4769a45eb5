"""A table made again, of a paper invented here, on the generated corpus: real runs, as small as they can be."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from personae import recipes, results, run, shelf
from personae.cli import main
from personae.data import jsonl, toy
from personae.published import Table, page, plans
from personae.published.plans import Plan
from personae.reproduce import reproduce
from personae.types import Dialogue, InputError, Persona

DIALOGUES = 120
TASK = {
    "class_path": "personae.tasks.selection.Selection",
    "init_args": {
        "model": {
            "class_path": "personae.models.selection.hre.HRE",
            "init_args": {
                "hidden": 4,
                "features": 4,
                "words": {
                    "class_path": "personae.nn.words.Words",
                    "init_args": {"glove_size": 0, "task": 0, "filters": 2},
                },
            },
        },
        "batch_size": 16,
    },
}
TRAINER = {
    "class_path": "lightning.Trainer",
    "init_args": {
        "max_steps": 4,
        "val_check_interval": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    },
}
PRINTED = {
    "table1": Table(
        columns=("self hits@1", "self mrr", "partner hits@1", "partner mrr"),
        rows={
            "Counter": (30.0, None, None, None),
            "Encoder": (50.0, 60.0, 40.0, 45.0),
            "Writer": (70.0, None, None, None),
        },
    ),
    "table2": Table(
        columns=("hits@1",), rows={"Encoder": (50.0,), "Encoder, later": (48.0,), "Encoder, told": (49.0,)}
    ),
    "table3": Table(columns=("cases/second",), rows={"Encoder": (100.0,), "Counter": (2000.0,)}),
}
WITHOUT = "no training dialogues with revised personas"

Make = Callable[..., dict[str, Any]]


def revised(dialogue: Dialogue) -> Dialogue:
    """Under another id, with personas in other words."""
    speakers = tuple(
        replace(one, persona=Persona(tuple(f"so to say , {fact}" for fact in one.persona.facts)))
        for one in dialogue.speakers
    )
    return replace(dialogue, id=f"{dialogue.id}-revised", speakers=(speakers[0], speakers[1]))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the corpus, a recipe and the runs are."""
    folder = tmp_path_factory.mktemp("paper")
    corpus = toy.Selection(dialogues=DIALOGUES)
    for name in ("train", "dev", "valid"):
        dialogues = list(corpus.split(name))
        jsonl.write(dialogues, folder / f"{name}.jsonl")
        jsonl.write(map(revised, dialogues), folder / f"{name}-revised.jsonl")
    files = {name: str(folder / f"{name}.jsonl") for name in ("dev", "valid")}
    recipe = {
        "task": TASK,
        "corpus": {
            "class_path": "personae.data.files.Files",
            "init_args": {"train": [str(folder / "train.jsonl")], **files},
        },
        "trainer": TRAINER,
    }
    (folder / "encoder.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def plan(place: Path, table: str, **systems: Mapping[str, Any]) -> Plan:
    said = {
        "words": "- **hits@1**: how often the first choice is right.",
        "stands_in": "Another corpus stands in for the paper's.",
        "remarks": "",
        "forms": {
            "original": {"file": str(place / "valid.jsonl")},
            "revised": {"file": str(place / "valid-revised.jsonl"), "why": WITHOUT},
        },
        "columns": {"self": {"persona": "self"}, "partner": {"persona": "partner"}},
        "systems": {
            "Counter": {"model": "tfidf"},
            "Encoder": {"recipe": str(place / "encoder.yaml")},
            "Writer": {"why": "a generator"},
            **systems,
        },
        "tables": {
            "table1": {
                "title": "two personas",
                "asks": "Whose persona helps?",
                "claims": {"self": {"Encoder": ["Counter", "Encoder @ partner", "table2/Encoder, told"]}},
            },
            "table2": {
                "title": "transfer",
                "asks": "Does it carry over?",
                "persona": "self",
                "claims": {"*": {"Encoder": ["Encoder, later"]}},
                "rows": {
                    "Encoder, later": {"recipe": str(place / "encoder.yaml"), "measured": "revised"},
                    "Encoder, told": {
                        "recipe": str(place / "encoder.yaml"),
                        "trained": "revised",
                        "measured": "revised",
                    },
                },
            },
            "table3": {"title": "speed", "asks": "How fast?", "persona": "self"},
        },
    }
    return plans.make(f"invented/{table}", "An Invented Paper (NOWHERE 2026)", PRINTED, said)


@pytest.fixture(scope="module")
def made(place: Path) -> dict[str, Any]:
    """The first table, made once, and what was said."""
    said: list[str] = []
    content = reproduce(plan(place, "table1"), runs=place / "runs", out=place / "one", say=said.append)
    return {"content": content, "said": said, "rows": cells(content)}


def cells(content: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["system"], row["column"]): row for row in content["rows"]}


def weights(place: Path) -> dict[str, int]:
    """When each run was trained."""
    return {file.parent.name: file.stat().st_mtime_ns for file in place.glob("runs/*/model.safetensors")}


def test_what_is_to_be_done_is_said_first(made: dict[str, Any]) -> None:
    said = "\n".join(made["said"])
    assert re.search(r"encoder: to be trained\n.*encoder-partner: to be trained", said, re.DOTALL)
    assert "tfidf-self: needs no training" in said
    most = next(line for line in made["said"] if "at most" in line)
    assert most.startswith("2 to train, 3 to measure: at most 1 h ")  # of which 66 minutes are training's
    assert made["said"].index(most) < next(n for n, line in enumerate(made["said"]) if line.startswith("training "))


def test_every_number_of_the_paper_stands_beside_ours_or_a_reason(made: dict[str, Any], place: Path) -> None:
    rows = made["rows"]
    assert len(rows) == sum(len(numbers) for numbers in PRINTED["table1"].rows.values())
    for (system, column), row in rows.items():
        numbers = dict(zip(PRINTED["table1"].columns, PRINTED["table1"].rows[system], strict=True))
        assert row["published"] == numbers[column]
        assert ("why" in row) == (row["ours"] is None)
        assert row["budget"] == "cpu-small"
    assert {row["why"] for row in rows.values() if "why" in row} == {"a generator", "the paper has no number here"}
    assert rows["Counter", "self mrr"]["published"] is None  # and yet it is measured
    assert rows["Counter", "self mrr"]["ours"] > 0
    encoder = rows["Encoder", "partner hits@1"]
    measured = json.loads((place / "runs" / "encoder-partner" / "metrics.json").read_text())
    assert encoder["ours"] == pytest.approx(100 * measured["metrics"]["hits@1/20"]["value"])
    assert encoder["low"] <= encoder["ours"] <= encoder["high"]
    assert encoder["n"] == measured["n"]
    assert (encoder["unit"], encoder["persona"], encoder["seed"], encoder["stopped"]) == ("%", "partner", 0, False)
    assert encoder["trained"] == [str(place / "train.jsonl")]
    assert encoder["measured"] == measured["data"]


def test_an_ordering_is_tested_on_the_same_replies(made: dict[str, Any]) -> None:
    claims = {(claim["column"], claim["worse"]): claim for claim in made["content"]["claims"]}
    assert set(claims) == {
        *(("self hits@1", worse) for worse in ("Counter", "Encoder (partner)", "Encoder, told (table2, persona self)")),
        ("self mrr", "Encoder (partner)"),  # the others have no MRR in the paper
    }
    claim = claims["self hits@1", "Counter"]
    rows = made["rows"]
    assert claim["published"] == 20
    assert claim["ours"] == pytest.approx(
        rows["Encoder", "self hits@1"]["ours"] - rows["Counter", "self hits@1"]["ours"]
    )
    assert claim["test"] == "McNemar"
    assert claims["self mrr", "Encoder (partner)"]["test"] == "paired t"
    for one in claims.values():
        if "why" not in one:
            assert one["found"] == ("yes" if one["low"] > 0 else "no, the reverse" if one["high"] < 0 else "not shown")
    spent = rows["Encoder", "self hits@1"]["cpu_seconds"]
    assert claim["cpu_seconds"] == [spent, None]
    assert claims["self mrr", "Encoder (partner)"]["cpu_seconds"] == [
        spent,
        rows["Encoder", "partner mrr"]["cpu_seconds"],
    ]
    absent = claims["self hits@1", "Encoder, told (table2, persona self)"]
    assert (absent["ours"], absent["why"]) == (None, "not run: Encoder, told (table2, persona self)")


def test_the_page_the_picture_and_the_numbers_are_of_one_make(made: dict[str, Any], place: Path) -> None:
    assert sorted(file.name for file in (place / "one").iterdir()) == ["table.json", "table.md", "table.svg"]
    assert json.loads((place / "one" / "table.json").read_text()) == made["content"]
    page = (place / "one" / "table.md").read_text()
    for text in ("An Invented Paper", "Whose persona helps?", "how often the first choice", "stands in", "### partner"):
        assert text in page
    row = made["rows"]["Encoder", "self hits@1"]
    assert row["guessed"]  # it was trained for four steps
    numbers = f"| Encoder | 50.0 | **{row['ours']:.1f}** [{row['low']:.1f}, {row['high']:.1f}], a guess | 60.0 |"
    assert numbers in page
    line = next(line for line in page.splitlines() if line.startswith(numbers))
    share = round(4 * 16 / row["replies"], 2)  # steps of a batch
    assert f"| {row['n']} | self | cpu-small | original, {share} × {row['replies']:,} replies | valid.jsonl |" in line
    assert f"official `{row['measured']['candidates']['sha256'][:12]}`" in line
    mark = re.search(r"\| Writer \| 70\.0 \| (\([a-z]\)) \| - \| \1 \|", page)
    assert mark is not None
    assert f"- {mark[1]} not run: a generator" in page
    assert f"| {row['cpu_seconds']:,.0f} and none |" in page
    assert f"personae reproduce invented/table1 --budget cpu-small --runs {place / 'runs'}" in page
    assert "not run:\n\n- Encoder over Encoder, told (table2, persona self), in self hits@1\n" in page
    assert "small enough for a processor" in page
    bound = "- Bound of 00:00:30:00 (days, hours, minutes, seconds): `encoder`, `encoder-partner`."
    assert bound in page
    assert "- Ended by a bound: none." in page
    assert "(shared)" not in page
    assert "not 300" in page  # why numbers are low
    picture = (place / "one" / "table.svg").read_bytes()
    assert ElementTree.fromstring(picture).tag.endswith("svg")
    again = place / "again"
    reproduce(plan(place, "table1"), runs=place / "runs", out=again)
    assert (again / "table.svg").read_bytes() == picture


def test_what_is_finished_is_used_again_also_by_another_table(made: dict[str, Any], place: Path) -> None:
    before = weights(place)
    said: list[str] = []
    content = reproduce(plan(place, "table2"), runs=place / "runs", out=place / "two", say=said.append)
    assert weights(place) == before
    assert "  encoder: finished before" in said
    assert "0 to train, 1 to measure: at most 0 h 1 min" in said
    rows = cells(content)
    assert rows["Encoder", "hits@1"]["ours"] == made["rows"]["Encoder", "self hits@1"]["ours"]
    later = json.loads((place / "runs" / "encoder" / "on-revised" / "metrics.json").read_text())
    assert later["data"]["path"] == str(place / "valid-revised.jsonl")
    assert rows["Encoder, later", "hits@1"]["measured"] == later["data"]
    assert rows["Encoder, told", "hits@1"]["why"] == WITHOUT
    said.clear()
    assert cells(reproduce(plan(place, "table2"), runs=place / "runs", out=place / "two", say=said.append)) == rows
    (claim,) = content["claims"]  # of the same replies, with personas in other words
    assert (claim["worse"], claim["n"]) == ("Encoder, later", rows["Encoder", "hits@1"]["n"])
    assert claim["ours"] == pytest.approx(rows["Encoder", "hits@1"]["ours"] - rows["Encoder, later", "hits@1"]["ours"])
    assert "0 to train, 0 to measure: at most 0 h 1 min" in said
    own = place / "runs" / "encoder" / "metrics.json"
    before_that = own.read_text()
    own.write_text(json.dumps({**json.loads(before_that), "weights": "0" * 64}))  # as if training had gone on since
    reproduce(plan(place, "table2"), runs=place / "runs", out=place / "two", say=said.append)
    assert "0 to train, 1 to measure: at most 0 h 1 min" in said
    own.write_text(json.dumps({**json.loads(before_that), "weights": None}))  # of a version that did not say it
    said.clear()
    reproduce(plan(place, "table2"), runs=place / "runs", out=place / "two", say=said.append)
    own.write_text(before_that)
    assert "0 to train, 0 to measure: at most 0 h 1 min" in said


def test_a_file_of_revised_personas_may_be_named(made: dict[str, Any], place: Path, tmp_path: Path) -> None:
    file = str(place / "train-revised.jsonl")
    only = ["Encoder, told"]
    content = reproduce(plan(place, "table2"), runs=tmp_path, out=tmp_path / "out", revised_train=file, only=only)
    row = cells(content)["Encoder, told", "hits@1"]
    assert (row["run"], row["wording"], row["trained"]) == ("encoder-revised", "revised", [file])
    assert row["measured"]["path"] == str(place / "valid-revised.jsonl")
    assert cells(content)["Encoder", "hits@1"]["why"] == "left out by --only"
    assert content["command"].endswith(f"--revised_train {file} --only 'Encoder, told'")


def test_another_file_to_train_on_may_be_named(place: Path, tmp_path: Path) -> None:
    file = str(place / "dev.jsonl")
    content = reproduce(plan(place, "table2"), runs=tmp_path, out=tmp_path / "out", train=file, only=["Encoder"])
    row = cells(content)["Encoder", "hits@1"]
    assert (row["run"], row["wording"], row["trained"]) == ("encoder-original", "original", [file])
    assert row["measured"]["path"] == str(place / "valid.jsonl")
    assert f"--train {file}" in content["command"]


def test_an_interrupted_run_is_resumed(made: dict[str, Any], place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "runs" / "encoder", tmp_path / "encoder")
    for name in ("metrics.json", "predictions.jsonl", "model.safetensors", "environment.json"):
        (tmp_path / "encoder" / name).unlink()
    said: list[str] = []
    content = reproduce(plan(place, "table2"), runs=tmp_path, out=tmp_path / "out", only=["Encoder"], say=said.append)
    assert "  encoder: to be resumed" in said
    assert cells(content)["Encoder", "hits@1"]["ours"] == made["rows"]["Encoder", "self hits@1"]["ours"]


def test_a_run_of_another_recipe_is_not_used(made: dict[str, Any], place: Path, tmp_path: Path) -> None:
    changed = yaml.safe_load((place / "encoder.yaml").read_text())
    changed["task"]["init_args"]["model"]["init_args"]["hidden"] = 6
    (tmp_path / "encoder.yaml").write_text(yaml.safe_dump(changed))
    other = plan(place, "table1", Encoder={"recipe": str(tmp_path / "encoder.yaml")})
    before = weights(place)
    with pytest.raises(InputError, match=r"encoder: is not the run that .*task\.model\.hidden is 4, not 6\); move it"):
        reproduce(other, runs=place / "runs", out=tmp_path / "out")
    assert weights(place) == before
    left = cells(reproduce(other, runs=place / "runs", out=tmp_path / "out", only=["Counter"]))
    assert left["Encoder", "self hits@1"]["ours"] is None
    (tmp_path / "runs" / "encoder").mkdir(parents=True)
    (tmp_path / "runs" / "encoder" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"it has no recipe\.yaml"):
        reproduce(other, runs=tmp_path / "runs", out=tmp_path / "out")


def test_a_run_stands_beside_the_number_of_its_own_cell(place: Path, tmp_path: Path) -> None:
    """Though its recipe names that of another; which cell it is trained for does not decide what it is."""
    real, invented = plans.read("dim/table4"), plan(place, "table2")
    recipe = yaml.safe_load((place / "encoder.yaml").read_text())
    recipe["paper"] = {"name": "dim", "table": "table3", "row": "DIM", "column": "self/original hits@1"}
    (tmp_path / "dim.yaml").write_text(yaml.safe_dump(recipe))
    made = {"recipe": str(tmp_path / "dim.yaml"), "changes": {}}
    cells = [replace(cell, **made) for cell in real.cells if cell.system != "DIM"]
    ours = replace(real, forms=invented.forms, cells=tuple(cells), claims=())
    reproduce(ours, runs=tmp_path / "runs", out=tmp_path / "out")
    found = [json.loads(file.read_text())["published"] for file in sorted(tmp_path.glob("runs/*/metrics.json"))]
    assert [(one["table"], one["row"], one["column"], one["value"]) for one in found] == [
        ("table4", "DIM - context", "hits@1", 48.8),
        ("table4", "DIM - persona", "hits@1", 63.8),
    ]
    interrupted = tmp_path / "runs" / "dim-none"
    for name in ("metrics.json", "predictions.jsonl", "model.safetensors", "environment.json"):
        (interrupted / name).unlink()
    before = weights(tmp_path)
    other = replace(ours, cells=tuple(replace(cell, system="DIM") for cell in cells))
    reproduce(other, runs=tmp_path / "runs", out=tmp_path / "out")
    assert before.items() < weights(tmp_path).items()
    assert json.loads((interrupted / "metrics.json").read_text())["published"]["row"] == "DIM"


@pytest.mark.parametrize(
    ("damaged", "content", "message"),
    [
        ("encoder/predictions.jsonl", "{", r"predictions\.jsonl:1: is damaged"),
        ("encoder/metrics.json", "{}", r"metrics\.json: is damaged"),
        ("encoder/environment.json", "{}", r"environment\.json: is damaged"),
        ("encoder/on-revised/predictions.jsonl", "", r"predictions\.jsonl: the file is empty"),
        ("encoder/model.safetensors", "", r"model\.safetensors or config\.json is damaged"),
    ],
)
def test_damage_is_found_before_anything_is_trained(
    made: dict[str, Any], place: Path, tmp_path: Path, damaged: str, content: str, message: str
) -> None:
    shutil.copytree(place / "runs" / "encoder", tmp_path / "encoder")
    shutil.rmtree(tmp_path / "encoder" / "on-revised", ignore_errors=True)
    if "on-revised" in damaged:
        run.evaluate(
            str(tmp_path / "encoder"), str(place / "valid-revised.jsonl"), out=tmp_path / "encoder" / "on-revised"
        )
    (tmp_path / damaged).write_text(content)
    file = str(place / "train-revised.jsonl")
    with pytest.raises(InputError, match=message):
        reproduce(plan(place, "table2"), runs=tmp_path, out=tmp_path / "out", revised_train=file)
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]


def test_what_is_measured_on_is_not_trained_on(place: Path, tmp_path: Path) -> None:
    shutil.copy(place / "valid.jsonl", tmp_path / "copy.jsonl")
    measured, copy = str(place / "valid.jsonl"), str(tmp_path / "copy.jsonl")
    train, same = str(place / "train.jsonl"), str(tmp_path / "same.jsonl")
    shutil.copy(train, same)
    for given, message in (
        (
            {"train": measured},
            r"valid\.jsonl: 30 of its 30 dialogues are in --train .*valid\.jsonl too",
        ),
        ({"train": copy}, r"valid\.jsonl: 30 of its 30 dialogues are in --train .*copy\.jsonl too"),
        ({"revised_train": copy}, r"valid\.jsonl: 30 of its 30 dialogues are in --revised_train .*copy\.jsonl too"),
        ({"train": train, "revised_train": same}, r"--train, --revised_train: are the same file"),
    ):
        with pytest.raises(InputError, match=message):
            reproduce(plan(place, "table2"), runs=tmp_path / "runs", out=tmp_path / "out", **given)
    assert not (tmp_path / "runs").exists()


def test_a_stage_may_come_first(place: Path, tmp_path: Path) -> None:
    shutil.copy(place / "encoder.yaml", tmp_path / "stage.yaml")
    staged = plan(
        place, "table2", Encoder={"recipe": str(place / "encoder.yaml"), "first": str(tmp_path / "stage.yaml")}
    )
    said: list[str] = []
    reproduce(staged, runs=tmp_path, out=tmp_path / "out", only=["Encoder"], say=said.append)
    order = [line.split()[1] for line in said if line.startswith("training")]
    assert order == ["stage", "encoder"]
    assert yaml.safe_load((tmp_path / "encoder" / "recipe.yaml").read_text())["init_from"] == str(tmp_path / "stage")
    with pytest.raises(InputError, match=r"init_from is .*stage', not None"):
        reproduce(plan(place, "table2"), runs=tmp_path, out=tmp_path / "out", only=["Encoder"])


def test_a_speed_is_of_untrained_models(place: Path, tmp_path: Path) -> None:
    some = plan(place, "table3", Encoder={"recipe": str(place / "encoder.yaml"), "cases": 40})
    said: list[str] = []
    rows = cells(reproduce(some, runs=tmp_path, out=tmp_path / "out", say=said.append))
    row = rows["Encoder", "cases/second"]
    assert row["low"] <= row["ours"] <= row["high"]
    assert (row["n"], row["batch"], row["unit"]) == (40, 32, "cases/s")
    assert rows["Counter", "cases/second"]["n"] > 40
    assert not (tmp_path / "encoder").exists()
    assert "| Encoder | 100.0 |" in (tmp_path / "out" / "table.md").read_text()
    assert cells(reproduce(some, runs=tmp_path, out=tmp_path / "out")) == rows
    kept = json.loads((tmp_path / "speed" / "encoder.json").read_text())
    kept["environment"]["threads"] += 1  # as if it were another machine's
    (tmp_path / "speed" / "encoder.json").write_text(json.dumps(kept))
    said.clear()
    reproduce(some, runs=tmp_path, out=tmp_path / "out", say=said.append)
    assert "timing encoder" in said
    assert "timing tfidf-self" not in said
    all_of_them = cells(reproduce(plan(place, "table3"), runs=tmp_path, out=tmp_path / "out", only=["Encoder"]))
    assert all_of_them["Encoder", "cases/second"]["n"] > 40


def test_a_run_that_its_bound_stopped_says_so(place: Path, tmp_path: Path) -> None:
    changes = {"trainer.max_steps": "-1", "trainer.max_epochs": "-1", "trainer.max_time": "00:00:00:02"}
    run.train(str(place / "encoder.yaml"), changes, out=tmp_path / "run")
    spent = shelf.spent(shelf.Job(tmp_path / "run", str(place / "encoder.yaml")))
    assert spent["stopped"]
    assert spent["bound"] == "00:00:00:02"
    assert spent["cpu_seconds"] > 0


def test_a_run_that_took_longer_than_the_budget_says_so(place: Path, tmp_path: Path) -> None:
    run.train(str(place / "encoder.yaml"), {}, out=tmp_path / "encoder")
    spent = shelf.spent(shelf.Job(tmp_path / "encoder", str(place / "encoder.yaml")))
    assert (spent["bound"], spent["epochs"]) == (None, round(4 * 16 / spent["replies"], 2))
    for seconds, budget in ((1700, "cpu-small"), (1900, "by hand")):
        spent = json.loads((tmp_path / "encoder" / "environment.json").read_text())
        (tmp_path / "encoder" / "environment.json").write_text(json.dumps({**spent, "cpu_seconds": seconds}))
        rows = cells(reproduce(plan(place, "table2"), runs=tmp_path, out=tmp_path / "out"))
        assert rows["Encoder", "hits@1"]["budget"] == budget
        page = (tmp_path / "out" / "table.md").read_text()
        assert ("`encoder` was trained by hand, 1,900 processor seconds" in page) == (budget == "by hand")
        assert "Bound of" not in page


def test_rows_and_columns_may_be_named_in_words(made: dict[str, Any], place: Path, tmp_path: Path) -> None:
    named = replace(plan(place, "table2"), rows_are="made of", columns_are="measured on")
    shutil.copytree(place / "runs" / "encoder", tmp_path / "runs" / "encoder")
    reproduce(named, runs=tmp_path / "runs", out=tmp_path / "out")
    page = (tmp_path / "out" / "table.md").read_text()
    assert "| made of | hits@1, paper |" in page
    assert "made of Encoder over made of Encoder, later" in page


def test_orderings_are_told_of_where_there_are_some(place: Path, tmp_path: Path) -> None:
    some = plan(place, "table1")
    content = reproduce(some, runs=tmp_path / "runs", out=tmp_path, only=["Counter"])
    text = page.markdown(some, content)
    assert "Not looked at, since one of the two was not run:\n\n- Encoder over Counter" in text
    assert "Orderings looked at" not in text


def test_a_context_that_is_read_once_for_all_candidates_is_marked(tmp_path: Path) -> None:
    content = reproduce(plans.read("persona-fusion/table3"), shipped=True, out=tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert re.findall(r"^\| (\S+) \(shared\) \|", text, re.MULTILINE) == ["BERT"]
    assert text.count("*(shared)*: context and persona are read once") == 1
    assert {row["system"] for row in content["rows"] if row.get("shared")} == {"BERT"}


def test_a_speed_is_not_taken_from_another_machine(tmp_path: Path) -> None:
    content = reproduce(plans.read("persona-fusion/table6"), shipped=True, out=tmp_path)
    assert {row["why"] for row in content["rows"]} == {
        "a speed is one of a machine; leave --shipped out to measure that of yours"
    }


def test_what_has_learnt_nothing_is_marked(tmp_path: Path) -> None:
    content = reproduce(plans.read("persona-fusion/table2"), shipped=True, out=tmp_path)
    assert {row["system"] for row in content["rows"] if row["guessed"]} == {"HRE partner", "BERT partner"}
    text = (tmp_path / "table.md").read_text()
    assert re.search(r"HRE self over HRE partner \| .* \| yes, over a guess \|", text)
    assert re.search(r"IMN self over IMN partner \| .* \| yes \|", text)


def test_a_row_of_another_table_is_named_once() -> None:
    claims = plans.read("persona-fusion/table5").claims
    assert {claim.named for claim in claims if claim.worse.table.endswith("table4")} == {"IMN-RA (table4, self)"}


def test_a_backbone_may_lie_elsewhere(tmp_path: Path) -> None:
    recipe = "selection/bert-personachat-cra-gpu"
    arguments = recipes.read(recipe)
    for backbone, unlike in (("/here/bert-base-uncased", False), ("/here/bert-large-uncased", True)):
        arguments["task"]["init_args"]["model"]["init_args"]["backbone"] = backbone
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(arguments))
        assert bool(shelf.differences(shelf.Job(tmp_path, recipe))) == unlike


def test_what_a_run_starts_from_is_counted_too(place: Path, tmp_path: Path) -> None:
    recipe, made = str(place / "encoder.yaml"), {}
    for name in ("first", "second"):
        run.train(recipe, {}, out=tmp_path / name)
        made[name] = shelf.spent(shelf.Job(tmp_path / name, recipe))
    both = shelf.spent(shelf.Job(tmp_path / "second", recipe, first=shelf.Job(tmp_path / "first", recipe)))
    assert both["cpu_seconds"] == made["first"]["cpu_seconds"] + made["second"]["cpu_seconds"]
    assert both["trained"] == [*made["first"]["trained"], *made["second"]["trained"]]
    assert not both["stopped"]


def test_mistakes_are_named_before_anything_is_trained(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=r"no row 'Decoder'; choose of: Counter, Encoder, Writer"):
        reproduce(plan(place, "table1"), runs=tmp_path, out=tmp_path / "out", only=["Decoder"])
    with pytest.raises(InputError, match=r"gpu-full: no such recipe: .*encoder\.yaml-gpu \(for Encoder\)"):
        reproduce(plan(place, "table1"), runs=tmp_path, out=tmp_path / "out", budget="gpu-full")
    with pytest.raises(InputError, match=r"nosuch\.jsonl: there is nothing at"):
        reproduce(plan(place, "table1"), runs=tmp_path, out=tmp_path / "out", revised_train="nosuch.jsonl")
    with pytest.raises(InputError, match=r"is a folder: give one of its files"):
        reproduce(plan(place, "table1"), runs=tmp_path, out=tmp_path / "out", revised_train=str(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--runs .*file: is a file; name a folder"):
        reproduce(plan(place, "table1"), runs=tmp_path / "file", out=tmp_path / "out")
    with pytest.raises(InputError, match=r"--out .*file: is a file; name a folder"):
        reproduce(plan(place, "table1"), runs=tmp_path, out=tmp_path / "file")
    (tmp_path / "file").unlink()
    for name in ("dim", "dim/table9", "nosuch/table2", "../dim/table2"):
        assert main(["reproduce", name]) == 2
        assert f"there is no table {name!r} to reproduce; choose one of dim/table2, " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_is_recorded_is_laid_out_without_the_corpus(
    made: dict[str, Any], place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = shelf.record(place / "runs", tmp_path / "kept")
    assert {"encoder", "encoder-partner", "tfidf-self/on-original"} <= set(names)
    assert not list(tmp_path.rglob("*.safetensors"))
    monkeypatch.setattr("personae.published.records", lambda: tmp_path / "kept")
    elsewhere = plan(place, "table1")
    monkeypatch.setattr(shelf.results, "sha256", None)  # the corpus is not read
    content = reproduce(elsewhere, shipped=True, out=tmp_path / "out")
    numbers = ("ours", "low", "high", "n", "cpu_seconds", "run", "why")
    found, expected = cells(content), made["rows"]
    assert {key: [row.get(name) for name in numbers] for key, row in found.items()} == {
        key: [row.get(name) for name in numbers] for key, row in expected.items()
    }
    assert [claim["p"] for claim in content["claims"]] == [claim["p"] for claim in made["content"]["claims"]]
    assert content["command"].endswith("--shipped")
    shutil.rmtree(tmp_path / "kept" / "encoder-partner")
    left = cells(reproduce(elsewhere, shipped=True, out=tmp_path / "out"))
    assert left["Encoder", "partner mrr"]["why"] == "not measured for this version"
    with pytest.raises(InputError, match="--shipped: is of this version's own runs"):
        reproduce(elsewhere, shipped=True, runs=tmp_path, out=tmp_path / "out")


def test_what_recorded_runs_took_is_said_beside_the_most(
    made: dict[str, Any], place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results.record(place / "runs" / "encoder", tmp_path / "kept" / "encoder")
    spent = tmp_path / "kept" / "encoder" / "environment.json"
    spent.write_text(json.dumps({**json.loads(spent.read_text()), "cpu_seconds": 1200}))
    monkeypatch.setattr("personae.published.records", lambda: tmp_path / "kept")
    said: list[str] = []
    reproduce(plan(place, "table1"), runs=tmp_path / "runs", out=tmp_path / "out", say=said.append)
    (most,) = (line for line in said if " to train" in line)  # the other of the two counts as the one that is recorded
    assert re.fullmatch(
        r"2 to train, 3 to measure: at most 1 h \d+ min, about 0 h 4[1-4] min by what this version's own runs took",
        most,
    )


def test_only_finished_runs_are_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs" / "begun").mkdir(parents=True)
    (tmp_path / "runs" / "begun" / "recipe.yaml").write_text("task: {}")
    for given, out, message in (
        ("runs", "kept", "holds no finished run"),
        ("nosuch", "kept", "is no folder"),
        ("runs/begun", "kept", "is a run folder itself"),
        ("runs", "runs", "is what is recorded, or a file"),
        ("runs", "runs/begun/recipe.yaml", "is what is recorded, or a file"),
    ):
        assert main(["record", str(tmp_path / given), "--out", str(tmp_path / out)]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "kept").exists()


def test_a_record_is_no_model(made: dict[str, Any], place: Path, tmp_path: Path) -> None:
    shelf.record(place / "runs", tmp_path / "kept")
    with pytest.raises(InputError, match="is a record of a run, which has no weights"):
        run.load(str(tmp_path / "kept" / "encoder"))


@pytest.mark.timeout(600)
def test_the_command(corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [
        "reproduce",
        "dim/table2",
        "--only",
        "IR baseline",
        "--runs",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*given, "--json"]) == 0
    rows = cells(json.loads(capsys.readouterr().out))
    assert len(rows) == 10
    row = rows["IR baseline", "hits@1"]
    assert set(row) >= {"system", "column", "published", "ours", "low", "high", "n", "budget"}
    assert (row["published"], row["n"]) == (21.4, 7801)
    assert row["ours"] == pytest.approx(21.8, abs=0.05)  # as docs/results.md has it
    assert main(given) == 0
    assert "IR baseline" in capsys.readouterr().out
