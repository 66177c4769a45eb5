from collections.abc import Callable

import pytest

from personae.types import Dialogue, Persona, Speaker, Turn

Make = Callable[..., Dialogue]


@pytest.fixture
def make() -> Make:
    """A dialogue whose speakers take turns, speaker 0 first."""

    def dialogue(name: str, *texts: str, facts: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())) -> Dialogue:
        speakers = (Speaker(f"{name}/0", Persona(facts[0])), Speaker(f"{name}/1", Persona(facts[1])))
        return Dialogue(name, speakers, tuple(Turn(i % 2, text) for i, text in enumerate(texts)))

    return dialogue
