"""Tables and figures of systems that write replies, of a paper invented here, on the generated corpus of users: real
runs, as small as they can be."""

import json
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from scipy import stats
from tiny_backbone import write_words

from personae import recipes, results, run, shelf, written_tables
from personae.cli import main
from personae.data.candidates import examples
from personae.data.planted import Planted
from personae.data.toy import Selection
from personae.metrics.compare import Interval, paired, ratio, wilcoxon
from personae.metrics.compare_spoken import compare_spoken
from personae.metrics.text import ceiling, focused, measure, per_reply
from personae.published import Table, written
from personae.published.written import Written
from personae.tasks.generation import Judges
from personae.types import InputError

USERS, REPLIES = 12, 36
CORPUS = {"users": USERS, "topics": 6, "answers": 4, "held_out": 3}
TRAINER = {
    "max_epochs": 2,
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}
HITS = tuple(f"per-hits@{k}" for k in range(1, 6))
COLUMNS = ("f1", "bleu", "distinct-2", "ppl", "per-hits@1", "per-hits avg")
PRINTED = {
    "table1": Table(
        columns=COLUMNS,
        rows={
            "Guess": (None, None, None, None, 0.2, 0.6),
            "Real": (None, None, 45.0, None, 9.0, 18.0),
            "Plain": (14.0, 1.2, 4.0, 90.0, 0.6, 1.0),
            "Known": (15.0, 1.4, 14.0, 95.0, 1.0, 2.5),
            "Plain+TF": (15.5, 1.6, 16.0, 100.0, 2.0, 4.0),
        },
    ),
    "table2": Table(columns=COLUMNS, rows={"Real": (None, None, 70.0, None, 100.0, 100.0), "Plain+TF": (22.0,) * 6}),
    "table3": Table(columns=COLUMNS, rows={"Random": (15.0,) * 6, "TF-u": (16.0,) * 6}),
    "table4": Table(columns=("per-hits@1", "per-hits avg"), rows={"1": (9.8, 14.9), "all": (2.0, 4.2)}),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where recipes, a transformer and runs are."""
    folder = tmp_path_factory.mktemp("paper")
    for name, model, parts in (
        ("plain", "seq2seq.Seq2Seq", {}),
        ("plain-tf", "seq2seq.Seq2Seq", {"tensor": {"ranks": [4, 5, 3], "question": "table", "spread": 0.5}}),
        ("known", "speaker.Speaker", {"speakers": speakers("random", width=5)}),
    ):
        sizes = {"width": 8, "hidden": 12, "layers": 1, "min_count": 1}
        made = {"class_path": f"personae.models.generation.{model}", "init_args": {"sizes": sizes, **parts}}
        task = {"model": made, "batch_size": 16, "optimization": {"learning_rate": 0.01}}
        recipe = {
            "task": {"class_path": "personae.tasks.generation.Generation", "init_args": task},
            "corpus": {"class_path": "personae.data.planted.Planted", "init_args": CORPUS},
            "trainer": {"class_path": "lightning.Trainer", "init_args": TRAINER},
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    known = {word for one in Planted(**CORPUS).split("train") for turn in one.turns for word in turn.text.split()}
    (folder / "llama").mkdir()
    write_words(folder / "llama", sorted(known), hidden=16)
    return folder


def speakers(start: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": "personae.nn.speakers.Speakers", "init_args": {"start": start, **arguments}}


def plan(place: Path, table: str, **more: Any) -> Written:
    tf = str(place / "plain-tf.yaml")
    curve = {"recipe": tf, "argument": "task.model.tensor.balance", "values": {0.0: 0.0, 0.2: None, 1.0: 1.0}}
    said = {
        "words": "- **F1**: how much is alike.",
        "stands_in": "Another corpus stands in for the paper's.",
        "remarks": "One run each.",
        "efforts": {"cpu-small": "Hardly any training.", "gpu-full": "More of it."},
        "columns": {
            "f1": {"metric": "f1"},
            "bleu": {"metric": "bleu-4/corpus"},
            "distinct-2": {"metric": "distinct-2/corpus"},
            "ppl": {"metric": "perplexity", "scale": 1},
            **{name: {"metric": name} for name in HITS},
            "per-hits avg": {"metric": "per-hits-avg"},
        },
        "systems": {
            "Guess": {"kind": "chance"},
            "Real": {"kind": "real"},
            "Plain": {"recipe": str(place / "plain.yaml")},
            "Known": {"recipe": str(place / "known.yaml")},
            "Plain+TF": {"recipe": tf},
        },
        "pairs": [["Plain+TF", "Plain"]],
        "ratio": ["Plain+TF", "Plain", "per-hits avg"],
        "tables": {
            "table1": {"title": "with and without", "asks": "Does it help?"},
            "table2": {"title": "focused", "asks": "Does it help there?", "most": 1},
            "table3": {
                "title": "beginnings",
                "asks": "What do vectors begin as?",
                "rows": {
                    "Random": {"recipe": str(place / "known.yaml")},
                    "TF-u": {
                        "recipe": str(place / "known.yaml"),
                        "changes": {"task.model.speakers": speakers("tf-u", factor_width=5)},
                        "suffix": "start-tf-u",
                        "factors": tf,
                    },
                },
                "pairs": [["TF-u", "Random"]],
            },
            "table4": {
                "title": "sets",
                "asks": "Is there more where there is more to find?",
                "rows": {"1": {"recipe": tf, "most": 1}, "all": {"recipe": tf}},
            },
            "figure3": {
                "title": "balance",
                "asks": "How much?",
                "shows": [*HITS, "per-hits avg"],
                "curves": {"λ": {"axis": "balance λ", **curve}, "μ": {"axis": "balance again", **curve}},
            },
            "figure4": {
                "title": "two scorers",
                "asks": "Does the scorer matter?",
                "rows_of": "table1",
                "scorers": {"published": 0.9, "users": 8, "backbone": str(place / "llama")},
            },
        },
    }
    said["tables"][table] |= more
    return written.make(f"invented/{table}", "An Invented Paper (NOWHERE 2026)", PRINTED, said)


@pytest.fixture(scope="module")
def made(place: Path) -> dict[str, Any]:
    """The first table, made once, and what was said."""
    said: list[str] = []
    content = written_tables.reproduce(plan(place, "table1"), runs=place / "runs", out=place / "one", say=said.append)
    return {"content": content, "said": said, "rows": cells(content)}


def cells(content: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["system"], row["column"]): row for row in content["rows"]}


def weights(runs: Path) -> dict[str, int]:
    """When each run was trained."""
    return {file.parent.name: file.stat().st_mtime_ns for file in runs.glob("*/model.safetensors")}


def again(place: Path, table: str, out: Path, **options: Any) -> dict[str, Any]:
    return written_tables.reproduce(plan(place, table), runs=place / "runs", out=out, **options)


def test_what_is_to_be_done_is_said_first(made: dict[str, Any]) -> None:
    said = made["said"]
    assert said[1:4] == ["  plain: to be trained", "  known: to be trained", "  plain-tf: to be trained"]
    assert said[4] == "3 to train: at most 1 h 40 min, besides writing what is measured"  # 30 each, and 3 to begin
    assert said[5] == "training plain (1 of 3), at most 30 minutes"


def test_every_number_stands_beside_ours_in_one_unit(made: dict[str, Any], place: Path) -> None:
    rows = made["rows"]
    assert list(rows) == [(system, column) for system in PRINTED["table1"].rows for column in COLUMNS]
    for (system, column), row in rows.items():
        assert row["published"] == PRINTED["table1"].rows[system][COLUMNS.index(column)]
        assert set(row) >= {"system", "column", "published", "ours", "low", "high", "n", "budget"}
        assert ("why" in row) == (row["ours"] is None)
    told, replies = results.read(place / "runs" / "plain-tf")
    expected = measure(replies, tokens="word")
    for column, name, scale in (
        ("f1", "f1", 100),
        ("bleu", "bleu-4/corpus", 100),
        ("distinct-2", "distinct-2/corpus", 100),
        ("ppl", "perplexity/word", 1),
        ("per-hits@1", f"per-hits@1/{USERS}", 100),
        ("per-hits avg", f"per-hits-avg/{USERS}", 100),
    ):
        row, value = rows["Plain+TF", column], expected[name]
        assert (row["ours"], row["low"], row["high"]) == pytest.approx(
            tuple(scale * end for end in (value.value, value.low, value.high))
        )
        assert row["ours"] == pytest.approx(scale * told["metrics"][name]["value"])
        assert (row["n"], row["run"], row["seed"], row["stopped"], row["epochs"]) == (REPLIES, "plain-tf", 0, False, 2)
    assert rows["Guess", "per-hits@1"]["ours"] == pytest.approx(100 / USERS)
    assert rows["Guess", "per-hits avg"]["ours"] == pytest.approx(300 / USERS)
    real = measure(ceiling(replies), tokens="word")
    assert rows["Real", "per-hits avg"]["ours"] == pytest.approx(100 * real[f"per-hits-avg/{USERS}"].value)
    assert rows["Real", "distinct-2"]["ours"] == pytest.approx(100 * real["distinct-2/corpus"].value)
    assert rows["Real", "f1"]["why"] == "the paper has no number here"


def test_a_row_and_its_counterpart_are_compared_on_the_same_replies(made: dict[str, Any], place: Path) -> None:
    pairs = {row["column"]: row for row in made["content"]["pairs"]}
    assert list(pairs) == list(COLUMNS)
    a, b = (results.read(place / "runs" / name)[1] for name in ("plain-tf", "plain"))
    expected = compare_spoken(a, b, tokens="word")["metrics"]
    for column, name, scale, test in (
        ("f1", "f1", 100, "t_test"),
        ("distinct-2", "distinct-2/corpus", 100, "t_test"),
        ("ppl", "perplexity/word", 1, "t_test"),
        ("per-hits avg", f"per-hits-avg/{USERS}", 100, "wilcoxon"),
    ):
        row, difference = pairs[column], expected[name]["difference"]
        assert row["ours"] == pytest.approx(scale * difference["value"])
        assert (row["low"], row["high"]) == pytest.approx((scale * difference["low"], scale * difference["high"]))
        assert row["p"] == expected[name][test]["p"]
        assert row["test"] == {"wilcoxon": "Wilcoxon", "t_test": "paired t"}[test]
        assert row["found"] in ("yes", "not shown", "no, the reverse")
    assert pairs["f1"]["published"] == 1.5
    name = f"per-hits-avg/{USERS}"
    values = [per_reply(each)[name] for each in (a, b)]
    assert pairs["per-hits avg"]["p"] == wilcoxon(*values)
    assert pairs["per-hits avg"]["ours"] == pytest.approx(100 * paired(*values, [row.user for row in a]).value)
    found, times = made["content"]["ratio"], ratio(*values, [row.user for row in a])
    assert found["published"] == 4.0
    assert times is not None
    assert (found["ours"], found["low"], found["high"]) == pytest.approx((times.value, times.low, times.high))


def test_a_finding_is_what_the_paper_finds_or_the_reverse() -> None:
    def outcome(lead: float | None, low: float | None, high: float | None) -> str | None:
        value = 0.0 if low is None or high is None else (low + high) / 2
        return written_tables._outcome(lead, Interval(value, low, high, 9))

    assert outcome(2.0, 0.1, 0.5) == outcome(-2.0, -0.5, -0.1) == "yes"
    assert outcome(-2.0, 0.1, 0.5) == outcome(2.0, -0.5, -0.1) == "no, the reverse"
    assert outcome(2.0, -0.1, 0.5) == "not shown"
    assert outcome(None, 0.1, 0.5) is outcome(0.0, 0.1, 0.5) is outcome(2.0, None, None) is None


def test_the_page_the_picture_and_the_numbers_are_of_one_make(made: dict[str, Any], place: Path) -> None:
    assert sorted(file.name for file in (place / "one").iterdir()) == ["table.json", "table.md", "table.svg"]
    assert json.loads((place / "one" / "table.json").read_text()) == made["content"]
    page = (place / "one" / "table.md").read_text()
    counts = Planted(**CORPUS).counts()
    assert f"has {counts['users']} users, {counts['questions']} questions" in page
    assert f"{counts['filled']:,} cells are filled, {100 * counts['density']:.3f} %" in page
    for text in ("An Invented Paper", "Does it help?", "how much is alike", "stands in", "Hardly any training."):
        assert text in page
    rows = made["rows"]
    row = rows["Plain", "f1"]
    assert f"| Plain | 14 / **{row['ours']:.2f}** [{row['low']:.2f}, {row['high']:.2f}] | 1.2 / " in page
    seconds = f"{row['cpu_seconds']:,.0f}"
    assert re.search(rf"\| `plain` \| Plain \| 0 \| 2 × 48 replies \| {seconds} \| its recipe \| cpu-small \|", page)
    assert f"who guesses has an average Per-Hits of {300 / USERS:.2f} %" in page
    assert "Plain+TF has 4.0 times the per-hits avg of Plain in the paper" in page
    assert f"personae reproduce invented/table1 --budget cpu-small --runs {place / 'runs'}" in page
    picture = (place / "one" / "table.svg").read_bytes()
    assert ElementTree.fromstring(picture).tag.endswith("svg")
    before = weights(place / "runs")
    again(place, "table1", place / "again")
    assert (place / "again" / "table.svg").read_bytes() == picture
    assert weights(place / "runs") == before


def test_the_focused_set_has_what_the_users_really_said(made: dict[str, Any], place: Path, tmp_path: Path) -> None:
    replies = results.read(place / "runs" / "plain-tf")[1]
    some = focused(replies, 1)
    assert 0 < len(some) < REPLIES
    rows = cells(again(place, "table2", tmp_path))
    expected = measure(some, tokens="word")
    assert rows["Plain+TF", "bleu"]["ours"] == pytest.approx(100 * expected["bleu-4/corpus"].value)
    assert rows["Plain+TF", "per-hits avg"]["ours"] == pytest.approx(100 * expected[f"per-hits-avg/{USERS}"].value)
    assert (rows["Plain+TF", "f1"]["n"], rows["Plain+TF", "f1"]["most"]) == (len(some), 1)
    assert rows["Real", "per-hits@1"]["ours"] == 100
    rows = cells(again(place, "table4", tmp_path))
    assert rows["1", "per-hits avg"]["ours"] == pytest.approx(100 * expected[f"per-hits-avg/{USERS}"].value)
    assert [rows[row, "per-hits avg"]["n"] for row in ("1", "all")] == [len(some), REPLIES]
    assert rows["all", "per-hits avg"]["ours"] == made["rows"]["Plain+TF", "per-hits avg"]["ours"]


def test_vectors_begin_as_the_factors_of_another_run_which_is_trained_before(place: Path, tmp_path: Path) -> None:
    said: list[str] = []
    content = written_tables.reproduce(
        plan(place, "table3"), runs=tmp_path / "runs", out=tmp_path, only=["TF-u"], say=said.append
    )
    assert said[1:3] == ["  plain-tf: to be trained", "  known-start-tf-u: to be trained"]
    kept = recipes.read(str(tmp_path / "runs" / "known-start-tf-u" / "recipe.yaml"))
    given = kept["task"]["init_args"]["model"]["init_args"]["speakers"]["init_args"]
    assert (given["start"], given["factors"]) == ("tf-u", str(tmp_path / "runs" / "plain-tf"))
    rows = cells(content)
    assert rows["Random", "f1"]["why"] == "left out by --only"
    assert rows["TF-u", "f1"]["run"] == "known-start-tf-u"
    own = json.loads((tmp_path / "runs" / "known-start-tf-u" / "environment.json").read_text())["cpu_seconds"]
    first = json.loads((tmp_path / "runs" / "plain-tf" / "environment.json").read_text())["cpu_seconds"]
    assert rows["TF-u", "f1"]["cpu_seconds"] == pytest.approx(own + first)
    assert {row["why"] for row in content["pairs"]} == {"not run: Random"}
    shutil.move(tmp_path / "runs", tmp_path / "moved")  # the run is still the one that the table needs
    content = written_tables.reproduce(plan(place, "table3"), runs=tmp_path / "moved", out=tmp_path, only=["TF-u"])
    assert cells(content) == rows


def test_a_figure_has_a_run_for_each_value(made: dict[str, Any], place: Path, tmp_path: Path) -> None:
    before = weights(place / "runs")
    content = again(place, "figure3", tmp_path)
    after = weights(place / "runs")
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"plain-tf-balance-0-0", "plain-tf-balance-1-0"}
    rows = cells(content)
    assert [row for row, column in rows if column == "per-hits avg"] == [
        f"{axis} = {value}" for axis in "λμ" for value in ("0.0", "0.2", "1.0")
    ]
    assert rows["λ = 0.2", "per-hits avg"]["ours"] == made["rows"]["Plain+TF", "per-hits avg"]["ours"]
    told = results.about(place / "runs" / "plain-tf-balance-1-0" / "metrics.json")["metrics"]
    assert rows["λ = 1.0", "per-hits@3"]["ours"] == pytest.approx(100 * told[f"per-hits@3/{USERS}"]["value"])
    picture = ElementTree.fromstring((tmp_path / "table.svg").read_bytes())
    assert sum(part.get("id", "").startswith("axes_") for part in picture.iter()) == 2


def test_a_figure_may_make_less_of_all_its_runs(place: Path, tmp_path: Path) -> None:
    fewer = {"cpu-small": {"suffix": "1-epoch", "changes": {"trainer.max_epochs": 1}}}
    only = ["λ = 0.2"]
    content = written_tables.reproduce(
        plan(place, "figure3", budgets=fewer), runs=tmp_path / "runs", out=tmp_path, only=only
    )
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["plain-tf-1-epoch"]
    assert cells(content)["λ = 0.2", "per-hits@1"]["epochs"] == 1


def without_each(runs: Path, names: tuple[str, ...]) -> list[float]:
    """How Per-Hits@k by two scorers correlate without the replies to each user, as ranks are kept."""
    kept = [json.loads((runs / name / "scorers.json").read_text()) for name in names]
    owners = np.array(kept[0]["owners"])
    ranks = [np.array([one["ranks"][scorer] for one in kept]) for scorer in ("ngram", "lm")]
    found = []
    for user in set(owners.tolist()):
        x, y = ([(ranked[:, owners != user] <= k).mean(1) for k in range(1, 6)] for ranked in ranks)
        found.append(stats.pearsonr(np.ravel(x), np.ravel(y)).statistic)
    return found


def test_two_scorers_rank_the_same_users_on_the_same_replies(
    made: dict[str, Any], place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERSONAE_HOME", str(tmp_path / "home"))
    content = again(place, "figure4", tmp_path / "out")
    points = {(point["system"], point["k"]): point for point in content["points"]}
    assert set(points) == {(system, k) for system in ("Plain", "Known", "Plain+TF") for k in range(1, 6)}
    assert content["scorers"] == {"users": 8, "n": 24, "lm": "llama"}
    assert [(point["system"], point["k"]) for point in content["ceiling"]] == [("real replies", k) for k in range(1, 6)]
    for scorer in ("ngram", "lm"):  # of 24 replies; more with a greater k
        shares = [points["Plain+TF", k][scorer] for k in range(1, 6)]
        assert shares == sorted(shares)
        assert all(math.isclose(24 * share / 100, round(24 * share / 100), abs_tol=1e-9) for share in shares)
    rows = {row["system"]: row for row in content["rows"]}
    row = rows["all runs and k"]
    found = stats.pearsonr(*([point[scorer] for point in content["points"]] for scorer in ("ngram", "lm"))).statistic
    assert (row["ours"], row["n"], "p" in row) == (pytest.approx(found), 15, False)
    without = without_each(place / "runs", ("plain", "known", "plain-tf"))
    assert len(without) == 8
    around = 1.959964 * math.sqrt(7 / 8) * np.std(without) * math.sqrt(8)
    low, high = found - around, min(1, found + around)
    assert (row["low"], row["high"]) == pytest.approx((low, high))
    assert row["published"] == 0.9
    assert [rows[f"all runs, k = {k}"]["published"] for k in range(1, 6)] == [None] * 5
    histories = {one.speakers[1].id: one.speakers[1].history for one in Planted(**CORPUS).split("valid")}
    few = dict(list(histories.items())[:8])  # all have said as much
    replies = [reply for reply in results.read(place / "runs" / "plain")[1] if reply.user in few]
    ranks = [reply.rank for reply in Judges(few).judged(replies)]
    real = [reply.real for reply in Judges(few).judged(replies)]
    for k in range(1, 6):
        for each, point in ((ranks, points["Plain", k]), (real, content["ceiling"][k - 1])):
            share = sum(rank is not None and rank <= k for rank in each) / len(each)
            assert point["ngram"] == pytest.approx(100 * share)
    assert ElementTree.fromstring((tmp_path / "out" / "table.svg").read_bytes()).tag.endswith("svg")
    page = (tmp_path / "out" / "table.md").read_text()
    assert f"| all runs and k | 0.9 / **{found:.3f}** [{low:.2f}, {high:.2f}] | 15 |" in page
    assert "the same 24 replies of each system" in page
    assert "| real replies |" in page
    assert "who guesses has an average" not in page  # which would be of other users
    said: list[str] = []
    assert again(place, "figure4", tmp_path / "out", say=said.append)["points"] == content["points"]
    assert not any("scoring" in line for line in said)  # what is kept is not scored again
    kept = place / "runs" / "known" / "scorers.json"
    whole = json.loads(kept.read_text())
    for other in ({"predictions": "0" * 64}, {"training": {"steps": 1}}):  # of other replies, or by other adapters
        said.clear()
        kept.write_text(json.dumps({**whole, **other}))
        again(place, "figure4", tmp_path / "out", say=said.append)
        assert [line[:28] for line in said if "scoring" in line] == ["scoring the replies of known"]
        assert json.loads(kept.read_text()) == whole
    kept.write_text(json.dumps({**whole, "owners": whole["owners"][::-1]}))
    content = again(place, "figure4", tmp_path / "out")
    assert content["rows"][0]["why"] == "the systems did not reply to the same users in the same order"
    kept.write_text(json.dumps(whole))


def test_a_run_of_another_recipe_is_not_used(made: dict[str, Any], place: Path, tmp_path: Path) -> None:
    for name in ("plain", "known", "plain-tf"):
        shutil.copy(place / f"{name}.yaml", tmp_path)
    changed = yaml.safe_load((tmp_path / "known.yaml").read_text())
    changed["task"]["init_args"]["batch_size"] = 8
    (tmp_path / "known.yaml").write_text(yaml.safe_dump(changed))
    with pytest.raises(InputError, match=r"known: is not the run that invented/table1 is made of \(.*batch_size"):
        written_tables.reproduce(plan(tmp_path, "table1"), runs=place / "runs", out=tmp_path / "out")
    (tmp_path / "llama").mkdir()
    content = written_tables.reproduce(
        plan(tmp_path, "table1"), runs=place / "runs", out=tmp_path / "out", only=["Plain", "Plain+TF"]
    )
    assert cells(content)["Known", "f1"]["why"] == "left out by --only"
    assert cells(content)["Plain", "f1"]["ours"] == made["rows"]["Plain", "f1"]["ours"]


def test_runs_of_one_table_are_of_one_corpus(made: dict[str, Any], place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "runs", tmp_path / "runs")
    file = tmp_path / "runs" / "known" / "environment.json"
    told = json.loads(file.read_text())
    told["corpus"]["sha256"] = "0" * 64
    file.write_text(json.dumps(told))
    with pytest.raises(InputError, match=r"known and .*plain: were trained on other dialogues"):
        written_tables.reproduce(plan(place, "table1"), runs=tmp_path / "runs", out=tmp_path / "out")


def test_what_is_recorded_is_laid_out_without_texts(
    made: dict[str, Any], place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERSONAE_HOME", str(tmp_path / "home"))
    live = {name: again(place, name, tmp_path / "live") for name in ("table1", "table2", "table4", "figure4")}
    shelf.record(place / "runs", tmp_path / "kept")
    assert not list(tmp_path.rglob("kept/**/predictions.jsonl")) + list(tmp_path.rglob("kept/**/*.safetensors"))
    said = Planted(**CORPUS)
    texts = [turn.text for one in said.split("valid") for turn in one.turns]
    texts += [reply.text for reply in results.read(place / "runs" / "plain-tf")[1] if len(reply.text) > 8]
    for file in (tmp_path / "kept" / "plain-tf").iterdir():
        assert not any(text.encode() in file.read_bytes() for text in texts)
    monkeypatch.setattr("personae.published.records", lambda: tmp_path / "kept")
    for name, expected in live.items():
        found = written_tables.reproduce(plan(place, name), shipped=True, out=tmp_path / "out")
        assert found["command"].endswith("--shipped")
        for key in ("rows", "pairs", "points"):
            for one, other in zip(found.get(key, []), expected.get(key, []), strict=True):
                assert set(one) == set(other)
                for field, value in other.items():
                    if isinstance(value, float):
                        assert one[field] == pytest.approx(value, rel=1e-4, abs=1e-4), (name, one, field)
                    else:
                        assert one[field] == value
        assert (found["corpus"], found["real"]) == (expected["corpus"], expected["real"])
    shutil.rmtree(tmp_path / "kept" / "plain")
    found = written_tables.reproduce(plan(place, "table1"), shipped=True, out=tmp_path / "out")
    assert cells(found)["Plain", "f1"]["why"] == "not run for this version"
    assert found["ratio"]["why"] == "not run: Plain"
    with pytest.raises(InputError, match="--shipped: is of this version's own runs; leave --runs and --only out"):
        written_tables.reproduce(plan(place, "table1"), shipped=True, runs=tmp_path, out=tmp_path / "out")


def test_records_are_compared_as_runs_are(made: dict[str, Any], place: Path, tmp_path: Path) -> None:
    for name in ("plain", "plain-tf"):
        results.record(place / "runs" / name, tmp_path / name)
        results.record(tmp_path / name, tmp_path / "copies" / name)
    expected = results.compare(place / "runs" / "plain-tf", place / "runs" / "plain")
    for kept in (tmp_path, tmp_path / "copies"):
        found = results.compare(kept / "plain-tf", kept / "plain")
        assert found["n"] == expected["n"] == REPLIES
        assert set(found["metrics"]) == set(expected["metrics"])
        for name, row in expected["metrics"].items():
            assert found["metrics"][name]["difference"]["value"] == pytest.approx(row["difference"]["value"], abs=1e-5)
            if "wilcoxon" in row:
                assert found["metrics"][name]["wilcoxon"] == row["wilcoxon"]
    with pytest.raises(InputError, match="is a record of a run, which has no weights"):
        run.load(str(tmp_path / "plain"))


@pytest.mark.parametrize("name", ["metrics.json", "predictions.jsonl", "environment.json"])
def test_damage_is_found_before_anything_is_trained(
    made: dict[str, Any], place: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(place / "runs" / "plain", tmp_path / "plain")
    (tmp_path / "plain" / name).write_text("{")
    with pytest.raises(InputError, match=rf"{name}.*damaged"):
        written_tables.reproduce(plan(place, "table1"), runs=tmp_path, out=tmp_path / "out")
    assert weights(tmp_path).keys() == {"plain"}


def test_mistakes_are_named(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"--only: invented/table1 has no row 'Nobody'; choose of: Guess, Real, "):
        written_tables.reproduce(plan(place, "table1"), runs=tmp_path, out=tmp_path / "out", only=["Nobody"])
    with pytest.raises(InputError, match=r"gpu-full: no such recipe: .*plain\.yaml-gpu \(for Plain\)"):
        written_tables.reproduce(plan(place, "table1"), runs=tmp_path, out=tmp_path / "out", budget="gpu-full")
    assert main(["reproduce", "tensor-factorization/table9"]) == 2
    assert "choose one of dim/table2, " in (err := capsys.readouterr().err)
    assert "tensor-factorization/figure4" in err
    assert main(["reproduce", "tensor-factorization/table1", "--train", "mine.jsonl"]) == 2
    assert "--train, --revised_train: tensor-factorization/table1 is trained on" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_table_may_have_no_users(place: Path, tmp_path: Path) -> None:
    """Whose replies are not ranked, of a corpus that counts nothing."""
    recipe = yaml.safe_load((place / "plain.yaml").read_text())
    recipe["task"]["init_args"]["select"] = "f1"
    recipe["corpus"] = {"class_path": "personae.data.toy.Selection", "init_args": {"dialogues": 40}}
    recipe["trainer"]["init_args"]["max_epochs"] = 1
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(recipe))
    rows = {"Plain": (1.0, 8.5), "Plain, again": (2.0, 9.0)}
    rows_of: dict[str, Any] = {"Plain, again": {"recipe": str(tmp_path / "plain.yaml"), "changes": {"seed": 1}}}
    said = {
        **dict.fromkeys(("words", "stands_in", "remarks"), "-"),
        "efforts": {"cpu-small": "-", "gpu-full": "-"},
        "columns": {"bleu": {"metric": "bleu-4/corpus"}, "length": {"metric": "length", "scale": 1}},
        "systems": {"Plain": {"recipe": str(tmp_path / "plain.yaml")}},
        "pairs": [["Plain, again", "Plain"]],
        "tables": {"table7": {"title": "-", "asks": "-", "rows": rows_of, "cases": 2}},
    }
    printed = {"table7": Table(columns=("bleu", "length"), rows=rows)}
    own = written.make("invented/table7", "An Invented Paper", printed, said)
    content = written_tables.reproduce(own, runs=tmp_path / "runs", out=tmp_path / "out")
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"plain", "plain-seed-1"}
    told = results.about(tmp_path / "runs" / "plain-seed-1" / "metrics.json")["metrics"]
    assert cells(content)["Plain, again", "length"]["ours"] == pytest.approx(told["length"]["value"])
    assert (content["corpus"], content["chance"], content["ratio"]) == ({}, {}, None)
    assert [row["published"] for row in content["pairs"]] == [1.0, 0.5]
    known = {each.id: each for each in examples(Selection(dialogues=40).split("valid"), sides="both")}
    assert len({case["id"] for case in content["cases"]}) == 2
    page = (tmp_path / "out" / "table.md").read_text()
    for case in content["cases"]:
        example = known[case["id"]]
        assert case["context"] == [turn.text for turn in example.context.turns]
        assert (tuple(case["self"]), tuple(case["partner"])) == (example.facts("self"), example.facts("partner"))
        assert case["real"] == example.target.text
        for system, run_name in (("Plain", "plain"), ("Plain, again", "plain-seed-1")):
            wrote = {reply.id: reply.text for reply in results.read(tmp_path / "runs" / run_name)[1]}
            assert case["replies"][system] == wrote[case["id"]]
        assert f"| **real reply** | {case['real']} |" in page
    rows_of["Nobody"] = {}
    with pytest.raises(InputError, match=r"rows: there is no row 'Nobody'"):
        written.make("invented/table7", "An Invented Paper", printed, said)
