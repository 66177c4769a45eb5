"""From text to words and numbers: the word-level tokenizer and the vocabulary."""

import re
from collections import Counter
from collections.abc import Iterable

PAD, UNKNOWN = "<pad>", "<unk>"

_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]"  # a Chinese, Japanese or Korean character is a word
    r"|[^\W\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]+"
    r"|[^\w\s]"
)


def words(text: str) -> list[str]:
    """Lower-cased words and punctuation marks, every mark a word of its own: "I'm fine." is i ' m fine ."""
    return _WORD.findall(text.lower())


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
