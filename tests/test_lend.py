"""What is exported gives the same scores in the other library, whose own code reads it."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import personae
from personae import lend
from personae.agent import Agent
from personae.cli import main
from personae.types import Example, InputError

Folder = Callable[[str], Path]

LONG = " ".join(["i walk my dog along the river every morning before work"] * 9)
LONGEST = " ".join([LONG] * 6)  # which is more than the tokens that a BERT reads

CASES: list[dict[str, Any]] = [
    {
        "candidates": ["two cats , and a parrot .", "i am a pilot .", "ok", LONG, "what [SEP] is [you] that ?"],
        "persona": ["i have two cats .", "i have a parrot called bob ."],
        "partner": ["i sail .", LONG],
        "context": ["hello !", "hi there , how are you ?", "well . any pets ?"],
    },
    {"candidates": ["hello !", "two cats ."], "persona": ["[me] i like \N{SNOWMAN} and [you]"], "context": []},
    {"candidates": ["hi .", "me too , i love it !"], "persona": [], "context": [LONG, "no", "i love to sail ."]},
    {"candidates": ["hi .", "me too !"], "persona": [], "context": []},
    {
        "candidates": ["is your dog not tired of walking ?", "my favourite food is pizza ."],
        "persona": ["i am ann ."],
        "context": [LONG] * 20,
    },
    {
        "candidates": ["i have two cats .", "rice and beans tonight ."],
        "persona": [],
        "context": [f"{LONGEST} what do you cook tonight ?"],
    },
]


@pytest.fixture(scope="module")
def agent() -> Agent:
    return personae.load("persona-reranker")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """The folder of the shipped reranker in a form, made once."""
    root = tmp_path_factory.mktemp("lent")

    def made(to: str) -> Path:
        out = root / to
        if not out.exists():
            assert main(["export", "persona-reranker", "--to", to, "--out", str(out)]) == 0
        return out

    return made


def examples(agent: Agent) -> list[Example]:
    return [agent.case(**case) for case in CASES]


def wanted(agent: Agent, example: Example) -> Any:
    model = agent.task.model
    with torch.inference_mode():
        return model.score(model.collate([example]))[0].numpy()


def graph(folder: Path, name: str) -> Callable[[Sequence[tuple[str, str]]], Any]:
    from onnxruntime import InferenceSession
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    session = InferenceSession(folder / name)

    def scores(pairs: Sequence[tuple[str, str]]) -> Any:
        inputs = tokenizer(list(pairs), padding=True, return_tensors="np")
        return session.run(["logits"], {each.name: inputs[each.name] for each in session.get_inputs()})[0][:, 0]

    return scores


def test_sentence_transformers_gives_the_same_scores(agent: Agent, folder: Folder) -> None:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(folder("sentence-transformers")), trust_remote_code=True, device="cpu")
    for example in examples(agent):
        scores = model.predict(lend.pairs(agent.task.model, example))
        np.testing.assert_allclose(scores, wanted(agent, example), atol=1e-4)


def test_transformers_gives_the_same_scores(agent: Agent, folder: Folder) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    source = folder("transformers")
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=True)
    model = AutoModelForSequenceClassification.from_pretrained(source, trust_remote_code=True)
    pairs = [lend.pairs(agent.task.model, example) for example in examples(agent)]
    inputs = tokenizer([pair for some in pairs for pair in some], padding=True, return_tensors="pt")
    with torch.inference_mode():
        scores = model(**inputs).logits[:, 0].split([len(some) for some in pairs])
    for example, found in zip(examples(agent), scores, strict=True):
        np.testing.assert_allclose(found.numpy(), wanted(agent, example), atol=1e-4)


def test_onnx_runtime_gives_the_same_scores(agent: Agent, folder: Folder) -> None:
    scores = graph(folder("onnx"), lend.GRAPH)
    for example in examples(agent):
        np.testing.assert_allclose(scores(lend.pairs(agent.task.model, example)), wanted(agent, example), atol=1e-4)


def test_eight_bits_rank_as_all_do(agent: Agent, folder: Folder) -> None:
    scores = graph(folder("onnx"), lend.SMALL_GRAPH)
    assert (folder("onnx") / lend.SMALL_GRAPH).stat().st_size < (folder("onnx") / lend.GRAPH).stat().st_size / 3
    found = [(scores(lend.pairs(agent.task.model, example)), wanted(agent, example)) for example in examples(agent)]
    assert [one.argmax() for one, _ in found] == [other.argmax() for _, other in found]
    one, other = (np.concatenate(each) for each in zip(*found, strict=True))
    assert spearmanr(one, other).statistic > 0.97


def test_a_marker_in_a_reply_is_no_word(folder: Folder) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    source = folder("transformers")
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=True)
    model = AutoModelForSequenceClassification.from_pretrained(source, trust_remote_code=True)
    inputs = tokenizer(["[you] any pets ?"] * 2, ["[me] two dogs", "two dogs"], padding=True, return_tensors="pt")
    assert model(**inputs).logits.isfinite().all()
    with pytest.raises(ValueError, match="token_type_ids are needed"):
        model(inputs["input_ids"])
    with pytest.raises(ValueError, match="labels cannot be learnt here"):
        model(**inputs, labels=torch.ones(2))


@pytest.mark.parametrize("to", ["transformers", "onnx"])
def test_what_the_card_says_can_be_run(folder: Folder, to: str, capsys: pytest.CaptureFixture[str]) -> None:
    card = (folder(to) / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    capsys.readouterr()
    exec(code.replace("FOLDER", str(folder(to))), {})
    rows = re.findall(r"\[\s*(-?[\d.]+),?\s+(-?[\d.]+)", capsys.readouterr().out)
    assert len(rows) == code.count("print(")
    for fits, other in rows:
        assert float(fits) > float(other)


def test_what_is_no_reranker_stays_here(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="minilm: is no persona reranker, which is what other libraries read"):
        lend.write(personae.load("minilm").task.model, tmp_path / "out", name="minilm", graph=False)
    assert not (tmp_path / "out").exists()


def test_without_onnx_it_says_how_to_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agent: Agent) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"onnx and onnxruntime not installed; run `pip install 'personae\[onnx\]'`"):
        lend.write(agent.task.model, tmp_path / "out", name="mine", graph=True)
    assert not (tmp_path / "out").exists()
