"""Synthetic-Persona-Chat (Jandaghi et al., "Faithful Persona-based Conversational Dataset Generation with Large
Language Models", NLP4ConvAI 2024, https://aclanthology.org/2024.nlp4convai-1.8): Google's CSV, and JSON lines of it.

User 1 is speaker 0. Turns that one user has twice running stay two turns. A handful of rows hold no conversation;
`read` leaves them out, `rows` does not."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from personae.data import jsonl, lines
from personae.types import Dialogue, InputError, Persona, Speaker, Turn

COLUMNS = ("user 1 personas", "user 2 personas", "best generated conversation")
_SAID = re.compile(r"User ([12]): ?(.*)", re.DOTALL)


def read(path: Path) -> list[Dialogue]:
    """Every dialogue that has a turn."""
    return [dialogue for dialogue in rows(path) if dialogue.turns]


def rows(path: Path) -> list[Dialogue]:
    """Every row, empty dialogues too; ids are the file's name and the row's number or its own id."""
    first = next(lines.numbered(path))[1].lstrip()
    return list(_jsonl(path) if first.startswith("{") else _csv(path))


def _jsonl(path: Path) -> Iterator[Dialogue]:
    for number, record in jsonl.records(path):
        personas: list[Any] = [record.get(f"user{k}_personas") for k in (1, 2)]
        said = record.get("utterances")
        if not all(isinstance(p, list) and all(isinstance(fact, str) for fact in p) for p in personas):
            raise InputError(
                f"{path}:{number}: fields user1_personas and user2_personas: two lists of texts are wanted"
            )
        if not isinstance(said, list) or not all(
            isinstance(s, list) and len(s) == 2 and s[0] in (1, 2) and isinstance(s[1], str) for s in said
        ):
            raise InputError(f"{path}:{number}: field utterances: a list of [1 or 2, text] is wanted")
        yield _dialogue(f"{path.stem}-{record.get('id', number)}", personas, said)


def _csv(path: Path) -> Iterator[Dialogue]:
    table = csv.reader(io.StringIO(lines.text(path), newline=""), strict=True)
    try:
        header = [column.strip().lower() for column in next(table)]
        missing = [column for column in COLUMNS if column not in header]
        if missing:
            raise InputError(f"{path}:1: there is no column {missing[0]!r}: give Synthetic-Persona-Chat's own CSV")
        start = table.line_num + 1
        for number, row in enumerate(table, start=1):
            if len(row) != len(header):
                raise InputError(f"{path}:{start}: {len(row)} fields where {len(header)} are due: mend the row")
            one, two, conversation = (row[header.index(column)] for column in COLUMNS)
            start = table.line_num + 1
            yield _dialogue(f"{path.stem}-{number}", [one.split("\n"), two.split("\n")], list(_said(conversation)))
    except csv.Error as error:
        raise InputError(f"{path}:{table.line_num}: not CSV ({error}): copy the file again") from error


def _said(conversation: str) -> Iterator[tuple[int, str]]:
    """(1 or 2, text) for every "User k:"; lines between belong to the text before, and those ahead of the first to
    nobody."""
    for part in re.split(r"\n(?=User [12]:)", conversation.replace("\r\n", "\n")):
        if said := _SAID.match(part):
            yield int(said[1]), said[2]


def _dialogue(name: str, personas: list[list[str]], said: list[tuple[int, str]]) -> Dialogue:
    one, two = (Persona(tuple(fact.strip() for fact in facts if fact.strip())) for facts in personas)
    turns = tuple(Turn(user - 1, text.strip()) for user, text in said if text.strip())
    return Dialogue(name, (Speaker(f"{name}/0", one), Speaker(f"{name}/1", two)), turns)
