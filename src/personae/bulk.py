"""Many cases ranked, from a file into a file: a line in, a line out, in constant memory.

What is written grows in OUTPUT.part, and OUTPUT.part.json tells what it is made of and how far it is. The second is
replaced when some more lines are safely in the first, so that a command that is killed at any moment loses a little
work, which it does again when it goes on, and neither misses nor repeats a line.
"""

import hashlib
import io
import json
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from personae import __version__, checkpoint, console
from personae.agent import WINDOW, Agent, together
from personae.data import jsonl
from personae.nn.processor import Numbers
from personae.results import read_json
from personae.types import Case, InputError, Ranked

LONG = 256
"""A line counts as one candidate for so many bytes, where it has fewer."""


@dataclass(frozen=True)
class _Place:
    """How far a command is: the lines that were read, their bytes and digest; the cases that were ranked, their
    candidates, and the lines that could not be; the bytes of the files that are written; the time that it took."""

    line: int = 0
    read: int = 0
    sha256: str = ""
    cases: int = 0
    pairs: int = 0
    errors: int = 0
    sizes: tuple[int, ...] = ()
    seconds: float = 0.0
    finished: bool = False


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the input: where it stands, what it is called, and its case or why it is none."""

    where: str
    number: int
    raw: bytes
    name: str | int
    case: Case | InputError

    @property
    def width(self) -> int:
        """How many candidates it has, or is as long as; of a mistake one, so that there are never too many."""
        there = 1 if isinstance(self.case, InputError) else len(self.case["candidates"])
        return max(there, len(self.raw) // LONG)


def rank(
    model: str,
    source: Path,
    output: Path,
    *,
    errors: Path | None = None,
    top: int | None = None,
    precision: Numbers = "auto",
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Ranks each case of the file `source` ("-" for standard input), in the form of `data.jsonl`, into a line of
    `output`: the case's "id", or else its line's number, its "line", the "results", the best `top` of them or all, and
    of a calibrated model the probability that "none" of all fits.
    `precision` is that of `Agent`.

    A line that cannot be ranked goes to the file `errors`, or without one is told to `say`. A command that was stopped
    goes on where it was, if it reads a file; what is returned counts from its first beginning. InputError where an
    output exists, another command is writing it, or what was begun is not what is asked for now.
    """
    if top is not None and top < 1:
        raise InputError(f"--top: {top} is not at least 1")
    targets = {"--output": output} | ({"--errors": errors} if errors else {})
    with ExitStack() as opened:
        file = opened.enter_context(_reading(source))
        about = os.fstat(file.fileno())
        kept = str(source) != "-" and stat.S_ISREG(about.st_mode)
        work = opened.enter_context(_Work(targets, source, kept=kept))
        agent = Agent.load(model, precision=precision)
        wanted = {
            "model": _digest(agent, model),
            "--precision": agent.precision,
            "--top": top,
            "--errors": errors and str(errors),
        }
        place = begun = work.begin({"personae": __version__, **wanted})
        digest = _skipped(file, begun, f"--input {source}", work.journal)
        advance = opened.enter_context(console.progress("ranking", about.st_size if kept else None))
        advance(begun.read)
        start = time.perf_counter()
        reading = iter(()) if begun.finished else _lines(file, source, begun.line)
        for some in together(reading, lambda line: line.width, WINDOW):
            ranked, failed, pairs = _answers(agent, some, top)
            for raw in some:
                digest.update(raw.raw)
            if errors is None:
                for failure in failed:
                    say(failure["error"])
            read = sum(len(line.raw) for line in some)
            place = replace(
                place,
                line=some[-1].number,
                read=place.read + read,
                sha256=digest.hexdigest(),
                cases=place.cases + len(ranked),
                pairs=place.pairs + pairs,
                errors=place.errors + len(failed),
                seconds=begun.seconds + time.perf_counter() - start,
            )
            place = work.add((ranked, failed), place)
            advance(read)
        work.finish(place)
    rate = place.pairs / place.seconds if place.seconds else 0.0
    failures = f"; {place.errors:,} lines could not be" if place.errors else ""
    beside = f", see {errors}" if errors and place.errors else ""
    say(
        f"{place.cases:,} cases with {place.pairs:,} candidates were ranked in {place.seconds:.1f} s, {rate:,.0f} "
        f"candidates a second{failures}{beside}"
    )
    counts = {"cases": place.cases, "pairs": place.pairs, "errors": place.errors, "seconds": place.seconds}
    named = {"model": model, "scale": agent.scale, "input": str(source), "output": str(output)}
    return {**named, **counts, "resumed_at": begun.line + 1 if begun.line else None}


