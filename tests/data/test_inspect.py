import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from personae.data.inspect import overlap, show, stats, verify
from personae.data.sources import sources
from personae.types import InputError

PARLAI = """\
1 your persona: i like cats .
2 your persona: i sail .
3 hello there !\thi , do you sail ?\t\tno .|hi , do you sail ?
1 your persona: i sail
2 your persona: I LIKE cats
3 well\tgood morning to you
4 any plans ?\tnone\t\tnone|many|some
"""


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_stats(tmp_path: Path) -> None:
    found = stats(written(tmp_path / "a.txt", PARLAI))
    assert found == {
        "path": str(tmp_path / "a.txt"),
        "form": "parlai",
        "sha256": hashlib.sha256(PARLAI.encode()).hexdigest(),
        "dialogues": 2,
        "empty_dialogues": 0,
        "turns": 6,
        "replies": {"0": 1, "1": 3},
        "candidates": {"replies": 2, "min": 2, "max": 3},
        "persona_lines": 4,
        "personas": 1,
        "words": {"turn": {"mean": 3.0, "p95": 6, "max": 6}, "persona_line": {"mean": 3.0, "p95": 4, "max": 4}},
    }
    assert json.loads(json.dumps(found)) == found


def test_stats_of_a_json_file_are_those_of_its_splits(tmp_path: Path) -> None:
    entry = {"personality": [], "utterances": [{"history": ["hi"], "candidates": ["a", "b"]}]}
    path = written(tmp_path / "a.json", json.dumps({"train": [entry, entry], "valid": [entry]}))
    assert {part: s["dialogues"] for part, s in stats(path)["splits"].items()} == {"train": 2, "valid": 1}
    assert stats(f"{path}:train")["turns"] == 4
    (pair,) = stats(path)["overlap"].items()
    assert pair == ("train/valid", overlap(f"{path}:train", f"{path}:valid"))
    assert pair[1]["shared"]["dialogues"] == 1


def test_overlap(tmp_path: Path) -> None:
    a = written(tmp_path / "a.txt", PARLAI)
    b = written(tmp_path / "b.txt", "1 your persona: I sail!\n2 Well?\tGood morning to you .\n3 any plans\tnone\n")
    found = overlap(a, b)
    assert found["a"] == {"path": str(a), "dialogues": 2, "personas": 1, "persona_lines": 2, "replies": 4}
    assert found["b"] == {"path": str(b), "dialogues": 1, "personas": 1, "persona_lines": 1, "replies": 3}
    assert found["shared"] == {"dialogues": 1, "personas": 0, "persona_lines": 1, "replies": 3}
    assert stats(a, against=b) == {**stats(a), "overlap": found}


def test_show(tmp_path: Path) -> None:
    assert [dialogue.id for dialogue in show(written(tmp_path / "a.txt", PARLAI), 1)] == ["a-1"]


def test_verify_knows_no_file_or_another_content(tmp_path: Path) -> None:
    assert verify(written(tmp_path / "a.txt", PARLAI)) == {
        "path": str(tmp_path / "a.txt"),
        "bytes": len(PARLAI),
        "status": "unknown",
    }
    found = verify(written(tmp_path / "valid_self_original.txt", PARLAI))
    assert (found["status"], found["md5"]) == ("differs", hashlib.md5(PARLAI.encode()).hexdigest())
    assert [(file["corpus"], file["bytes"]) for file in found["expected"]] == [
        ("convai2", 9_100_907),
        ("personachat", 9_152_813),
    ]
    assert [file["status"] for file in verify(tmp_path)["files"]] == ["differs"]
    with pytest.raises(InputError, match="there is nothing at"):
        verify(tmp_path / "nothing")


def test_the_catalogue() -> None:
    files = {source.name: source.files for source in sources()}
    assert {name: len(part) for name, part in files.items()} == {
        "convai2": 28,
        "personachat": 21,
        "personachat_partial": 1,
        "synthetic_persona_chat": 3,
    }
    everything = [file for part in files.values() for file in part]
    assert all((len(file.md5 or "") == 32) != (len(file.sha256 or "") == 64) for file in everything)
    assert all(file.bytes > 800_000 for file in everything)
    assert all(source.licence == "CC BY 4.0" for source in sources())


def test_verify_the_corpora(corpora: Path) -> None:
    found = {Path(check["path"]).name: check["status"] for check in verify(corpora)["files"]}
    assert found == {
        "valid_both_original.txt": "official",
        "valid_both_revised.txt": "official",
        "valid_self_original.txt": "official",
        "train_partial.jsonl": "listed",
        "spc_train.jsonl": "listed",
        "spc_valid.jsonl": "listed",
        "spc_new.jsonl": "listed",
    }
    path = corpora / "personachat" / "valid_both_original.txt"
    corpus, counted = verify(path)["corpus"], stats(path)
    assert (corpus["name"], corpus["licence"]) == ("convai2", "CC BY 4.0")
    assert corpus["counts"]["valid"] == {"dialogues": counted["dialogues"], "replies": counted["replies"]["1"]}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "personachat/valid_both_original.txt",
            {
                "dialogues": 1000,
                "turns": 15602,
                "replies": {"0": 6801, "1": 7801},
                "candidates": {"replies": 7801, "min": 20, "max": 20},
                "persona_lines": 8978,
            },
        ),
        (
            "personachat/train_partial.jsonl",
            {"dialogues": 4606, "turns": 62618, "replies": {"0": 27780, "1": 30232}, "empty_dialogues": 0},
        ),
        ("spc/spc_train.jsonl", {"dialogues": 8938, "empty_dialogues": 36}),
        ("spc/spc_valid.jsonl", {"dialogues": 1000, "empty_dialogues": 3}),
        ("spc/spc_new.jsonl", {"dialogues": 11001, "empty_dialogues": 0}),
        ("personachat/train_speaker_fragments.txt", {"form": "fragments", "rows": 17876}),
    ],
)
def test_documented_counts(corpora: Path, name: str, expected: dict[str, Any]) -> None:
    found = stats(corpora / name)
    assert {key: found[key] for key in expected} == expected


def test_the_revised_file_has_the_same_dialogues(corpora: Path) -> None:
    found = overlap(corpora / "personachat/valid_both_original.txt", corpora / "personachat/valid_both_revised.txt")
    assert found["shared"]["dialogues"] == 1000
    assert found["shared"]["persona_lines"] < 0.1 * found["a"]["persona_lines"]
