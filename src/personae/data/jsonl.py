"""JSON lines, the form for one's own dialogues: one a line, UTF-8.

    {"id": "d1", "personas": [["i like cats ."], []], "turns": [{"speaker": 0, "text": "hi !"},
     {"speaker": 1, "text": "hello .", "candidates": ["hello .", "no , thanks ."]}]}

`personas` are the lines about speaker 0 and speaker 1, either may be `[]`. `candidates` are optional; the true reply is
among them. `id` is optional (the file's name and the line's number without it), and so is `speakers`, two ids (the
dialogue's id, "/0" and "/1" without it), and `question`, the id of what the last turn answers, where others answer the
same. Other keys are ignored, but for those that look like one of these misspelt.

Cases to be ranked have a form of their own:

    {"id": "c1", "persona": ["i like cats ."], "context": ["hi !"], "candidates": ["hello .", "no , thanks ."]}

`persona`, `partner` (optional, the lines about the other speaker) and `context` may be `[]`, `id` is optional.

What users said, without the dialogues, is a message a line, or all of a user's in one or more lines:

    {"user": "u1", "text": "i sail ."}
    {"user": "u1", "history": ["i sail .", "my boat is red ."]}
    {"user": "u1", "text": "i sail .", "context": ["hi !", "what do you do ?"]}

`context`, of one message, is what was said before it; it is optional."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from personae.data import lines
from personae.data.candidates import choice
from personae.names import nearest
from personae.types import Case, Dialogue, InputError, Persona, Speaker, Turn

_DIALOGUE = {"id", "speakers", "personas", "turns", "question"}
_TURN = {"speaker", "text", "candidates"}
_CASE = {"id", "persona", "partner", "context", "candidates"}
_MESSAGE = {"user", "text", "history", "context"}
_Kind = TypeVar("_Kind", dict[str, Any], list[Any])


def read(path: Path) -> list[Dialogue]:
    """Every dialogue of the file, in its order. InputError names file, line and field."""
    dialogues: dict[str, Dialogue] = {}
    for number, record in records(path):
        where = f"{path}:{number}"
        dialogue = parse(record, where=where, name=f"{path.stem}-{number}")
        if dialogue.id in dialogues:
            raise InputError(f"{where}: field id: {dialogue.id!r} is taken by an earlier line: give each its own")
        dialogues[dialogue.id] = dialogue
    return list(dialogues.values())


def records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON object of every line, with the line's number from 1."""
    for number, line in lines.numbered(path):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}:{number}: {_not_json(path, line, error)}") from error
        if not isinstance(record, dict):
            raise InputError(f"{path}:{number}: {_name(record)} where a JSON object is wanted: one dialogue a line")
        yield number, record


def parse(record: object, *, where: str, name: str) -> Dialogue:
    """The dialogue of one JSON object; `where` begins every message of an InputError, `name` is the id without one."""
    fields = _of(record, dict, where, "dialogue")
    _spelt(fields, _DIALOGUE, where, "")
    identifier = _text(fields["id"], where, "id") if "id" in fields else name
    personas = _two(fields.get("personas"), where, "personas")
    facts = [texts(persona, where, f"personas[{k}]") for k, persona in enumerate(personas)]
    names = [f"{identifier}/0", f"{identifier}/1"]
    if "speakers" in fields:
        names = [_text(n, where, f"speakers[{k}]") for k, n in enumerate(_two(fields["speakers"], where, "speakers"))]
    turns = _of(fields.get("turns"), list, where, "turns")
    if not turns:
        raise InputError(f"{where}: field turns: there are none: give at least one, or leave the dialogue out")
    return Dialogue(
        identifier,
        (Speaker(names[0], Persona(facts[0])), Speaker(names[1], Persona(facts[1]))),
        tuple(_turn(turn, where, f"turns[{i}]") for i, turn in enumerate(turns)),
        _text(fields["question"], where, "question") if fields.get("question") is not None else None,
    )


def case(line: bytes, where: str) -> tuple[str | None, Case]:
    """The id and the texts of a case that is to be ranked, as it stands in a line. InputError, which begins with
    `where`, names the field."""
    try:
        fields = json.loads(line.decode("utf-8-sig"), object_pairs_hook=_once)
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: byte {error.start} of the line is not UTF-8: save it as UTF-8") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON (column {error.colno}: {error.msg}): write one case a line") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: {error}: write one case a line") from None
    if not isinstance(fields, dict):
        raise InputError(f"{where}: {_name(fields)} where a JSON object is wanted: one case a line")
    _spelt(fields, _CASE, where, "", alike=0.6)
    name = _text(fields["id"], where, "id") if "id" in fields else None
    candidates = texts(fields.get("candidates"), where, "candidates")
    if not candidates:
        raise InputError(f"{where}: field candidates: there are none: give at least one")
    persona, context = (texts(fields.get(field), where, field) for field in ("persona", "context"))
    partner = texts(fields.get("partner", []), where, "partner")
    return name, {"candidates": candidates, "persona": persona, "context": context, "partner": partner}


