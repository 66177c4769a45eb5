"""What a corpus holds: counts, leaks between two files, and whether a file is the published one."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

from personae.data import lines, personachat, synthetic_persona_chat
from personae.data.read import find, form, locate, read
from personae.data.sources import File, sources
from personae.data.splits import opening
from personae.text import line_key
from personae.types import Dialogue, Turn


def stats(path: str | Path, *, against: str | Path | None = None) -> dict[str, Any]:
    """Counts of a file: "dialogues" (with "empty_dialogues", which `read` leaves out, among them), "turns", "replies"
    of either speaker (turns with something before them, or with candidates), "candidates" of a reply, persona lines,
    distinct personas, lengths in words, and the file's sha256. Of fragments only "rows". "overlap" is what the file
    shares with `against`, see `overlap`; of a file with several splits, what they share with one another."""
    file, split = locate(path)
    kind = form(file)
    result: dict[str, Any] = {"path": str(path), "form": kind, "sha256": _digest(file, "sha256")}
    if kind == "fragments":
        return result | {"rows": sum(line.lower().startswith("utterance:") for _, line in lines.numbered(file))}
    if kind == "huggingface" and split is None and len(parts := personachat.splits(file)) > 1:
        pairs = {f"{a}/{b}": overlap(f"{path}:{a}", f"{path}:{b}") for a, b in combinations(parts, 2)}
        return result | {"splits": {part: stats(f"{path}:{part}", against=against) for part in parts}, "overlap": pairs}
    dialogues = synthetic_persona_chat.rows(file) if kind == "synthetic-persona-chat" else read(path)
    turns = [turn for dialogue in dialogues for turn in dialogue.turns]
    facts = [speaker.persona.facts for dialogue in dialogues for speaker in dialogue.speakers]
    replies = _replies(dialogues)
    offered = [len(turn.candidates) for turn in turns if turn.candidates]
    return result | {
        "dialogues": len(dialogues),
        "empty_dialogues": sum(not dialogue.turns for dialogue in dialogues),
        "turns": len(turns),
        "replies": {str(k): sum(turn.speaker == k for turn in replies) for k in (0, 1)},
        "candidates": {"replies": len(offered), "min": min(offered, default=0), "max": max(offered, default=0)},
        "persona_lines": sum(map(len, facts)),
        "personas": len(_personas(dialogues)),
        "words": {
            "turn": _lengths([turn.text for turn in turns]),
            "persona_line": _lengths([line for persona in facts for line in persona]),
        },
        **({} if against is None else {"overlap": overlap(path, against)}),
    }


def overlap(path_a: str | Path, path_b: str | Path) -> dict[str, Any]:
    """How many distinct dialogues, personas, persona lines and replies two files have, and how many they share. Texts
    are compared without case, punctuation and spaces, dialogues by their first four turns; personas by their lines."""
    a, b = _parts(path_a), _parts(path_b)
    return {
        "a": {"path": str(path_a)} | {what: len(part) for what, part in a.items()},
        "b": {"path": str(path_b)} | {what: len(part) for what, part in b.items()},
        "shared": {what: len(part & b[what]) for what, part in a.items()},
    }


def verify(path: str | Path) -> dict[str, Any]:
    """Whether a file is a published one, by name and content: "status" is "official" (a published file), "listed" (a
    known file made from published ones), "differs" (such a name with another content) or "unknown"; "file" is what it
    is, "corpus" where that comes from, how it is licensed and cited, and what it should hold, "expected" what a file of
    that name is. Of a folder: "files", every file below it that is not "unknown"."""
    place = find(path)
    if not place.is_dir():
        found = _verified(place)
        if "file" in found:
            source = next(source for source in sources() if source.name == found["file"]["corpus"])
            found["corpus"] = {key: value for key, value in asdict(source).items() if key != "files"}
        return found
    checked = [_verified(file) for file in sorted(place.rglob("*")) if file.is_file()]
    return {"path": str(place), "files": [check for check in checked if check["status"] != "unknown"]}


def show(path: str | Path, n: int = 1) -> list[Dialogue]:
    """The first `n` dialogues."""
    return read(path)[:n]


def _verified(file: Path) -> dict[str, Any]:
    known = [entry for source in sources() for entry in source.files]
    named = [entry for entry in known if entry.name == file.name]
    size = file.stat().st_size
    # A digest is worth its time only where some file has that size.
    alike = [entry for entry in known if entry.bytes == size and _same(entry, file)]
    result: dict[str, Any] = {"path": str(file), "bytes": size}
    if alike:
        return result | {"status": "official" if alike[0].md5 else "listed", "file": asdict(alike[0])}
    if named:
        return result | {"status": "differs", "md5": _digest(file, "md5"), "expected": [asdict(e) for e in named]}
    return result | {"status": "unknown"}


def _same(entry: File, file: Path) -> bool:
    return _digest(file, "md5") == entry.md5 if entry.md5 else _digest(file, "sha256") == entry.sha256


def _digest(file: Path, algorithm: str) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def _replies(dialogues: Iterable[Dialogue]) -> list[Turn]:
    return [turn for dialogue in dialogues for i, turn in enumerate(dialogue.turns) if i or turn.candidates]


def _personas(dialogues: Iterable[Dialogue]) -> set[frozenset[str]]:
    facts = (speaker.persona.facts for dialogue in dialogues for speaker in dialogue.speakers)
    return {frozenset(map(line_key, persona)) for persona in facts if persona}


def _parts(path: str | Path) -> dict[str, set[Any]]:
    dialogues = read(path)
    personas = _personas(dialogues)
    return {
        "dialogues": {opening(dialogue) for dialogue in dialogues},
        "personas": personas,
        "persona_lines": {line for persona in personas for line in persona},
        "replies": {line_key(turn.text) for turn in _replies(dialogues)},
    }


def _lengths(texts: Sequence[str]) -> dict[str, float]:
    """Mean, 95th percentile (nearest rank) and maximum of the numbers of words."""
    counts = sorted(len(text.split()) for text in texts)
    if not counts:
        return {"mean": 0.0, "p95": 0, "max": 0}
    return {"mean": sum(counts) / len(counts), "p95": counts[math.ceil(0.95 * len(counts)) - 1], "max": counts[-1]}
