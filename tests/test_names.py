import pytest

from personae.names import as_options, hint, nearest
from personae.types import InputError


@pytest.mark.parametrize(
    ("name", "near"),
    [("dmi", "dim"), ("DIM", "dim"), ("minilm-self2", "minilm-self"), ("nowhere-dim", None), ("", None)],
)
def test_the_nearest_name(name: str, near: str | None) -> None:
    assert nearest(name, ["dim", "minilm-self", "tfidf"]) == near


def test_how_alike_they_must_be() -> None:
    assert nearest("candidate", ["candidates"], alike=0.9) == "candidates"
    assert nearest("ids", ["id"], alike=0.9) is None


def test_a_hint_is_the_nearest_name_or_one_that_holds_it_or_what_else_to_do() -> None:
    known = ["selection/dim-toy-long", "selection/dim-toy", "selection/hre"]
    assert hint("selection/hri", known, "give one") == "did you mean selection/hre?"
    assert hint("dim", known, "give one") == "did you mean selection/dim-toy?"
    assert hint("dim-toys", known, "give one") == "did you mean selection/dim-toy?"
    assert hint("selection/zzz", known, "give one") == hint("", known, "give one") == "give one"  # by the last part
    assert hint("zzz", known, "give one") == hint("zzz", [], "give one") == "give one"


def test_a_mistake_names_the_option() -> None:
    mistaken = as_options("corpus", files="a.jsonl")
    message = "corpus.near: 2 is too much (corpus.n, corpus.files), of mycorpus.near"
    with pytest.raises(InputError, match=r"^--near: 2 is too much \(-n, a\.jsonl\), of mycorpus\.near$"), mistaken:
        raise InputError(message)
