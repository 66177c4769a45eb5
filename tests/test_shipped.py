"""The trained models that come with the package: each loads by its name, is small, and tells what it is."""

import re

import pytest

import personae
from personae import catalogue

SHIPPED = catalogue.shipped()
NAMES = ["persona-reranker"]


def test_these_are_shipped() -> None:
    assert list(SHIPPED) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_is_small_and_has_a_card(name: str) -> None:
    files = {file.name: file.stat().st_size for file in SHIPPED[name].iterdir()}
    assert set(files) == {"README.md", "config.json", "model.safetensors", "recipe.yaml"}
    assert sum(files.values()) < 16e6
    card = (SHIPPED[name] / "README.md").read_text(encoding="utf-8")
    for heading in ("What it learnt from", "How good it is", "Limits"):
        assert f"## {heading}" in card
    assert "license: apache-2.0" in card
    assert re.search(r"hits@1 \.\d{3} \[0\.\d{3}, 0\.\d{3}\]", card)


def test_the_reranker_answers_as_the_person() -> None:
    agent = personae.load("persona-reranker")
    candidates = [
        "My old dog sleeps beside the bed, he is fourteen now.",
        "Two cats, and they fight all night long.",
        "The meeting begins at nine tomorrow.",
    ]
    context = ["Hello, how are you?", "Very well, thank you.", "Any animals in your house?"]
    for persona, wanted in (("I have a dog that is old.", 0), ("I have two cats.", 1)):
        best, *_ = agent.rank(candidates=candidates, persona=[persona], context=context)
        assert best.index == wanted
        assert best.probability is not None
        assert best.probability > 0.4
    unrelated = agent.rank(candidates=candidates[2:], persona=["I have two cats."], context=context)
    related = agent.rank(candidates=candidates[1:2], persona=["I have two cats."], context=context)
    assert (agent.none_fits(unrelated) or 0) > (agent.none_fits(related) or 0)
