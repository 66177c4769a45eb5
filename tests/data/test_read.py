import gzip
import json
from pathlib import Path

import pytest

from personae.data.read import find, form, read
from personae.types import InputError

OWN = '{"personas": [[], []], "turns": [{"speaker": 0, "text": "hi"}]}\n'
SPC = '{"user1_personas": [], "user2_personas": [], "utterances": [[1, "hi"]]}\n'
CSV = "user 1 personas,user 2 personas,Best Generated Conversation\na,b,User 1: hi\n"
JSON = json.dumps({"valid": [{"personality": [], "utterances": [{"history": ["hi"], "candidates": ["a", "b"]}]}]})


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.txt", "1 hi\thello\n", "parlai"),
        ("a", "1 your persona: x\n2 hi\thello\n", "parlai"),
        ("a.jsonl", OWN, "jsonl"),
        ("a.txt", OWN, "jsonl"),
        ("a.jsonl", SPC, "synthetic-persona-chat"),
        ("a.csv", CSV, "synthetic-persona-chat"),
        ("a.txt", CSV, "synthetic-persona-chat"),
        ("a.json", JSON, "huggingface"),
    ],
)
def test_every_form_is_recognised_and_read(tmp_path: Path, name: str, text: str, expected: str) -> None:
    (tmp_path / name).write_text(text)
    assert form(tmp_path / name) == expected
    (dialogue,) = read(tmp_path / name)
    assert dialogue.turns[0].text == "hi"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "Utterance:  hi . i run .\nPersona: i run .\n", r"a\.txt: these are fragments"),
        ("a.txt", "hello\n", r"a\.txt: the form is not known"),
        ("a.jsonl", "hello\n", r"a\.jsonl:1: not JSON"),
        (
            "a.jsonl",
            '{"personas": [[], []], "turns": [null]}\n',
            r"a\.jsonl:1: field turns\[0\]: is missing: an object",
        ),
        ("a.jsonl", '{"personas": [[], []], "turns": [5]}\n', r"a\.jsonl:1: field turns\[0\]: is a number: an object"),
        ("a.txt", "", r"a\.txt: the file is empty"),
    ],
)
def test_what_is_no_corpus(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read(tmp_path / name)


def test_a_compressed_file_is_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(OWN.encode()))
    with pytest.raises(InputError, match=r"a\.jsonl\.gz: is compressed by gzip: unpack it"):
        read(tmp_path / "a.jsonl.gz")


def test_two_dialogues_with_one_id_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "spc.jsonl"
    row = '{"id": 7, "user1_personas": [], "user2_personas": [], "utterances": [[1, "hi"], [2, "ho"]]}\n'
    path.write_text(row * 3)
    with pytest.raises(InputError, match=r"spc\.jsonl: 3 dialogues have the id 'spc-7': give each an id of its own"):
        read(path)


def test_a_file_of_empty_dialogues_holds_none(tmp_path: Path) -> None:
    path = tmp_path / "spc.jsonl"
    path.write_text('{"id": 7, "user1_personas": [], "user2_personas": [], "utterances": []}\n')
    assert read(path) == []


def test_a_folder_is_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        read(tmp_path)


def test_the_split_of_a_json_file_stands_after_a_colon(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"train": [], **json.loads(JSON)}))
    assert [dialogue.id for dialogue in read(f"{tmp_path}/a.json:valid")] == ["a-valid-1"]
    with pytest.raises(InputError, match="which split"):
        read(tmp_path / "a.json")


def test_find_looks_here_then_below_the_folder_of_corpora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, below = tmp_path / "here", tmp_path / "corpora"
    for folder in (here, below, here / "data"):
        folder.mkdir()
        (folder / "a.txt").write_text("1 hi\thello\n")
    monkeypatch.chdir(here)
    monkeypatch.setenv("PERSONAE_DATA", str(below))
    assert find("a.txt").resolve() == here / "a.txt"
    (here / "a.txt").unlink()
    assert find("a.txt") == below / "a.txt"
    nothing = "far: there is nothing at"
    with pytest.raises(InputError, match=f"^{nothing} {here}/far or {below}/far: PERSONAE_DATA is {below}, give ano"):
        find("far")
    with pytest.raises(InputError, match=f"^{here}/{nothing} {here}/far: PERSONAE_DATA is {below}, give another"):
        find(here / "far")
    with pytest.raises(InputError, match=r"data/b\.txt or .*: did you mean data/a\.txt\?$"):
        find("data/b.txt")
    with pytest.raises(InputError, match=r"did you mean a\.txt\?$"):
        find("b.txt")
    monkeypatch.delenv("PERSONAE_DATA")
    with pytest.raises(InputError, match=f"^{nothing} {here}/far or {here}/data/far: set PERSONAE_DATA to"):
        find("far")
    assert find("a.txt").resolve() == here / "data" / "a.txt"


@pytest.mark.parametrize("name", ["train_partial.jsonl", "valid_self_original.txt"])
def test_a_corpus_below_the_folder(corpora: Path, name: str) -> None:
    assert len(read(f"personachat/{name}")) == {"t": 4606, "v": 1000}[name[0]]
