"""Text files in and out: UTF-8 or a clear refusal, and never half a file."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from personae.types import InputError


def text(path: Path, *, blank: bool = False) -> str:
    """The whole file, without a byte order mark. InputError where it cannot be opened, is not UTF-8 or, unless it may
    be `blank`, is empty."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): give a readable file") from error
    try:
        decoded = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if data.startswith(b"\x1f\x8b"):
            raise InputError(
                f"{path}: is compressed by gzip: unpack it, with gunzip, and give what comes out"
            ) from error
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: byte {error.start} of the file is not UTF-8: save it as UTF-8") from error
    if not blank and (not decoded or decoded.isspace()):
        raise InputError(f"{path}: the file is empty: copy it again, or give another")
    return decoded


def numbered(path: Path, *, blank: bool = False) -> Iterator[tuple[int, str]]:
    """The lines that are not blank with their numbers from 1; only line feeds end a line, so that other control
    characters survive."""
    for number, line in enumerate(text(path, blank=blank).split("\n"), start=1):
        if line and not line.isspace():
            yield number, line.removesuffix("\r")


def ended(path: Path) -> bool:
    """Whether the last line of a file, which is not empty, ends with a line feed."""
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def save(lines: Iterable[str], path: str | Path) -> None:
    """Write `lines`, each with a line feed; the file is complete or untouched."""
    with whole(Path(path)) as file:
        file.writelines(f"{line}\n".encode() for line in lines)


def sweep(folder: Path) -> None:
    """Deletes what `whole` left below a folder where its process was killed."""
    for part in folder.rglob("*.[0-9]*.part"):
        part.unlink(missing_ok=True)


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write, that is put in place of `path` when it is whole. InputError where it cannot be written."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}): give another folder, or make room") from error
    finally:
        part.unlink(missing_ok=True)


def texts(path: Path, needed: str | None = None) -> list[str]:
    """The lines of a text file that are not blank; none where it is empty. InputError where a `needed` thing, of which
    there is one in each line, is not there."""
    found = [line.strip() for _, line in numbered(path, blank=True)]
    if needed and not found:
        raise InputError(f"{path}: holds no {needed}; give one in each line")
    return found
