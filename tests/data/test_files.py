from collections.abc import Callable
from pathlib import Path

import pytest

from personae.data import jsonl
from personae.data.candidates import draw, examples
from personae.data.files import Files
from personae.types import Corpus, Dialogue, InputError

Make = Callable[..., Dialogue]


@pytest.fixture
def dialogues(make: Make) -> list[Dialogue]:
    return [make(f"d{i}", f"hi {i}", f"yes {i}", f"no {i}", facts=((f"i am {i}",), ())) for i in range(200)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dialogues: list[Dialogue]) -> Path:
    monkeypatch.setenv("PERSONAE_DATA", str(tmp_path))
    jsonl.write(dialogues[:100], tmp_path / "a.jsonl")
    jsonl.write(dialogues[100:], tmp_path / "b.jsonl")
    jsonl.write(dialogues[:40], tmp_path / "bare.jsonl")
    jsonl.write(draw(dialogues[:40], n=7), tmp_path / "given.jsonl")
    return tmp_path


def test_train_and_dev_are_apart(folder: Path, dialogues: list[Dialogue]) -> None:
    corpus: Corpus = Files(train=["a.jsonl", "b.jsonl"], valid="given.jsonl", dev_share=0.25)
    train, dev = list(corpus.split("train")), list(corpus.split("dev"))
    assert (len(train), len(dev)) == (150, 50)
    assert {d.id for d in train} | {d.id for d in dev} == {d.id for d in dialogues}
    assert not any(turn.candidates for d in train + dev for turn in d.turns)
    assert list(corpus.split("dev")) == dev


def test_the_seed_chooses_who_is_held_out(folder: Path) -> None:
    def dev(seed: int) -> list[Dialogue]:
        files = ["a.jsonl", "b.jsonl"]
        return list(Files(train=files, valid="given.jsonl", dev_share=0.25, seed=seed).split("dev"))

    assert [d.id for d in dev(1)] != [d.id for d in dev(0)]


def test_valid_is_as_it_was_read(folder: Path, dialogues: list[Dialogue]) -> None:
    given = examples(Files(train=["a.jsonl"], valid="given.jsonl").split("valid"))
    assert [len(example.target.candidates) for example in given] == [7] * 40
    assert list(Files(train=["a.jsonl"], valid="bare.jsonl").split("valid")) == dialogues[:40]


def test_a_dev_file_leaves_training_whole(folder: Path) -> None:
    corpus = Files(train=["b.jsonl"], valid="bare.jsonl", dev="given.jsonl")
    assert len(list(corpus.split("train"))) == 100
    assert [d.id for d in corpus.split("dev")] == [f"d{i}" for i in range(40)]


def test_mistakes(folder: Path) -> None:
    with pytest.raises(InputError, match="split 'test': ask for train, dev or valid"):
        Files(train=["a.jsonl"], valid="given.jsonl").split("test")
    with pytest.raises(InputError, match=r"bare\.jsonl: dialogue 'd0' is in another training file too"):
        Files(train=["a.jsonl", "bare.jsonl"], valid="given.jsonl").split("train")
