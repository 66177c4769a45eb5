"""N-gram language models of many users at once: interpolated modified Kneser-Ney.

S. Chen and J. Goodman, An empirical study of smoothing techniques for language modeling, Computer Speech and Language
13, 1999, section 4.1.1; estimated as KenLM's `lmplz --discount_fallback` does (Heafield et al., ACL 2013,
https://aclanthology.org/P13-2121), whose probabilities these are: each user's model knows the words of that user
alone, one <unk> stands for all others, unigrams are interpolated with the uniform distribution, and where an order's
counts of counts give no discounts, those are 0.5, 1 and 1.5. Other than there, they are so as well where a discount of
0 would leave nothing for other words after some context.

A dense number stands for each distinct n-gram of a user, made of the number of its first n-1 words and of its last
word; so all users' counts are sums over arrays, without a loop over users.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from personae.types import InputError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

START, END = 0, 1
"""Numbers of the marks before and after a sentence; words follow."""

FALLBACK = (0.5, 1.0, 1.5)

AT_ONCE = 4_000_000
"""Probabilities that are computed at once."""


@dataclass(frozen=True, slots=True)
class _Order:
    """The n-grams of one length, of all users: the sorted `keys`, of context and last word, and of each n-gram the
    discounted probability `own`. Of each context, by its number among the n-grams that are one shorter, the weight
    `left` of the next lower order: 1 where nothing followed it."""

    keys: Ints
    own: Floats
    left: Floats

    def find(self, contexts: Ints, words: Ints, size: int) -> Ints:
        """The numbers of n-grams; -1 where there is none."""
        wanted = contexts * size + words
        places = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where((self.keys[places] == wanted) & (contexts >= 0) & (words >= 0), places, -1)


class NgramModels:
    """A model of each user, `order` words long at most, of what that user said: for each of U users, sentences of
    words. InputError where there is no user, or one said nothing."""

    def __init__(self, said: Sequence[Sequence[Sequence[str]]], *, order: int = 3) -> None:
        if order < 1:
            raise InputError(f"order: {order} is not at least 1")
        if not said:
            raise InputError("there is no user whose language could be modelled: give at least one")
        silent = [number for number, each in enumerate(said) if not any(each)]
        if silent:
            raise InputError(f"user {silent[0]}, counted from 0, said no word that could be modelled: leave them out")
        self.users = len(said)
        sentences = [(user, sentence) for user, each in enumerate(said) for sentence in each]
        known = dict.fromkeys(word for _, sentence in sentences for word in sentence)
        self.numbers = {word: number for number, word in enumerate(known, start=END + 1)}
        self.size = len(known) + END + 1
        words, place = self._flat(sentence for _, sentence in sentences)
        lengths = [len(sentence) + 2 for _, sentence in sentences]
        user = np.repeat(np.array([user for user, _ in sentences], np.int64), lengths)
        self.orders = self._counted(words, place, user, min(order, max(lengths)))

    def log_probabilities(self, sentences: Sequence[Sequence[str]]) -> Floats:
        """The natural logarithm of the probability that each user's model gives each sentence and its end: (sentences,
        U)."""
        found = np.empty((len(sentences), self.users))
        step = max(1, AT_ONCE // (self.users * max((len(each) + 2 for each in sentences), default=1)))
        for start in range(0, len(sentences), step):
            some = sentences[start : start + step]
            words, place = self._flat(some)
            events = np.flatnonzero(place > 0)  # all but the marks before
            starts = np.cumsum([0] + [len(sentence) + 1 for sentence in some[:-1]])
            found[start : start + step] = np.add.reduceat(np.log(self._events(words, place, events)), starts)
        return found

    def perplexities(self, sentences: Sequence[Sequence[str]]) -> Floats:
        """The perplexity of each sentence under each user's model, per word with the end as one: (sentences, U)."""
        lengths = np.array([len(sentence) + 1 for sentence in sentences])
        return np.exp(-self.log_probabilities(sentences) / lengths[:, None])

    def _flat(self, sentences: Iterable[Sequence[str]]) -> tuple[Ints, Ints]:
        """The words of all sentences, each with its marks, and the place of each in its sentence; -1 is a word that no
        user said."""
        words: list[int] = []
        place: list[int] = []
        for sentence in sentences:
            words += [START, *(self.numbers.get(word, -1) for word in sentence), END]
            place += range(len(sentence) + 2)
        return np.array(words, np.int64), np.array(place, np.int64)

    def _counted(self, words: Ints, place: Ints, user: Ints, order: int) -> list[_Order]:
        """The n-grams of each length, shortest first."""
        grams, contexts = [], [user]  # of each place, the number of the n-gram that ends there; of its context
        keys = []
        for length in range(1, order + 1):
            there = place >= length - 1
            found, numbers = np.unique(contexts[-1][there] * self.size + words[there], return_inverse=True)
            gram = np.full(len(words), -1)
            gram[there] = numbers
            keys.append(found)
            grams.append(gram)
            contexts.append(np.concatenate([[-1], gram[:-1]]))
        orders = []
        for length, (gram, found) in enumerate(zip(grams, keys, strict=True), start=1):
            used = np.flatnonzero(gram >= 0)
            first = np.empty(len(found), np.int64)  # a place of each n-gram
            first[gram[used]] = used
            counts = np.bincount(gram[used], minlength=len(found))
            if length < order:  # how many words were before it; those at the beginning have none there
                longer = np.unique(grams[length], return_index=True)[1]
                before = np.bincount(gram[longer[grams[length][longer] >= 0]], minlength=len(found))
                counts = np.where(place[first] == length - 1, counts, before)
            if length == 1:
                counts[words[first] == START] = 0
            size = self.users if length == 1 else len(keys[length - 2])
            orders.append(self._order(found, counts, contexts[length - 1][first], user[first], size))
        return orders

    def _order(self, keys: Ints, counts: Ints, contexts: Ints, user: Ints, size: int) -> _Order:
        """The n-grams of one length with their counts; `size` is the number of contexts."""
        kinds, discounts = np.minimum(counts, 3), self._discounts(counts, user)
        taken = np.bincount(contexts, discounts[user, kinds], size)
        discounts[user[taken[contexts] == 0], 1:] = FALLBACK  # where another word would be impossible after a context
        discount = discounts[user, kinds]
        sums = np.bincount(contexts, counts, size)
        share = np.divide(1.0, sums, out=np.zeros(size), where=sums > 0)
        left = np.where(sums > 0, np.bincount(contexts, discount, size) * share, 1.0)
        return _Order(keys, (counts - discount) * share[contexts], left)

    def _discounts(self, counts: Ints, user: Ints) -> Floats:
        """What is taken of n-grams that were counted 0, 1, 2 and more times: (U, 4). In single precision,
        in which `lmplz` tells which of these are below 0."""
        seen = np.zeros((self.users, 5), np.float32)
        few = counts < 5
        np.add.at(seen, (user[few], counts[few]), 1)
        once, twice = seen[:, 1], seen[:, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = once / (once + 2 * twice)
            found = np.stack([n - (n + 1) * ratio * seen[:, n + 1] / seen[:, n] for n in (1, 2, 3)], 1)
        usable = np.all((seen[:, 1:4] > 0) & (found >= 0) & (found <= (1, 2, 3)), axis=1, keepdims=True)
        found = np.where(usable, found, FALLBACK)
        return np.concatenate([np.zeros((self.users, 1)), found], 1)

    def _events(self, words: Ints, place: Ints, events: Ints) -> Floats:
        """The probability of the word at each of the places `events` after what is before it: (events, U)."""
        of_user = np.arange(self.users)
        word = np.broadcast_to(words[events][:, None], (len(events), self.users))
        first = self.orders[0]
        vocabulary = np.bincount(first.keys // self.size, first.keys % self.size != START, self.users) + 1
        contexts = np.broadcast_to(of_user, word.shape)
        probability = first.left / vocabulary + self._own(first, contexts, word)
        for length, order in enumerate(self.orders[1:], start=2):
            contexts = np.broadcast_to(of_user, word.shape)
            for shorter in range(1, length):
                behind = events - length + shorter
                before = np.where(place[events] >= length - 1, words[np.maximum(behind, 0)], -1)
                contexts = self.orders[shorter - 1].find(contexts, before[:, None], self.size)
            left = np.where(contexts >= 0, order.left[contexts], 1.0)
            probability = left * probability + self._own(order, contexts, word)
        return np.asarray(probability)

    def _own(self, order: _Order, contexts: Ints, word: Ints) -> Floats:
        places = order.find(contexts, word, self.size)
        return np.where(places >= 0, order.own[places], 0.0)
