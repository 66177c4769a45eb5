"""Candidates: which turns are examples, what each is to be chosen from, and a name for the draw."""

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from personae.types import Dialogue, Example, InputError

Sides = Literal["second", "both"]
"""Whose replies are examples where no candidates are given: the second speaker's (as in ConvAI2) or both's."""


@dataclass(frozen=True, slots=True)
class Draw:
    """Which candidates were used: `name` is "official" where the file gave them, else "own20" and the like; `sha256` is
    over the examples' ids and their sorted candidates, so that their order does not matter."""

    name: str
    sha256: str


def examples(dialogues: Iterable[Dialogue], *, sides: Sides = "second") -> list[Example]:
    """The last turn, where a dialogue names the question that it answers; else the turns with candidates, where a
    dialogue has any; else every turn but the first that one of `sides` says."""
    return [
        Example(replace(dialogue, turns=dialogue.turns[:i]), dialogue.turns[i])
        for dialogue in dialogues
        for i in _places(dialogue, sides)
    ]


def draw(dialogues: Sequence[Dialogue], *, n: int = 20, seed: int = 0, sides: Sides = "second") -> list[Dialogue]:
    """The dialogues with `n` candidates at every turn but the first that one of `sides` says, in place of any others.

    They are the true reply, in a random place, and n - 1 distinct replies that occur in other dialogues of the list,
    all equally likely. What an example is given depends on `seed`, its id and the replies of the list, on nothing else.
    InputError where there are fewer than n distinct replies to choose from."""
    if n < 2:
        raise InputError(f"candidates: {n} are no choice: ask for 2 or more")
    bare = [replace(d, turns=tuple(replace(turn, candidates=()) for turn in d.turns)) for d in dialogues]
    owners: dict[str, set[str]] = defaultdict(set)
    for example in examples(bare, sides=sides):
        owners[example.target.text].add(example.context.id)
    replies = sorted(owners)
    return [_drawn(dialogue, replies, owners, n, seed, sides) for dialogue in bare]


def offered(
    dialogues: Sequence[Dialogue], *, n: int = 20, seed: int = 0, sides: Sides = "second"
) -> tuple[list[Dialogue], Draw]:
    """The dialogues as they are where they have candidates, else with `n` drawn ones; and which draw it is. InputError
    where only some dialogues have candidates."""
    if any(turn.candidates for dialogue in dialogues for turn in dialogue.turns):
        given = examples(dialogues, sides=sides)
        if bare := next((example for example in given if not example.target.candidates), None):
            raise InputError(
                f"{bare.id}: has no candidates, other dialogues have: give them to all dialogues or to none"
            )
        return list(dialogues), fingerprint(given)
    drawn = draw(dialogues, n=n, seed=seed, sides=sides)
    return drawn, fingerprint(examples(drawn, sides=sides), n=n, seed=seed)


def choice(candidates: tuple[str, ...], reply: str, where: str) -> tuple[str, ...]:
    """The candidates that a file gives for a reply: none, or at least two, the reply among them. InputError, which
    begins with `where`, on any others."""
    if len(candidates) == 1:
        raise InputError(f"{where}: a single candidate is no choice: give two or more, or none")
    if candidates and reply not in candidates:
        raise InputError(f"{where}: the reply is not among its candidates: add it")
    return candidates


def fingerprint(examples: Iterable[Example], *, n: int | None = None, seed: int = 0) -> Draw:
    """The draw that `examples` hold: "official", or with `n`, "own20" for 20 drawn ones ("own20-seed3" with seed 3)."""
    digest = hashlib.sha256()
    for example in examples:
        case = [example.id, *sorted(example.target.candidates)]
        digest.update(json.dumps(case, ensure_ascii=False).encode(errors="surrogatepass") + b"\n")
    name = "official" if n is None else f"own{n}" + (f"-seed{seed}" if seed else "")
    return Draw(name, digest.hexdigest())


def _places(dialogue: Dialogue, sides: Sides) -> list[int]:
    given = [i for i, turn in enumerate(dialogue.turns) if turn.candidates]
    if dialogue.question is not None:
        return [len(dialogue.turns) - 1] if len(dialogue.turns) > 1 else []
    return given or [i for i, turn in enumerate(dialogue.turns) if i and (turn.speaker == 1 or sides == "both")]


def _drawn(
    dialogue: Dialogue, replies: Sequence[str], owners: dict[str, set[str]], n: int, seed: int, sides: Sides
) -> Dialogue:
    only_here = {turn.text for turn in dialogue.turns if owners.get(turn.text) == {dialogue.id}}
    turns = list(dialogue.turns)
    for example in examples([dialogue], sides=sides):
        rng = random.Random(f"{seed}/{example.id}")
        barred = only_here | {example.target.text}
        if len(replies) - len(barred) < n - 1:
            whose = " of speaker 1, and only these count" if sides == "second" else ""
            raise InputError(
                f"{example.id}: {n} candidates cannot be drawn: other dialogues have only "
                f"{len(replies) - len(barred)} other replies{whose}: give more dialogues, ask for fewer candidates, or "
                "give them in the file"
            )
        # As many as are barred are drawn on top, so that n - 1 are left whichever are struck out.
        sample = rng.sample(replies, min(len(replies), n - 1 + len(barred)))
        candidates = [reply for reply in sample if reply not in barred][: n - 1]
        candidates.insert(rng.randrange(n), example.target.text)
        turns[len(example.context.turns)] = replace(example.target, candidates=tuple(candidates))
    return replace(dialogue, turns=tuple(turns))