def messages(path: Path) -> Iterator[tuple[str, str]]:
    """Who said something, and what, in the order of the file. A message may be empty, or blank,
    which is the same. InputError names file, line and
    field."""
    for user, text, _ in answers(path):
        yield user, text


def answers(path: Path) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """The same, and what was said before, where the file says it."""
    for number, fields in records(path):
        where = f"{path}:{number}"
        _spelt(fields, _MESSAGE, where, "", alike=0.6)
        user = _text(fields.get("user"), where, "user")
        if ("text" in fields) == ("history" in fields):
            raise InputError(f"{where}: field text: one message is wanted there, or a list of them in history")
        if "context" in fields and "history" in fields:
            raise InputError(f"{where}: field context: is of one message; give each a line of its own, with its text")
        said = _of(fields["history"], list, where, "history") if "history" in fields else [fields["text"]]
        context = texts(fields.get("context", []), where, "context")
        for place, text in enumerate(said):
            field = f"history[{place}]" if "history" in fields else "text"
            blank = isinstance(text, str) and not text.strip()
            yield user, "" if blank else _text(text, where, field), context


def texts(value: object, where: str, field: str) -> tuple[str, ...]:
    """The texts of a JSON list, none of them empty."""
    return tuple(_text(text, where, f"{field}[{i}]") for i, text in enumerate(_of(value, list, where, field)))


def record(dialogue: Dialogue) -> dict[str, Any]:
    """The JSON object that `parse` turns into an equal dialogue."""
    fields: dict[str, Any] = {"id": dialogue.id}
    names = [speaker.id for speaker in dialogue.speakers]
    if names != [f"{dialogue.id}/0", f"{dialogue.id}/1"]:
        fields["speakers"] = names
    fields["personas"] = [list(speaker.persona.facts) for speaker in dialogue.speakers]
    fields["turns"] = [
        {"speaker": turn.speaker, "text": turn.text}
        | ({"candidates": list(turn.candidates)} if turn.candidates else {})
        for turn in dialogue.turns
    ]
    if dialogue.question is not None:
        fields["question"] = dialogue.question
    return fields


def write(dialogues: Iterable[Dialogue], path: str | Path) -> None:
    """Write one dialogue a line; `read` gives equal dialogues back."""
    lines.save((json.dumps(record(dialogue), ensure_ascii=False) for dialogue in dialogues), path)


def _turn(turn: object, where: str, field: str) -> Turn:
    fields = _of(turn, dict, where, field)
    _spelt(fields, _TURN, where, f"{field}.")
    speaker = fields.get("speaker")
    if type(speaker) is not int or speaker not in (0, 1):
        raise InputError(f"{where}: field {field}.speaker: 0 or 1 is wanted, not {json.dumps(speaker)}")
    text = _text(fields.get("text"), where, f"{field}.text")
    offered, place = fields.get("candidates"), f"{field}.candidates"
    candidates = () if offered is None else texts(offered, where, place)
    return Turn(speaker, text, choice(candidates, text, f"{where}: field {place}"))


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. ValueError where a field is there twice."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(name for name in fields if sum(one == name for one, _ in pairs) > 1)
        raise ValueError(f"field {twice} is there more than once")
    return fields


def _spelt(fields: dict[str, Any], known: set[str], where: str, place: str, *, alike: float = 0.85) -> None:
    """InputError where a field is not known, but so much `alike` a known one that is not there."""
    for name in fields:
        if name not in known and (meant := nearest(name, known - fields.keys(), alike=alike)):
            raise InputError(f"{where}: field {place}{name}: is not known, {meant} is: rename it")


def _of(value: object, kind: type[_Kind], where: str, field: str) -> _Kind:
    if not isinstance(value, kind):
        problem = "is missing" if value is None else f"is {_name(value)}"
        raise InputError(f"{where}: field {field}: {problem}: {_name(kind())} is wanted")
    return value


def _two(value: object, where: str, field: str) -> list[Any]:
    both = _of(value, list, where, field)
    if len(both) != 2:
        raise InputError(f"{where}: field {field}: there are {len(both)}: two are wanted, for speakers 0 and 1")
    return both


def _text(value: object, where: str, field: str) -> str:
    if not isinstance(value, str):
        problem = "is missing" if value is None else f"is {_name(value)}"
        raise InputError(f"{where}: field {field}: {problem}: a text is wanted")
    if not value or value.isspace():
        raise InputError(f"{where}: field {field}: is empty: write a text or leave the entry out")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise InputError(f"{where}: field {field}: holds half a surrogate pair: write the whole character")
    return value


def _name(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def _not_json(path: Path, line: str, error: Exception) -> str:
    """Say that the line is no JSON, and that the file is cut off where this is its unfinished last line."""
    if isinstance(error, json.JSONDecodeError):
        if not lines.ended(path) and lines.text(path).endswith(line):
            return "the last line breaks off: the file is cut short, copy it again"
        return f"not JSON (column {error.colno}: {error.msg}): write one JSON object a line"
    return "not JSON: write one JSON object a line, without numbers or nesting beyond measure"
