import os
from collections.abc import Callable
from pathlib import Path

import pytest

from personae.types import Dialogue, Persona, Speaker, Turn

Make = Callable[..., Dialogue]


@pytest.fixture(scope="session")
def corpora() -> Path:
    if "PERSONAE_DATA" not in os.environ:
        pytest.skip("PERSONAE_DATA does not name a folder of corpora")
    return Path(os.environ["PERSONAE_DATA"])


@pytest.fixture
def make() -> Make:
    """A dialogue whose speakers take turns, speaker 0 first."""

    def dialogue(name: str, *texts: str, facts: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())) -> Dialogue:
        speakers = (Speaker(f"{name}/0", Persona(facts[0])), Speaker(f"{name}/1", Persona(facts[1])))
        return Dialogue(name, speakers, tuple(Turn(i % 2, text) for i, text in enumerate(texts)))

    return dialogue
