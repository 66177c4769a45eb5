"""The trained models that come with the package: each loads by its name, is small, and tells what it is."""

import hashlib
import json
import re
from pathlib import Path

import pytest

import personae
from personae import catalogue
from personae.cli import main

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


def test_an_evaluation_names_the_weights_and_the_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turns = [{"speaker": 0, "text": "any pets ?"}, {"speaker": 1, "text": "a dog .", "candidates": ["a dog .", "no ."]}]
    data = tmp_path / "two.jsonl"
    data.write_text(json.dumps({"personas": [[], ["i have a dog ."]], "turns": turns}))
    weights = (SHIPPED["persona-reranker"] / "model.safetensors").read_bytes()
    for precision in ("32-true", "int8"):
        given = ["--data", str(data), "--precision", precision, "--json"]
        assert main(["evaluate", "persona-reranker", *given]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["weights"] == hashlib.sha256(weights).hexdigest()
        assert result["environment"]["precision"] == precision
        assert result["metrics"]["hits@1/2"]["value"] == 1
    assert main(["evaluate", "tfidf", "--data", str(data), "--precision", "int8"]) == 2
    assert "--precision int8: tfidf cannot compute in it" in capsys.readouterr().err


def test_a_name_that_is_almost_its_own_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text("{}\n")
    for name, told in (("persona-rerankr", "did you mean persona-reranker?"), ("persona_reranker", "comes trained")):
        assert main(["rank", name, "--input", str(tmp_path / "c.jsonl"), "--output", str(tmp_path / "out")]) == 2
        assert told in capsys.readouterr().err
