"""KenLM's models of users beside ours, where KenLM is there."""

import importlib
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from personae.metrics import kenlm
from personae.metrics.kenlm import KenlmModels
from personae.metrics.ngram import NgramModels
from personae.types import InputError

WORDS = [f"w{number}" for number in range(60)]


def drawn(user: int, count: int) -> list[list[str]]:
    """Sentences of a user, who has words that they like."""
    rng = random.Random(f"{user} {count}")
    weights = [rng.random() ** 4 for _ in WORDS]
    return [rng.choices(WORDS, weights, k=rng.choice((1, 3, 7, 12))) for _ in range(count)]


@pytest.fixture(scope="module")
def there() -> None:
    try:
        kenlm.program(), kenlm.package()
    except InputError as error:
        pytest.skip(str(error))


SAID = [
    *(drawn(user, count) for user, count in enumerate((400, 60, 60, 25, 3))),
    [["hi"]],  # one message
    [[], ["two", "words"], []],
    [["<s>", "</s>", "<unk>", "a\tb", "\0", "\ud83d", "été"], ["<unk>", "été"]],  # nothing that KenLM takes for words
]
ASKED = [
    *(sentence for user in range(5) for sentence in drawn(user, 20)),
    [],
    ["hi"],
    ["two", "words"],
    ["unheard", "words", "only"],
    ["<unk>", "été"],
    ["\ud83d", "</s>"],
]


@pytest.mark.usefixtures("there")
def test_both_give_the_same_perplexities() -> None:
    ours, theirs = (models.perplexities(ASKED) for models in (NgramModels(SAID), KenlmModels(SAID)))
    assert theirs.shape == (len(ASKED), len(SAID))
    assert np.abs(theirs / ours - 1).max() < 1e-3
    assert (ours.argsort(1, kind="stable") == theirs.argsort(1, kind="stable")).mean() > 0.99


@pytest.mark.usefixtures("there")
def test_the_last_word_that_lmplz_meets() -> None:
    """Its discount of what was counted once is 1 - 2 * .2 * 2 / 1, as if b came after two words, and not a alone."""
    said = [["c"], ["a", "b", "a", "b"], [], []]
    ours, theirs = (np.exp(models([said]).log_probabilities([["c"]])[0, 0]) for models in (NgramModels, KenlmModels))
    left = (2 * 0.5 + 0.5 + 3) / 7, (2 * 0.2 + 1.7 + 3) / 7  # to the uniform distribution, of 5 words
    after = [((1 - d) / 7 + share / 5, (3 - 3) / 7 + share / 5) for d, share in zip((0.5, 0.2), left, strict=True)]
    expected = [((1 - 0.5) / 4 + 2 / 4 * c) * (0.5 + 0.5 * (0.5 + 0.5 * end)) for c, end in after]
    assert [ours, theirs] == pytest.approx(expected, rel=1e-4)


@pytest.mark.usefixtures("there")
def test_a_discount_of_nothing() -> None:
    """Of single words ours have it too, as there is always one that leaves something to others; of pairs only lmplz's,
    after whose b nothing but the end can come."""
    asked = [["c"], ["a"], ["e", "unheard"], ["b", "a"]]
    ours, theirs = (models([[["a"], ["c", "e", "d", "c"], ["b"]]]) for models in (NgramModels, KenlmModels))
    assert ours.perplexities(asked) == pytest.approx(theirs.perplexities(asked), rel=1e-4)
    ours, theirs = (models([[["a"], ["a", "a", "b"], ["b"], ["a"]]]) for models in (NgramModels, KenlmModels))
    assert ours.perplexities([["b", "a"]]) < 10
    assert theirs.perplexities([["b", "a"]]) > 1e30


@pytest.mark.usefixtures("there")
def test_a_discount_of_nothing_can_be_read() -> None:
    for seed in range(150):
        rng = random.Random(seed)
        said = [rng.choices("abc", k=rng.choice((0, 1, 2, 4))) for _ in range(rng.choice((4, 8)))]
        if any(said):
            assert np.isfinite(KenlmModels([said]).perplexities([["a"], ["b", "c"]])).all()


@pytest.mark.usefixtures("there")
def test_users_who_said_the_same_have_equal_models() -> None:
    found = KenlmModels([SAID[1], SAID[2], SAID[1]]).perplexities(ASKED)
    assert (found[:, 0] == found[:, 2]).all()
    assert KenlmModels([SAID[1]]).perplexities([]).shape == (0, 1)


@pytest.mark.usefixtures("there")
def test_no_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    KenlmModels(SAID[:3])
    assert list(tmp_path.iterdir()) == []


def test_a_failure_tells_what_lmplz_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("kenlm")
    program = tmp_path / "lmplz"
    program.write_text("#!/bin/sh\necho no room left >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(InputError, match="lmplz failed, no room left: mend that, or take --scorer ngram"):
        KenlmModels([[["a"]]])


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "which", lambda *_, **__: None)
        with pytest.raises(InputError, match=r"no lmplz .* run `make kenlm` .* or take --scorer ngram"):
            KenlmModels([[["a"]]])

    def absent(name: str) -> None:
        raise ModuleNotFoundError(name)

    with monkeypatch.context() as patch:
        patch.setattr(importlib, "import_module", absent)
        with pytest.raises(InputError, match="pip install ufal-kenlm`, or take --scorer ngram"):
            kenlm.package()
    beside = tmp_path / "lmplz"
    beside.write_text("")
    beside.chmod(0o755)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert kenlm.program() == str(beside)


def test_who_said_nothing_has_no_model() -> None:
    with pytest.raises(InputError, match="user 1, counted from 0, said no word"):
        KenlmModels([[["a"]], [[]]])
    with pytest.raises(InputError, match="there is no user"):
        KenlmModels([])
