"""The untrained models on Persona-Chat's validation split, as the README states them."""

from pathlib import Path

import pytest

from personae import run


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("model", "form", "persona", "hits"),
    [
        ("tfidf", "original", "none", 0.2182),
        ("tfidf", "original", "self", 0.4197),
        ("tfidf", "revised", "self", 0.2263),
        ("minilm", "original", "self", 0.5806),
    ],
)
def test_the_results_on_validation(model: str, form: str, persona: str, hits: float, corpora: Path) -> None:
    result = run.evaluate(model, str(corpora / f"personachat/valid_both_{form}.txt"), persona=persona)
    assert result["n"] == 7801
    assert result["data"]["candidates"]["name"] == "official"
    assert result["metrics"]["hits@1/20"]["value"] == pytest.approx(hits, abs=0.001)
