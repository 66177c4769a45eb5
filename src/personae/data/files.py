"""A corpus made of files: training files, a part of them held out by persona to develop on, and a file to report on."""

from collections.abc import Iterator
from functools import cached_property
from typing import Literal

from personae.data.read import read
from personae.data.splits import persona_disjoint
from personae.types import Dialogue, InputError


class Files:
    """Splits "train", "dev" and "valid" of files in any form that `read` knows, with paths as they are or below
    PERSONAE_DATA.

    dev is `dev`, where that file is given, else about `dev_share` of the training files' dialogues, held out by
    `persona_disjoint` with `seed` and `split_by`, which drops dialogues that tie the two together."""

    def __init__(
        self,
        *,
        train: list[str],
        valid: str,
        dev: str | None = None,
        dev_share: float = 0.05,
        split_by: Literal["line", "persona"] = "line",
        seed: int = 0,
    ) -> None:
        self.train = train
        self.valid = valid
        self.dev = dev
        self.dev_share = dev_share
        self.split_by = split_by
        self.seed = seed

    def split(self, name: str) -> Iterator[Dialogue]:
        """The dialogues of "train", "dev" or "valid". InputError on any other name."""
        if name == "train":
            return iter(self._parts[0])
        if name == "dev":
            return iter(self._parts[1])
        if name == "valid":
            return iter(read(self.valid))
        raise InputError(f"split {name!r}: ask for train, dev or valid")

    @cached_property
    def _parts(self) -> tuple[list[Dialogue], list[Dialogue]]:
        dialogues: dict[str, Dialogue] = {}
        for path in self.train:
            for dialogue in read(path):
                if dialogue.id in dialogues:
                    raise InputError(f"{path}: dialogue {dialogue.id!r} is in another training file too: rename one")
                dialogues[dialogue.id] = dialogue
        if self.dev is not None:
            return list(dialogues.values()), read(self.dev)
        return persona_disjoint(list(dialogues.values()), share=self.dev_share, seed=self.seed, by=self.split_by)
