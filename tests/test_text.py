import random

import pytest

from personae.text import EACH, PAD, UNKNOWN, Kept, Vocabulary, standard, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I'm fine.", "i ' m fine ."),
        ("  Hello,\tWORLD!!\n", "hello , world ! !"),
        ("it costs $3.50 (50% off)", "it costs $ 3 . 50 ( 50 % off )"),
        ("snake_case e-mail", "snake_case e - mail"),
        ("Ärger, naïve, déjà-vu", "ärger , naïve , déjà - vu"),
        ("我有two只猫。", "我 有 two 只 猫 。"),
        ("ひらカタ한국", "ひ ら カ タ 한 국"),
        ("ok👍🏽", "ok 👍 🏽"),
        ("a\x00b", "a \x00 b"),
        ("\u202eabc", "\u202e abc"),
        ("", ""),
        (" \u3000\n", ""),
    ],
)
def test_words(text: str, expected: str) -> None:
    assert words(text) == expected.split(" ") * bool(expected)


def test_words_keep_everything_but_spaces() -> None:
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(chr(rng.choice((rng.randrange(32, 127), rng.randrange(0x3000, 0xA000)))) for _ in range(40))
        assert "".join(words(text)) == "".join(text.lower().split())
        assert words(" ".join(words(text))) == words(text)


def test_a_vocabulary_is_ordered_by_frequency_then_alphabet() -> None:
    vocabulary = Vocabulary.of([["b", "a", "c"], ["c", "b"], [PAD, UNKNOWN, "c"]])
    assert vocabulary.words == [PAD, UNKNOWN, "c", "b", "a"]
    assert len(vocabulary) == 5
    assert [vocabulary[word] for word in (PAD, UNKNOWN, "c", "a", "unheard")] == [0, 1, 2, 4, 1]
    assert "a" in vocabulary
    assert "unheard" not in vocabulary


def test_the_order_of_sentences_does_not_matter() -> None:
    sentences = [["b", "a"], ["d", "c"], ["a", "d"]]
    assert Vocabulary.of(sentences).words == Vocabulary.of(reversed(sentences)).words


def test_rare_words_are_left_out() -> None:
    assert Vocabulary.of([["a", "a", "b"]], min_count=2).words == [PAD, UNKNOWN, "a"]
    assert Vocabulary.of([]).words == [PAD, UNKNOWN]


def test_a_vocabulary_of_its_own_words_is_the_same() -> None:
    vocabulary = Vocabulary.of([["b", "a", "b"]])
    assert Vocabulary(vocabulary.words[2:]).numbers == vocabulary.numbers


def test_what_was_made_of_texts_is_kept_while_there_is_room() -> None:
    kept: Kept[int] = Kept(3 * (EACH + 1))
    for batch, new in (("aba", "ab"), ("bc", "c"), ("d", "d"), ("ad", ""), ("", ""), ("ae", "ae"), ("e", "")):
        assert kept.new(batch) == list(new)
        kept.update((one, 1) for one in new)
        assert all(one in kept for one in batch)
    assert set(kept) == set("ae")  # the others were forgotten where there was no room and one was new


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see https://a.b/c?d and www.x.org !", "see url and url !"),
        ("mail me at a.b@c.de now", "mail me at email now"),
        ("i am 30 , born 1990-01-02 , with 3.5 cats", "i am digit , born digit , with digit cats"),
        ("the 1st of 2nd", "the 1st of 2nd"),
        ("so so good !!! really ? ?? yes", "so good ! really ? yes"),
        ("That that that is his history", "That is his history"),
    ],
)
def test_standard(text: str, expected: str) -> None:
    assert standard(text) == expected