class _Work:
    """The files that a command writes, each beside what it becomes when all is `finished`. What is not `kept` is
    deleted where it cannot be finished."""

    def __init__(self, targets: dict[str, Path], source: Path, *, kept: bool) -> None:
        self.targets, self.source, self.kept = targets, source, kept
        self.parts = {option: _beside(path, ".part") for option, path in targets.items()}
        self.journal = _beside(targets["--output"], ".part.json")
        self.files: list[BinaryIO] = []
        self.settings: dict[str, Any] = {}
        self._opened = ExitStack()

    def __enter__(self) -> "_Work":
        named = [path.resolve() for path in (self.source, *self.targets.values())]
        if len(set(named)) < len(named):
            raise InputError("--input, --output, --errors: two of them are one file; give each its own")
        for option, path in self.targets.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._opened.enter_context(
                checkpoint.alone(_beside(path, ".part.lock"), f"{option} {path}: another command is writing it")
            )
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for file in self.files:
            with suppress(OSError):  # of what was not written, which is known
                file.close()
        if kind is not None and not self.kept and self.files:
            for part in self.parts.values():
                part.unlink(missing_ok=True)
        self._opened.close()

    def begin(self, settings: dict[str, Any]) -> _Place:
        """Opens the files, and says how far they are. InputError where they are not of these `settings`."""
        self.settings = settings
        place = self._place() if self.journal.exists() else _Place(sizes=(0,) * len(self.parts))
        for option, path in self.targets.items():
            if path.exists() and (self.parts[option].exists() or not place.finished):
                raise InputError(f"{option} {path}: exists, and would be lost; name another, or delete it")
        if place.finished:
            return place
        for part, size in zip(self.parts.values(), place.sizes, strict=True):
            if size and (not part.exists() or part.stat().st_size < size):
                raise InputError(f"{part}: is not what {self.journal} tells of; delete both, to begin anew")
            self.files.append(part.open("r+b" if size else "wb"))
            self.files[-1].truncate(size)
            self.files[-1].seek(size)
        return place

    def _place(self) -> _Place:
        """Where the command was stopped that wrote the journal."""
        told = read_json(self.journal, "settings", "place")
        again = f"delete {self.journal}, to begin anew"
        if not self.kept:
            raise InputError(f"{self.journal}: is of a command that read a file, which can go on; give it, or {again}")
        for name, value in self.settings.items():
            if (before := told["settings"].get(name)) != value:
                what = "another model" if name == "model" else f"{name} {before}, not {value}"
                raise InputError(f"{self.journal}: is of a command with {what}; give the same, or {again}")
        return _Place(**{**told["place"], "sizes": tuple(told["place"]["sizes"])})

    def add(self, written: Sequence[Sequence[dict[str, Any]]], place: _Place) -> _Place:
        """Writes records to each file, and then that they are there; gives the place with the sizes of the files."""
        with self._room():
            for file, records in zip(self.files, written, strict=False):
                file.writelines(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)
                _flush(file)
            place = replace(place, sizes=tuple(file.tell() for file in self.files))
            self._keep(place)
        return place

    def finish(self, place: _Place) -> None:
        """Gives the files their names."""
        with self._room():
            self._keep(replace(place, finished=True))
            for option, part in self.parts.items():
                if part.exists():
                    part.replace(self.targets[option])
            self.journal.unlink(missing_ok=True)

    def _keep(self, place: _Place) -> None:
        """Writes the journal; it is complete or as it was."""
        if self.kept:
            new = _beside(self.journal, ".new")
            with new.open("wb") as file:
                file.write(json.dumps({"settings": self.settings, "place": asdict(place)}).encode())
                _flush(file)
            new.replace(self.journal)

    @contextmanager
    def _room(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where, then = self.targets["--output"], "then the same command goes on" if self.kept else "and begin anew"
            raise InputError(f"--output {where}: cannot be written ({error.strerror}): make room, {then}") from error


@contextmanager
def _reading(source: Path) -> Iterator[io.BufferedReader]:
    """The input, from its beginning. InputError where it cannot be read."""
    with ExitStack() as opened:
        try:
            if str(source) == "-":
                file = cast(io.BufferedReader, sys.stdin.buffer)
            else:
                file = opened.enter_context(source.open("rb"))
        except OSError as error:
            raise InputError(f"{source}: cannot be read ({error.strerror}): give a readable file") from None
        if file.peek(2).startswith(b"\x1f\x8b"):
            raise InputError(f"{source}: is compressed by gzip: unpack it, with gunzip, and give what comes out, or -")
        yield file


def _skipped(file: BinaryIO, place: _Place, option: str, journal: Path) -> Any:
    """Goes to a place of the input; gives the digest of what is before it. InputError where that is not what it was."""
    digest, left = hashlib.sha256(), place.read
    while left and (block := file.read(min(left, 1 << 20))):
        digest.update(block)
        left -= len(block)
    if left or (place.read and digest.hexdigest() != place.sha256):
        raise InputError(
            f"{option}: its first {place.line} lines are not those that were ranked before; give the file as it was, "
            f"or delete {journal}, to begin anew"
        )
    return digest


def _lines(file: BinaryIO, source: Path, before: int) -> Iterator[_Line]:
    """The lines of the input after so many of them; blank ones are none, and belong to the one that follows."""
    blank = b""
    for number, raw in enumerate(file, before + 1):
        if raw.isspace():
            blank += raw
            continue
        where, name = f"{source}:{number}", None
        try:
            name, case = jsonl.case(raw, where)
        except InputError as error:
            yield _Line(where, number, blank + raw, number, error)
        else:
            yield _Line(where, number, blank + raw, number if name is None else name, case)
        blank = b""


def _answers(
    agent: Agent, some: Sequence[_Line], top: int | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
    """What is written of some lines: the cases that were ranked, the lines that could not be, and how many candidates
    the cases have."""
    answers = agent.rank_many([line.case for line in some if not isinstance(line.case, InputError)])
    ranked: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    pairs = 0
    for line in some:
        answer: list[Ranked] | InputError
        if isinstance(line.case, InputError):
            error = str(line.case)
        elif isinstance(answer := next(answers), InputError):
            error = f"{line.where}: {answer}"
        else:
            pairs += len(answer)
            kept = (
                ("text", "score", "index")
                if agent.task.calibration is None
                else ("text", "score", "index", "probability")
            )
            best = [{name: getattr(one, name) for name in kept} for one in answer[:top]]
            none = agent.none_fits(answer)
            ranked.append(
                {"id": line.name, "line": line.number, "results": best} | ({} if none is None else {"none": none})
            )
            continue
        text = line.raw.rstrip(b"\r\n").rpartition(b"\n")[2].decode(errors="backslashreplace")
        failed.append({"line": line.number, "error": console.plain(error), "text": text})
    return ranked, failed, pairs


def _digest(agent: Agent, model: str) -> str:
    """A digest of a model: its weights, its calibration and its recipe."""
    digest = hashlib.sha256(repr((agent.task.model, agent.task.calibration)).encode())
    for name, value in sorted(agent.task.model.state_dict().items()):
        digest.update(name.encode())
        if isinstance(value, torch.Tensor):
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        else:
            digest.update(json.dumps(value, sort_keys=True).encode())
    path = Path(model)
    recipe = path / "recipe.yaml" if path.is_dir() else path
    digest.update(recipe.read_bytes() if recipe.is_file() else b"")
    return digest.hexdigest()


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _flush(file: BinaryIO) -> None:
    """Sees to it that what was written outlasts the machine's end, too."""
    file.flush()
    os.fsync(file.fileno())
