"""Finding a corpus and reading it, whatever its form."""

import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from personae.data import jsonl, lines, parlai, personachat, synthetic_persona_chat, ubuntu_irc
from personae.names import hint
from personae.types import Dialogue, InputError

FORMS = {
    "parlai": "Persona-Chat or ConvAI2 as ParlAI text",
    "huggingface": "ConvAI2 as Hugging Face's JSON",
    "jsonl": "JSON lines of one's own, see personae.data.jsonl",
    "synthetic-persona-chat": "Synthetic-Persona-Chat as CSV or JSON lines",
    "ubuntu-irc": "conversations of the Ubuntu channel as JSON lines",
}


def find(path: str | Path) -> Path:
    """The file or folder at `path`, else the one below PERSONAE_DATA (`data/` where that is not set). InputError names
    both places, and a file there whose name is like it."""
    root = os.environ.get("PERSONAE_DATA")
    places = list(dict.fromkeys((Path(path), Path(root or "data") / path)))
    for place in places:
        if place.exists():
            return place
    there = [str(Path(path).parent / file.name) for place in places for file in place.parent.glob("*")]
    otherwise = f"PERSONAE_DATA is {root}, " if root else "set PERSONAE_DATA to the folder of your corpora, or "
    raise InputError(
        f"{path}: there is nothing at {' or '.join(str(place.absolute()) for place in places)}: "
        f"{hint(str(path), there, f'{otherwise}give another path')}"
    )


def read(path: str | Path) -> list[Dialogue]:
    """Every dialogue of a file, found with `find`, in any of the `FORMS`. A JSON file with several splits takes the
    split after a colon: `read("personachat_self_original.json:valid")`."""
    file, split = locate(path)
    kind = form(file)
    if kind == "parlai":
        dialogues = parlai.read(file)
    elif kind == "huggingface":
        dialogues = personachat.read_json(file, split)
    elif kind == "synthetic-persona-chat":
        dialogues = synthetic_persona_chat.read(file)
    elif kind == "ubuntu-irc":
        dialogues = ubuntu_irc.read(file)
    elif kind == "jsonl":
        dialogues = jsonl.read(file)
    else:
        raise InputError(f"{file}: these are fragments of dialogues, not dialogues: give a file of whole dialogues")
    return _distinct(dialogues, str(file))


def read_all(paths: Iterable[str]) -> list[Dialogue]:
    """Every dialogue of some files, as `read` reads each. InputError where two have one id."""
    paths = list(paths)
    return _distinct([dialogue for path in paths for dialogue in read(path)], ", ".join(paths))


def locate(path: str | Path) -> tuple[Path, str | None]:
    """The file that `find` finds and the split that stands after `.json:`, if any."""
    name, json_file, split = str(path).partition(".json:")
    return (find(f"{name}.json"), split) if json_file else (find(path), None)


def _distinct(dialogues: list[Dialogue], where: str) -> list[Dialogue]:
    for name, times in Counter(dialogue.id for dialogue in dialogues).most_common(1):
        if times > 1:
            raise InputError(f"{where}: {times} dialogues have the id {name!r}: give each an id of its own")
    return dialogues


def form(file: Path) -> str:
    """A key of `FORMS`, or "fragments": lists of one speaker's utterances, which are no dialogues. InputError where it
    is none of them."""
    if file.is_dir():
        raise InputError(f"{file}: is a folder: give one of its files")
    if file.suffix == ".json":
        return "huggingface"
    first = next(lines.numbered(file))[1].lstrip().lower()
    if first.startswith(synthetic_persona_chat.COLUMNS[0]) or file.suffix == ".csv":
        return "synthetic-persona-chat"
    if first.startswith("{") or file.suffix == ".jsonl":
        return _kind(first)
    if first.partition(" ")[0].isdecimal():
        return "parlai"
    if first.startswith("utterance:"):
        return "fragments"
    raise InputError(f"{file}: the form is not known: give {'; '.join(FORMS.values())}")


def _kind(line: str) -> str:
    """The form of JSON lines, by the first one."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return "jsonl"
    if not isinstance(record, dict):
        return "jsonl"
    if "user1_personas" in record:
        return "synthetic-persona-chat"
    turns = record.get("turns")
    first = turns[0] if isinstance(turns, list) and turns else None
    return "ubuntu-irc" if isinstance(first, dict) and "nick" in first else "jsonl"
