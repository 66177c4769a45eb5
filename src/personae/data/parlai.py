r"""ParlAI's text form of Persona-Chat and ConvAI2, in every mode, with and without candidates.

    1 your persona: i like cats .
    2 partner's persona: i sail .
    3 hello !<tab>hi , do you sail ?<tab><tab>no , thanks .|hi , do you sail ?

Numbers begin at 1 in every dialogue. What stands before the first tab is said by speaker 0, the reply after it by
speaker 1, whose persona is "your persona". Where speaker 1 begins, `__SILENCE__` stands for what was heard. Candidates
are parted by `|`; a line feed within a text is written `\n`."""

import re
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path

from personae.data import lines
from personae.data.candidates import choice
from personae.types import Dialogue, InputError, Persona, Speaker, Turn, Whose

SILENCE = "__SILENCE__"
OWN, OTHER = "your persona: ", "partner's persona: "
_ABOUT = re.compile(r"((?:your|partner's) persona ?:\s?)(.*)", re.IGNORECASE | re.DOTALL)


def read(path: Path) -> list[Dialogue]:
    """Every dialogue of the file; ids are the file's name and a number from 1. InputError names file and line."""
    blocks = list(_blocks(path))
    if not lines.ended(path):
        raise InputError(
            f"{path}:{blocks[-1][-1][0]}: the file ends amid a line: copy it again, or end that line if it is whole"
        )
    return [_dialogue(rows, path, f"{path.stem}-{number}") for number, rows in enumerate(blocks, start=1)]


def write(dialogues: Iterable[Dialogue], path: str | Path, *, persona: Whose, candidates: bool) -> None:
    """Write with the personas of the replier (self, speaker 1), of the other one (partner), both or none, and with the
    candidates, the true reply last, or without. InputError where this form cannot hold a dialogue."""
    lines.save((line for dialogue in dialogues for line in _lines(dialogue, persona, candidates)), path)


def _blocks(path: Path) -> Iterator[list[tuple[int, str]]]:
    """One list of (line in the file, what follows its number) a dialogue."""
    block: list[tuple[int, str]] = []
    for place, line in lines.numbered(path):
        number, _, rest = line.partition(" ")
        if not number.isdecimal() or not rest:
            raise InputError(f"{path}:{place}: a line begins with its number and a space: see `personae.data.parlai`")
        if number == "1" and block:
            yield block
            block = []
        if number != str(len(block) + 1):
            raise InputError(
                f"{path}:{place}: number {number[:20]} where {len(block) + 1} is due: lines are missing or moved"
            )
        block.append((place, rest))
    yield block


def _dialogue(rows: list[tuple[int, str]], path: Path, name: str) -> Dialogue:
    facts: tuple[list[str], list[str]] = ([], [])
    turns: list[Turn] = []
    for place, row in rows:
        heard, *reply = row.replace("\\n", "\n").split("\t")
        if not reply and (about := _ABOUT.match(heard)):
            prefix, fact = about.groups()
            if prefix not in (OWN, OTHER) or not fact.strip():
                raise InputError(f"{path}:{place}: a persona line is {OWN!r} or {OTHER!r} and a text: mend the line")
            facts[prefix == OWN].append(fact)
        else:
            if not heard.strip() or len(reply) > 3:
                raise InputError(
                    f"{path}:{place}: 'heard<tab>reply<tab>reward<tab>candidates' is wanted: mend the line"
                )
            if heard != SILENCE:
                turns.append(Turn(0, heard))
            if reply:
                turns.append(_reply(reply, f"{path}:{place}"))
    if not turns:
        raise InputError(f"{path}:{rows[0][0]}: a dialogue without a turn begins here: leave it out")
    own, other = Persona(tuple(facts[1])), Persona(tuple(facts[0]))
    return Dialogue(name, (Speaker(f"{name}/0", other), Speaker(f"{name}/1", own)), tuple(turns))


def _reply(fields: list[str], where: str) -> Turn:
    if not fields[0].strip():
        raise InputError(f"{where}: there is no reply after the tab: write it or leave the tab out")
    candidates = tuple(fields[2].split("|")) if len(fields) == 3 and fields[2] else ()
    if not all(map(str.strip, candidates)):
        raise InputError(f"{where}: a candidate is empty: leave it out")
    return Turn(1, fields[0], choice(candidates, fields[0], where))


def _lines(dialogue: Dialogue, persona: Whose, candidates: bool) -> Iterator[str]:
    other, own = (speaker.persona.facts for speaker in dialogue.speakers)
    number = count(1)
    if persona in ("self", "both"):
        yield from (f"{next(number)} {OWN}{_escaped(fact, dialogue)}" for fact in own)
    if persona in ("partner", "both"):
        yield from (f"{next(number)} {OTHER}{_escaped(fact, dialogue)}" for fact in other)
    heard: str | None = None
    for i, turn in enumerate(dialogue.turns):
        text = _escaped(turn.text, dialogue)
        if turn.speaker == 0 and heard is None:
            heard = text
        elif turn.speaker == 1 and (heard is not None or i == 0):
            yield f"{next(number)} {heard or SILENCE}\t{text}" + (_candidates(turn, dialogue) if candidates else "")
            heard = None
        else:
            raise InputError(f"{dialogue.id}: turn {i}: the same speaker twice running: join the two turns first")
    if heard is not None:
        yield f"{next(number)} {heard}"


def _candidates(turn: Turn, dialogue: Dialogue) -> str:
    if not turn.candidates:
        raise InputError(f"{dialogue.id}: a reply has no candidates: draw them first or write without candidates")
    if any("|" in reply for reply in turn.candidates):
        raise InputError(f"{dialogue.id}: a candidate holds '|', which parts candidates: write without candidates")
    others = list(turn.candidates)
    others.remove(turn.text)
    return "\t\t" + "|".join(_escaped(reply, dialogue) for reply in [*others, turn.text])


def _escaped(text: str, dialogue: Dialogue) -> str:
    if "\t" in text:
        raise InputError(f"{dialogue.id}: a text holds a tab, which parts fields: replace it by a space")
    return text.replace("\n", "\\n")
