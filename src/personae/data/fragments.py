"""What speakers said, without the dialogues: two rows after one another are of the two speakers of one dialogue.

    Utterance:  i sail every summer . do you like boats ? mine is red .
    Persona: i sail.

The form is that of Persona-Chat's files for language models of a persona: of each speaker some utterances, unordered
and joined, and one line of the persona. The two lines find the two personas where other dialogues show them whole."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from personae.data import lines
from personae.text import line_key
from personae.types import Dialogue, InputError, Persona, Speaker, Turn

SAID, ABOUT = "utterance:", "persona:"
_SENTENCE = re.compile(r"[^.?!]+[.?!]*")

_Pair = tuple[tuple[str, ...], tuple[str, ...]]


def read(path: Path, others: Sequence[Dialogue]) -> list[Dialogue]:
    """A dialogue of each row, with the turns of its speaker alone, of two sentences each. The personas are those of the
    `others` where only one pair of theirs has the two lines, else these lines. InputError names file and line."""
    owners: dict[str, set[_Pair]] = defaultdict(set)
    for dialogue in others:
        one, other = (speaker.persona.facts for speaker in dialogue.speakers)
        for pair in ((one, other), (other, one)):
            for fact in pair[0]:
                owners[line_key(fact)].add(pair)
    rows = list(_rows(path))
    if len(rows) % 2:
        raise InputError(f"{path}: {len(rows)} rows are not two for each dialogue: copy the file again")
    found = []
    for number in range(0, len(rows), 2):
        facts = [about for _, about in rows[number : number + 2]]
        swapped = {(other, one) for one, other in owners[line_key(facts[1])]}
        known = owners[line_key(facts[0])] & swapped
        personas = known.pop() if len(known) == 1 else ((facts[0],), (facts[1],))
        for side in (0, 1):
            name = f"{path.stem}-{number + side + 1}"
            speakers = (Speaker(f"{name}/0", Persona(personas[0])), Speaker(f"{name}/1", Persona(personas[1])))
            sentences = [part.strip() for part in _SENTENCE.findall(rows[number + side][0]) if part.strip()]
            said = [" ".join(sentences[place : place + 2]) for place in range(0, len(sentences), 2)]
            found.append(Dialogue(name, speakers, tuple(Turn(side, text) for text in said)))
    return [dialogue for dialogue in found if dialogue.turns]


def apart(rows: Sequence[Dialogue], dialogues: Sequence[Dialogue]) -> list[Dialogue]:
    """The rows that are not of these dialogues: none of them holds a third of the row's runs of five words."""
    owners: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for dialogue in dialogues:
        for run in _runs(dialogue):
            owners[run].add(dialogue.id)
    kept = []
    for row in rows:
        runs = _runs(row)
        known = Counter(name for run in runs for name in owners.get(run, ()))
        if 3 * max(known.values(), default=0) < max(len(runs), 1):
            kept.append(row)
    return kept


def _runs(dialogue: Dialogue) -> set[tuple[str, ...]]:
    """The runs of five words within the turns."""
    found: set[tuple[str, ...]] = set()
    for turn in dialogue.turns:
        words = re.findall(r"\w+", turn.text.lower())
        found.update(zip(*(words[start:] for start in range(5)), strict=False))
    return found


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    """What was said, and about whom."""
    said = None
    for number, line in lines.numbered(path):
        if said is None and line.lower().startswith(SAID):
            said = line[len(SAID) :].strip()
        elif said is not None and line.lower().startswith(ABOUT):
            yield said, line[len(ABOUT) :].strip()
            said = None
        else:
            wanted = SAID if said is None else ABOUT
            raise InputError(f"{path}:{number}: a line that begins with {wanted!r} is due: mend the row")
    if said is not None:
        raise InputError(f"{path}: the last row has no line {ABOUT!r}: mend it")
