"""From text to words and numbers: the word-level tokenizer and the vocabulary."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import TypeVar

PAD, UNKNOWN = "<pad>", "<unk>"

ROOM = 1 << 24
"""Of texts of so many characters, and `EACH` more a text, is what was made of them kept: of some 150,000 sentences."""
EACH = 64

_Made = TypeVar("_Made")

_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]"  # a Chinese, Japanese or Korean character is a word
    r"|[^\W\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]+"
    r"|[^\w\s]"
)


_STANDARD = (
    (re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE), "url"),
    (re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"), "email"),
    (re.compile(r"(?<!\w)\d+(?:[.,:/-]\d+)*(?!\w)"), "digit"),
    (re.compile(r"([^\w\s])(?:\s*\1)+"), r"\1"),
    (re.compile(r"\b(\w+)(?:\s+\1\b)+", re.IGNORECASE), r"\1"),
)


def standard(text: str) -> str:
    """A text whose addresses and numbers are the words url, email and digit, and where neither a mark nor a word is
    repeated one after another (Wu et al., GEM 2021, section 5.1, https://aclanthology.org/2021.gem-1.5). Addresses of
    the web are those that begin with http, https or www; a number that letters are part of, such as 10k, stays."""
    for pattern, instead in _STANDARD:
        text = pattern.sub(instead, text)
    return text


def line_key(line: str) -> str:
    """A persona line or utterance without case, punctuation and spaces: what is equal by it counts as the same."""
    return re.sub(r"[\W_]+", "", line.casefold()) or line


def words(text: str) -> list[str]:
    """Lower-cased words and punctuation marks, every mark a word of its own: "I'm fine." is i ' m fine ."""
    return _WORD.findall(text.lower())


def joined(words: Iterable[str]) -> str:
    """Words and marks as one writes them, of which `words` makes the same again."""
    text = re.sub(r"(?<=\w) ([,.;:!?)\]]+)", r"\1", " ".join(words))
    return re.sub(r"(?<=[^\W_]) (['’]) (?=[^\W_])", r"\1", text)


class Kept(dict[str, _Made]):
    """What was made of texts, so that it is made once. All is forgotten where new texts come and there is no `room`
    left, so that memory does not grow with what is read."""

    def __init__(self, room: int = ROOM) -> None:
        super().__init__()
        self.room, self.size = room, 0

    def new(self, texts: Iterable[str]) -> list[str]:
        """Those of the texts, each once, of which nothing is kept: make it of them all, and put it in."""
        wanted = dict.fromkeys(texts)
        new = [text for text in wanted if text not in self]
        if new and self.size > self.room:
            self.clear()
            new = list(wanted)
        self.size += sum(map(len, new)) + EACH * len(new)
        return new

    def clear(self) -> None:
        """Forgets all."""
        super().clear()
        self.size = 0


class Vocabulary:
    """Words with numbers. Number 0 is padding and 1 any unknown word; the rest follow by falling frequency, then by
    the alphabet, so that the same texts always give the same numbers."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self.words = [PAD, UNKNOWN, *known]
        self.numbers = {word: number for number, word in enumerate(self.words)}

    @classmethod
    def of(cls, sentences: Iterable[list[str]], *, min_count: int = 1) -> "Vocabulary":
        """The words that occur at least `min_count` times in `sentences`."""
        counts = Counter(word for sentence in sentences for word in sentence)
        kept = [word for word, count in counts.items() if count >= min_count and word not in (PAD, UNKNOWN)]
        return cls(sorted(kept, key=lambda word: (-counts[word], word)))

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, word: str) -> int:
        return self.numbers.get(word, 1)

    def __contains__(self, word: object) -> bool:
        return word in self.numbers
