import json
import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

ASSETS = files("personae") / "assets"
DEMO: dict[str, Any] = json.loads((ASSETS / "demo.json").read_text(encoding="ascii"))
REPLIES = (ASSETS / "replies.txt").read_text(encoding="ascii").removesuffix("\n").split("\n")
TEXTS = [*REPLIES, *DEMO["partner"], *(fact for persona in DEMO["personas"] for fact in persona["facts"])]


def words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[a-z0-9]+", text.lower().replace("'", "")))


def test_the_bank_is_large_sorted_and_says_nothing_twice() -> None:
    assert len(REPLIES) >= 320
    assert sorted(REPLIES, key=str.casefold) == REPLIES
    assert len({words(text) for text in TEXTS}) == len(TEXTS)


def test_replies_are_short_sentences() -> None:
    assert [reply for reply in REPLIES if not 4 <= len(reply.split()) <= 18] == []
    assert [reply for reply in REPLIES if not re.fullmatch(r"[A-Z].*[.!?]", reply)] == []


def test_texts_are_printable_and_spaced_once() -> None:
    assert [text for text in TEXTS if not text.isprintable() or " ".join(text.split()) != text] == []


def test_the_demo_has_three_personas_of_five_lines_and_six_turns() -> None:
    assert set(DEMO) == {"personas", "partner"}
    assert [set(persona) for persona in DEMO["personas"]] == [{"name", "facts"}] * 3
    assert [len(persona["facts"]) for persona in DEMO["personas"]] == [5, 5, 5]
    assert len({persona["name"] for persona in DEMO["personas"]}) == 3
    assert len(DEMO["partner"]) == 6


@pytest.mark.parametrize("name", ["valid_both_original.txt", "valid_both_revised.txt"])
def test_no_text_is_a_corpus_sentence(name: str) -> None:
    path = Path(os.environ.get("PERSONAE_DATA", ""), "personachat", name)
    if not path.is_file():
        pytest.skip(f"PERSONAE_DATA has no personachat/{name}")
    lines = (re.sub(r"^\d+ (your persona: |partner's persona: )?", "", line) for line in path.read_text().split("\n"))
    sentences = {words(part) for line in lines for part in re.split(r"[\t|]", line)}
    assert len(sentences) > 10_000
    assert [text for text in TEXTS if words(text) in sentences] == []
