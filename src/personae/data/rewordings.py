"""Persona lines told in other words, as a table: a line, and what says the same of the same person, tab by tab.

    i sail every summer.	My boat is where I spend July.	I am a yachtsman.

In place of a line stands its `digest` where the line itself is not to be shown."""

from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

from personae.data import lines
from personae.data.read import find
from personae.text import line_key
from personae.types import InputError

Rewordings = Mapping[str, tuple[str, ...]]


def digest(line: str) -> str:
    """Ten hexadecimal digits that tell a line from others, but not what it says; those of `line_key`."""
    return sha256(line_key(line).encode()).hexdigest()[:10]


@lru_cache(maxsize=1)
def read(path: str | None = None) -> Rewordings:
    """The rewordings of each line, by its `digest`; without a path, those that come with the package, of the persona
    lines of Persona-Chat's training dialogues. InputError names the file and the line."""
    table = Path(str(files("personae") / "assets" / "rewordings.tsv")) if path is None else find(path)
    found: dict[str, tuple[str, ...]] = {}
    for number, row in lines.numbered(table):
        line, *others = (part.strip() for part in row.split("\t"))
        if not line or not others or not all(others):
            raise InputError(f"{table}:{number}: is not a line and its rewordings, with a tab between any two: mend it")
        known = line if len(line) == 10 and not set(line) - set("0123456789abcdef") else digest(line)
        found[known] = (*found.get(known, ()), *others)
    return found
