"""A corpus made of files: training files, a part of them held out by persona to develop on, and a file to report on."""

from collections.abc import Container, Iterator, Sequence
from functools import cached_property
from typing import Literal

from personae.data import fragments
from personae.data.read import find, form, locate, read
from personae.data.splits import persona_disjoint
from personae.data.texts import with_personas
from personae.text import line_key
from personae.types import Dialogue, InputError, Persona


class Files:
    """Splits "train", "dev" and "valid" of files in any form that `read` knows, with paths as they are or below
    PERSONAE_DATA.

    dev is `dev`, where that file is given, else about `dev_share` of the training files' dialogues, held out by
    `persona_disjoint` with `seed` and `split_by`, which drops dialogues that tie the two together. `also` are more
    files to train on, from which nothing is held out: of their personas, the lines that a persona of dev or valid has
    are left out. They may be `fragments`; those that a dialogue of `train` holds are left out."""

    def __init__(
        self,
        *,
        train: list[str],
        valid: str,
        dev: str | None = None,
        also: list[str] | None = None,
        dev_share: float = 0.05,
        split_by: Literal["line", "persona"] = "line",
        seed: int = 0,
    ) -> None:
        self.train = train
        self.valid = valid
        self.dev = dev
        self.also = also or []
        self.dev_share = dev_share
        self.split_by = split_by
        self.seed = seed

    def split(self, name: str) -> Iterator[Dialogue]:
        """The dialogues of "train", "dev" or "valid". InputError on any other name."""
        if name == "train":
            return iter([*self._parts[0], *self._more()])
        if name == "dev":
            return iter(self._parts[1])
        if name == "valid":
            return iter(read(self.valid))
        raise InputError(f"split {name!r}: ask for train, dev or valid")

    @cached_property
    def _parts(self) -> tuple[list[Dialogue], list[Dialogue]]:
        dialogues = self._whole
        if self.dev is not None:
            return dialogues, read(self.dev)
        return persona_disjoint(dialogues, share=self.dev_share, seed=self.seed, by=self.split_by)

    @cached_property
    def _whole(self) -> list[Dialogue]:
        """All dialogues of the training files."""
        return _distinct(self.train, [])

    def _more(self) -> list[Dialogue]:
        """The dialogues of the other files."""
        if not self.also:
            return []
        held = {line_key(fact) for dialogue in (*self._parts[1], *read(self.valid)) for fact in _facts(dialogue)}
        apart = self._whole if self.dev is None else [*self._whole, *self._parts[1]]
        return [_without(dialogue, held) for dialogue in _distinct(self.also, apart)]


def _distinct(paths: Sequence[str], others: Sequence[Dialogue]) -> list[Dialogue]:
    """The dialogues of files, the fragments last, whose personas are found there and in the `others`. InputError where
    two have one id."""
    found: dict[str, Dialogue] = {dialogue.id: dialogue for dialogue in others}
    for path in sorted(paths, key=_are_fragments):
        if _are_fragments(path):
            there = list(found.values())
            dialogues = fragments.apart(fragments.read(find(path), there), others)
        else:
            dialogues = read(path)
        for dialogue in dialogues:
            if dialogue.id in found:
                raise InputError(f"{path}: dialogue {dialogue.id!r} is in another training file too: rename one")
            found[dialogue.id] = dialogue
    return list(found.values())[len(others) :]


def _are_fragments(path: str) -> bool:
    return form(locate(path)[0]) == "fragments"


def _facts(dialogue: Dialogue) -> list[str]:
    return [fact for speaker in dialogue.speakers for fact in speaker.persona.facts]


def _without(dialogue: Dialogue, held: Container[str]) -> Dialogue:
    """The dialogue without the persona lines that are `held`."""
    kept = (
        tuple(fact for fact in speaker.persona.facts if line_key(fact) not in held) for speaker in dialogue.speakers
    )
    return with_personas(dialogue, map(Persona, kept))
