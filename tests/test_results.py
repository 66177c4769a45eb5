"""Records: what remains of a result without its scores."""

import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet
import pytest
import yaml

from personae import published, results
from personae.metrics.ranking import metrics, ranks
from personae.types import InputError, Row

SCORES = [
    (0.5, 0.1, 0.9),  # rank 2 of the first
    (0.5, 0.5, 0.1),  # level with one: 1.5
    (0.5, 0.5, 0.5),  # level with two: 2
    (0.5, 0.9, 0.8),  # last
    (0.5, 0.5, 0.9, 0.5, 0.5),  # level with three behind one: 3.5
]


SPENT = {"seed": 0, "steps": 4, "cpu_seconds": 3.5, "stopped": False, "corpus": {"train": 7}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A result, two replies a dialogue, the true one at another place in each."""
    made = tmp_path / "result"
    made.mkdir()
    with (made / "predictions.jsonl").open("w") as file:
        for place, scores in enumerate(SCORES):
            target = place % len(scores)
            turned = (*scores[1 : target + 1], scores[0], *scores[target + 1 :])
            row = {"id": f"talk-{place // 2}#{place}", "dialogue": f"talk-{place // 2}"}
            file.write(json.dumps({**row, "scores": turned, "target": target}) + "\n")
    data = {"path": "valid.jsonl", "sha256": "1" * 64, "candidates": {"name": "official", "sha256": "0" * 64}}
    about = {"model": "/home/me/x", "persona": "self", "n": len(SCORES), "data": data, "metrics": {}}
    (made / "metrics.json").write_text(json.dumps(about))
    return made


def test_a_record_keeps_the_rank_of_every_true_reply(folder: Path, tmp_path: Path) -> None:
    results.record(folder, tmp_path / "kept")
    assert sorted(file.name for file in (tmp_path / "kept").iterdir()) == ["metrics.json", "ranks.parquet"]
    (_, rows), (about, kept) = results.read(folder), results.read(tmp_path / "kept")
    assert ranks(rows).tolist() == [2, 1.5, 2, 3, 3.5] == ranks(kept).tolist()
    assert metrics(kept) == metrics(rows)
    assert [(row.id, row.dialogue, row.target, len(row.scores)) for row in kept] == [
        (row.id, row.dialogue, row.target, len(row.scores)) for row in rows
    ]
    assert about["model"] == "x"  # and not where it lay
    found = results.compare(folder, tmp_path / "kept")["metrics"]
    assert all(row["difference"]["value"] == 0 for row in found.values())


def test_what_candidates_are_called_does_not_matter(folder: Path, tmp_path: Path) -> None:
    drawn = shutil.copytree(folder, tmp_path / "drawn")
    about = (drawn / "metrics.json").read_text()
    (drawn / "metrics.json").write_text(about.replace("official", "own3"))
    assert results.compare(folder, drawn)["n"] == results.compare(drawn, folder)["n"] == len(SCORES)
    (drawn / "metrics.json").write_text(about.replace("0" * 64, "2" * 64))
    with pytest.raises(InputError, match=r"chose from different candidates .*; if .* alone, compare with --reworded$"):
        results.compare(folder, drawn)
    rows = (drawn / "predictions.jsonl").read_text()
    (drawn / "predictions.jsonl").write_text(rows.replace('"target": 0', '"target": 1'))
    with pytest.raises(InputError, match=r"chose from different candidates .* with the same seed$"):
        results.compare(folder, drawn)


@pytest.mark.parametrize(
    "first", ["/home/me/runs/first", "runs/first/", "'/home/it''s me/first'", '"/home/\\x61/first"']
)
def test_a_run_to_start_from_is_recorded_without_its_path(folder: Path, tmp_path: Path, first: str) -> None:
    (folder / "recipe.yaml").write_text(f"task: {{}}\ninit_from: {first}\nseed: 0\n")
    (folder / "environment.json").write_text(json.dumps(SPENT))
    results.record(folder, tmp_path / "kept")
    kept = yaml.safe_load((tmp_path / "kept" / "recipe.yaml").read_text())
    assert kept == {"task": {}, "init_from": "first", "seed": 0}
    assert (tmp_path / "kept" / "environment.json").exists()
    assert results.read(tmp_path / "kept")[0]["model"] == "result"  # the run's folder, which may have been moved


def test_nothing_is_recorded_of_a_run_that_is_not_whole(folder: Path, tmp_path: Path) -> None:
    (folder / "recipe.yaml").write_text("task: {}\n")
    with pytest.raises(InputError, match=r"environment\.json: cannot be read"):
        results.record(folder, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("metrics.json", "[]", r"metrics\.json: is damaged"),
        ("metrics.json", "{}", r"metrics\.json: is damaged \(it has no 'model'\)"),
        ("metrics.json", '{"model": "x", "n": 5, "metrics": {}, "data": []}', r"metrics\.json: is damaged"),
        ("environment.json", "{}", r"environment\.json: is damaged \(it has no 'seed'\)"),
        ("environment.json", '{"seed": 0', r"environment\.json: is damaged"),
        ("recipe.yaml", "task: [", r"recipe\.yaml: cannot be read as YAML"),
        ("recipe.yaml", "[]", r"recipe\.yaml: a recipe is a mapping"),
    ],
)
def test_a_damaged_run_is_not_recorded(folder: Path, tmp_path: Path, file: str, content: str, message: str) -> None:
    (folder / "recipe.yaml").write_text("task: {}\n")
    (folder / "environment.json").write_text(json.dumps(SPENT))
    (folder / file).write_text(content)
    with pytest.raises(InputError, match=message):
        results.record(folder, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("damage", [b"", b"PAR1 and nothing else", "cut"])
def test_a_damaged_record_is_refused(folder: Path, tmp_path: Path, damage: bytes | str) -> None:
    results.record(folder, tmp_path / "kept")
    file = tmp_path / "kept" / "ranks.parquet"
    file.write_bytes(file.read_bytes()[:-40] if isinstance(damage, str) else damage)
    with pytest.raises(InputError, match=r"ranks\.parquet: is damaged"):
        results.read(tmp_path / "kept")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("rank", 9.0),
        ("rank", 0.5),
        ("rank", 1.25),
        ("rank", float("inf")),
        ("rank", None),
        ("target", 7),
        ("candidates", None),
        ("dialogue", None),
        ("id", None),
    ],
)
def test_a_row_that_cannot_be_is_refused(folder: Path, tmp_path: Path, column: str, value: float | None) -> None:
    results.record(folder, tmp_path / "kept")
    file = tmp_path / "kept" / "ranks.parquet"
    rows = pyarrow.parquet.read_table(file).to_pydict()
    rows[column][1] = value
    pyarrow.parquet.write_table(pyarrow.table(rows), file)
    with pytest.raises(InputError, match=r"ranks\.parquet: is damaged"):
        results.read(tmp_path / "kept")


def test_a_recorded_run_is_known_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    about, rows = results.read(Path("starspace-personachat"))
    assert about["n"] == len(rows) == 7801
    assert isinstance(rows[0], Row)
    hits = metrics(rows)["hits@1/20"]
    assert sum(hits) / len(hits) == pytest.approx(about["metrics"]["hits@1/20"]["value"])
    assert results.read(Path("minilm-self"))[0]["model"] == "minilm"
    assert results.read(Path("tfidf-self/on-revised"))[0]["data"]["path"].endswith("revised.txt")
    for name, near in (("minilm", "minilm-self"), ("selection/dim-personachat", "dim-personachat"), ("mine", "mime")):
        (tmp_path / "mime").mkdir(exist_ok=True)
        (tmp_path / "mime" / "metrics.json").touch()
        with pytest.raises(InputError, match=f"^{name}: there is none; did you mean {near}\\?$"):
            results.read(Path(name))
    for name in ("../plans", "/nowhere"):
        with pytest.raises(InputError, match=f"{name}: there is none; give a run folder, .* minilm-self"):
            results.read(Path(name))
    (tmp_path / "minilm-self").mkdir()
    with pytest.raises(InputError, match="there is none"):  # a folder of one's own comes first
        results.read(Path("minilm-self"))


def test_every_record_holds_no_path_of_the_machine_that_made_it() -> None:
    files = [*published.records().rglob("*.json"), *published.records().rglob("*.yaml")]
    assert files
    for file in files:
        absolute = re.findall(r"(?<![\w.])/\w.*", file.read_text(encoding="utf-8"))
        assert absolute == [], file
