"""Examples made of texts, with a persona or another."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from personae.text import standard
from personae.types import Dialogue, Example, InputError, Persona, Speaker, Turn

Owner = Literal["self", "partner"]


def listed(name: str, given: Iterable[str]) -> tuple[str, ...]:
    """A list of texts, none of them empty. InputError, which begins with `name`, where it is none."""
    if isinstance(given, Iterable) and not isinstance(given, str):
        found = tuple(given)
        if all(isinstance(text, str) for text in found):
            for place, text in enumerate(found):
                if not text.strip():
                    raise InputError(f"{name}: number {place}, counted from 0, is empty; leave it out")
            return found
    raise InputError(f"{name}: a list of texts is wanted")


def example_of(
    candidates: Sequence[str], persona: Sequence[str], context: Sequence[str], partner: Sequence[str]
) -> Example:
    """Speaker 1 replies; the last utterance of the context is speaker 0's."""
    speakers = (Speaker("partner", Persona(tuple(partner))), Speaker("self", Persona(tuple(persona))))
    turns = tuple(Turn((len(context) - 1 - place) % 2, text) for place, text in enumerate(context))
    return Example(Dialogue("dialogue", speakers, turns), Turn(1, "", tuple(candidates)))


def in_standard(dialogue: Dialogue) -> Dialogue:
    """The dialogue in `standard` form, but for turns of which nothing would be left."""
    turns = tuple(replace(turn, text=standard(turn.text) or turn.text) for turn in dialogue.turns)
    return replace(dialogue, turns=turns)


def with_persona(example: Example, whose: Owner, facts: tuple[str, ...]) -> Example:
    """The example with other lines about the one who replies, or about the partner."""
    place = example.target.speaker if whose == "self" else 1 - example.target.speaker
    personas = [speaker.persona for speaker in example.context.speakers]
    personas[place] = Persona(facts)
    return replace(example, context=with_personas(example.context, personas))


def with_personas(dialogue: Dialogue, personas: Iterable[Persona]) -> Dialogue:
    """The dialogue with other personas of speakers 0 and 1."""
    one, other = (
        replace(speaker, persona=persona) for speaker, persona in zip(dialogue.speakers, personas, strict=True)
    )
    return replace(dialogue, speakers=(one, other))
