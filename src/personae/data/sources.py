"""The catalogue `sources.toml`: origin, licence, citation, counts and files of each corpus."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class File:
    """A file of a corpus: its size and its digest, md5 where it is the published file, else sha256."""

    corpus: str
    name: str
    bytes: int
    md5: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A corpus; `counts` are those documented, by split."""

    name: str
    title: str
    origin: str
    licence: str
    citation: str
    counts: dict[str, dict[str, int]]
    files: tuple[File, ...]


@cache
def sources() -> tuple[Source, ...]:
    """Every corpus of the catalogue."""
    catalogue = tomllib.loads(files("personae.data").joinpath("sources.toml").read_text(encoding="utf-8"))
    return tuple(
        Source(
            name=name,
            title=corpus["title"],
            origin=corpus["origin"],
            licence=corpus["licence"],
            citation=corpus["citation"],
            counts=corpus["counts"],
            files=tuple(File(corpus=name, name=file, **entry) for file, entry in corpus["files"].items()),
        )
        for name, corpus in catalogue.items()
    )
