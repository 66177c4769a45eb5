"""Splits that hold out people, not only dialogues."""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from itertools import chain, combinations, pairwise
from typing import Literal

from personae.text import line_key
from personae.types import Dialogue, InputError, check

STARTS = 8

By = Literal["line", "persona"]

_Key = tuple[str, ...]


def persona_disjoint(
    dialogues: Sequence[Dialogue], *, share: float = 0.05, seed: int = 0, by: By = "line"
) -> tuple[list[Dialogue], list[Dialogue]]:
    """(train, held out), each in the order given; about `share` of the dialogues are held out, and those are dropped
    that would tie the two parts together, as few as a search from a few starting points finds. InputError where either
    part would come out less than half as large as asked for.

    With `by="line"` no persona line of a held-out dialogue, the partner's included, occurs in training, compared by
    `line_key`. With `by="persona"` none of its personas does, but single lines may: personas that have two lines in
    common are one persona, since Persona-Chat shows a persona with one line or another left out. Always, dialogues that
    begin alike (`opening`) stay together: ConvAI2's training files tell each dialogue from both sides. Lines that over
    half of the dialogues have, such as the constant persona of an assistant, do not count."""
    check("by", by, By)
    if not 0 < share < 1:
        raise InputError(f"share: {share} is not between 0 and 1: give the part to hold out, such as 0.05")
    graph = _graph(dialogues, by)
    target = max(1, round(share * len(dialogues)))
    cuts = [_grow(graph, target, random.Random(f"{seed}/{start}")) for start in range(STARTS)]
    cut = min(cuts, key=lambda cut: (max(target * 9 // 10 - cut.size, 0), cut.dropped, cut.size))
    kept = len(dialogues) - cut.size - cut.dropped
    if 2 * cut.size < target or 2 * kept < (1 - share) * len(dialogues):
        instead = ', or split by persona (in a recipe corpus.split_by: persona, in Python by="persona")'
        what, instead = ("persona line", instead) if by == "line" else ("persona", "")
        raise InputError(
            f"{share:.0%} of {len(dialogues)} dialogues cannot be held out so that no {what} is shared and half of the "
            f"rest is left to train on: give a dev file of your own{instead}"
        )
    train, held = [], []
    for dialogue, edge in zip(dialogues, graph.edge_of, strict=True):
        if graph.nodes[edge] <= cut.nodes:
            held.append(dialogue)
        elif not graph.nodes[edge] & cut.nodes:
            train.append(dialogue)
    return train, held


def people(dialogues: Sequence[Dialogue]) -> list[list[str]]:
    """Who the two speakers of each dialogue are, by their personas: those that have two lines in common are of one
    person, who is named by the first speaker that has them. A speaker without a persona is nobody else."""
    groups = _Groups()
    keys = [[_keys(frozenset(map(line_key, s.persona.facts)), "persona") for s in d.speakers] for d in dialogues]
    for both in keys:
        for persona in both:
            for key in persona[1:]:
                groups.join(persona[0], key)
    names: dict[_Key, str] = {}
    return [
        [
            names.setdefault(groups.find(persona[0]), speaker.id) if persona else speaker.id
            for persona, speaker in zip(both, dialogue.speakers, strict=True)
        ]
        for both, dialogue in zip(keys, dialogues, strict=True)
    ]


def opening(dialogue: Dialogue, turns: int | None = 4) -> tuple[str, ...]:
    """The keys of the first so many turns (all of them if None), the same from whichever side a dialogue is told."""
    return tuple(line_key(turn.text) for turn in dialogue.turns[:turns])


def keep_apart(reported: Sequence[Dialogue], where: str, others: Mapping[str, Sequence[Dialogue]]) -> dict[str, int]:
    """How many of the dialogues that are reported on, which come from `where`, each of the named `others` knows: over
    half of whose exchanges, an utterance and what answers it (`line_key`), are in its dialogues, whatever the personas,
    so also where dialogues were cut; of one that answers a `question`, the last exchange counts. InputError where these
    are over a quarter (of very few, over half): a result on them would say little about new ones. A few may be alike by
    chance, more so where dialogues are short."""
    said = [_exchanges(_answer(dialogue)) for dialogue in reported]
    found = {}
    for name, dialogues in others.items():
        there = set(chain.from_iterable(map(_exchanges, dialogues)))
        known = sum(2 * len(exchanges & there) > len(exchanges) for exchanges in said)
        if 2 * known > len(said) or (4 * known > len(said) and known > 2):
            raise InputError(
                f"{where}: {known} of its {len(said)} dialogues are in {name} too, whole or for the greater part, so "
                "that a result would say little about new ones; give files that share none"
            )
        found[name] = known
    return found


def _answer(dialogue: Dialogue) -> Dialogue:
    """The part of a dialogue that is reported on."""
    return dialogue if dialogue.question is None else replace(dialogue, turns=dialogue.turns[-2:])


def _exchanges(dialogue: Dialogue) -> set[tuple[str, ...]]:
    """The keys of each utterance and the next; of the only one of a dialogue that has no more."""
    turns = opening(dialogue, None)
    return set(pairwise(turns)) or {turns}


@dataclass(frozen=True, slots=True)
class _Graph:
    """A hypergraph: an edge is a conversation, with its number of dialogues, and its nodes are the groups of personas
    in it; `edge_of` has the edge of each dialogue."""

    nodes: list[frozenset[int]]
    sizes: list[int]
    edge_of: list[int]


@dataclass(frozen=True, slots=True)
class _Cut:
    """The nodes held out, and how many dialogues lie within them and how many on their border."""

    nodes: set[int]
    size: int
    dropped: int


def _graph(dialogues: Sequence[Dialogue], by: By) -> _Graph:
    conversations: dict[_Key, int] = {}
    edge_of = [conversations.setdefault(opening(d) or (d.id,), len(conversations)) for d in dialogues]
    personas = [[{line_key(line) for line in s.persona.facts} for s in d.speakers] for d in dialogues]
    seen = defaultdict[str, int](int)
    for one, other in personas:
        for line in one | other:
            seen[line] += 1
    groups = _Groups()
    # Keys of a persona; two personas that share a key are one group.
    keys = [
        [_keys(frozenset(line for line in persona if 2 * seen[line] <= len(dialogues)), by) for persona in both]
        for both in personas
    ]
    for both in keys:
        for persona in both:
            for key in persona[1:]:
                groups.join(persona[0], key)
    # Nodes are numbers, not texts, for sets of texts have another order in every process.
    numbers: dict[_Key, int] = {}
    nodes: list[set[int]] = [set() for _ in conversations]
    sizes = [0] * len(conversations)
    for edge, both in zip(edge_of, keys, strict=True):
        nodes[edge].update(numbers.setdefault(groups.find(persona[0]), len(numbers)) for persona in both if persona)
        sizes[edge] += 1
    # A conversation without personas is a node of its own, with a number below 0.
    return _Graph([frozenset(group or {-1 - edge}) for edge, group in enumerate(nodes)], sizes, edge_of)


def _keys(persona: frozenset[str], by: By) -> list[_Key]:
    lines = sorted(persona)
    return [(line,) for line in lines] if by == "line" or len(lines) == 1 else list(combinations(lines, 2))


class _Groups:
    """Disjoint sets, found by following parents."""

    def __init__(self) -> None:
        self._parent: dict[_Key, _Key] = {}

    def find(self, item: _Key) -> _Key:
        root = item
        while (parent := self._parent.get(root, root)) != root:
            root = parent
        while item != root:
            self._parent[item], item = root, self._parent.get(item, root)
        return root

    def join(self, one: _Key, other: _Key) -> None:
        self._parent[self.find(other)] = self.find(one)


def _grow(graph: _Graph, target: int, rng: random.Random) -> _Cut:
    """Add the node that completes the largest part of its conversations, until `target` dialogues are within."""
    edges = defaultdict[int, list[int]](list)
    for edge, nodes in enumerate(graph.nodes):
        for node in nodes:
            edges[node].append(edge)
    weight = {node: sum(graph.sizes[edge] for edge in mine) for node, mine in edges.items()}
    order = {node: rng.random() for node in edges}
    missing = [set(nodes) for nodes in graph.nodes]
    gain = {node: sum(graph.sizes[edge] for edge in mine if len(missing[edge]) == 1) for node, mine in edges.items()}
    heap = [(-gain[node] / weight[node], order[node], node) for node in edges]
    heapify(heap)
    held: set[int] = set()
    size = 0
    while heap and size < target:
        node = heappop(heap)[2]
        if node in held or size + gain[node] > target + target // 10 + 1:
            continue
        held.add(node)
        size += gain[node]
        for edge in edges[node]:
            missing[edge].discard(node)
            if len(missing[edge]) == 1:
                (last,) = missing[edge]
                gain[last] += graph.sizes[edge]
                heappush(heap, (-gain[last] / weight[last], order[last], last))
    touched = {edge for node in held for edge in edges[node]}
    return _Cut(held, size, sum(graph.sizes[edge] for edge in touched) - size)
