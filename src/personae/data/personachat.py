"""Persona-Chat (Zhang et al., "Personalizing Dialogue Agents: I have a dog, do you have pets too?", ACL 2018,
https://aclanthology.org/P18-1205) as ConvAI2: the JSON form that Hugging Face published
(`personachat_self_original.json`); its text form is read by `parlai`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from personae.data import jsonl, lines
from personae.data.candidates import choice
from personae.data.parlai import SILENCE
from personae.types import Dialogue, InputError, Persona, Speaker, Turn


def splits(path: Path) -> dict[str, list[Any]]:
    """The splits of a JSON file by name, still as JSON. InputError where the file has another form."""
    text = lines.text(path)
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}): copy it again; one dialogue a line is called .jsonl") from error
    if not isinstance(record, dict) or not record or not all(isinstance(part, list) for part in record.values()):
        raise InputError(f'{path}: {{"train": [...], "valid": [...]}} is wanted; one dialogue a line is called .jsonl')
    return record


def read_json(path: Path, split: str | None = None) -> list[Dialogue]:
    """The dialogues of one split, which may be left out where there is only one; the last candidate is the true reply.
    The partner's persona is not in the file."""
    parts = splits(path)
    if split is None and len(parts) == 1:
        split = next(iter(parts))
    if split is None or split not in parts:
        missing = "which split?" if split is None else f"there is no split {split!r}:"
        raise InputError(f"{path}: {missing} write {' or '.join(f'{path}:{name}' for name in parts)}")
    return list(_dialogues(parts[split], path, split))


def _dialogues(entries: list[Any], path: Path, split: str) -> Iterator[Dialogue]:
    for i, entry in enumerate(entries):
        where, name = f"{path}: {split}[{i}]", f"{path.stem}-{split}-{i + 1}"
        try:
            facts = jsonl.texts(entry["personality"], where, "personality")
            cases = [
                tuple(jsonl.texts(case[key], where, f"utterances[{k}].{key}") for key in ("history", "candidates"))
                for k, case in enumerate(entry["utterances"])
            ]
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{where}: personality and utterances (history, candidates) are wanted: {error}"
            ) from error
        speakers = (Speaker(f"{name}/0"), Speaker(f"{name}/1", Persona(facts)))
        yield Dialogue(name, speakers, _turns(cases, where))


def _turns(cases: list[tuple[tuple[str, ...], ...]], where: str) -> tuple[Turn, ...]:
    """All turns, each reply with its candidates; every history is the turns before its reply."""
    if not cases or not cases[-1][0]:
        raise InputError(f"{where}: field utterances: there are none, or the last has no history: leave the entry out")
    said = (*cases[-1][0], cases[-1][1][-1] if cases[-1][1] else "")
    offered = {}
    for k, (history, candidates) in enumerate(cases):
        place = len(history)
        if not candidates or said[: place + 1] != (*history, candidates[-1]) or place % 2 == 0:
            raise InputError(
                f"{where}.utterances[{k}]: history and last candidate must be the beginning of the dialogue, "
                "with the partner's turn before the reply: mend the entry"
            )
        offered[place] = choice(candidates, candidates[-1], f"{where}: field utterances[{k}].candidates")
    return tuple(
        Turn(place % 2, text, offered.get(place, ()))
        for place, text in enumerate(said)
        if text.replace(" ", "") != SILENCE
    )
