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
    corpus: Corpus = Files(train=["a.jsonl", "b.jsonl"], dev_share=0.25)
    train, dev = list(corpus.split("train")), list(corpus.split("dev"))
    assert (len(train), len(dev)) == (150, 50)
    assert {d.id for d in train} | {d.id for d in dev} == {d.id for d in dialogues}
    assert {len(example.target.candidates) for example in examples(dev)} == {20}
    assert not any(turn.candidates for d in train for turn in d.turns)
    assert list(corpus.split("dev")) == dev


def test_sides_and_seed(folder: Path) -> None:
    def dev(**options: object) -> list[Dialogue]:
        return list(Files(train=["a.jsonl", "b.jsonl"], dev_share=0.25, **options).split("dev"))  # type: ignore[arg-type]

    assert len(examples(dev())) == 2 * len(examples(dev(sides="second"))) == 100
    assert [d.id for d in dev(seed=1)] != [d.id for d in dev()]


def test_valid_keeps_its_candidates_or_gets_some(folder: Path) -> None:
    given = examples(Files(train=["a.jsonl"], valid="given.jsonl").split("valid"))
    assert [len(example.target.candidates) for example in given] == [7] * 40
    drawn = examples(Files(train=["a.jsonl"], valid="bare.jsonl").split("valid"))
    assert [len(example.target.candidates) for example in drawn] == [20] * 80


def test_a_dev_file_leaves_training_whole(folder: Path) -> None:
    corpus = Files(train=["b.jsonl"], dev="given.jsonl")
    assert len(list(corpus.split("train"))) == 100
    assert [d.id for d in corpus.split("dev")] == [f"d{i}" for i in range(40)]


def test_mistakes(folder: Path) -> None:
    with pytest.raises(InputError, match="split 'test': ask for train, dev or valid"):
        Files(train=["a.jsonl"], valid="given.jsonl").split("test")
    with pytest.raises(InputError, match="split 'valid': give a valid file"):
        Files(train=["a.jsonl"]).split("valid")
    with pytest.raises(InputError, match=r"bare\.jsonl: dialogue 'd0' is in another training file too"):
        Files(train=["a.jsonl", "bare.jsonl"]).split("train")
