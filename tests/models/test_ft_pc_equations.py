"""FT-PC written out for one context and one reply at a time, after section 3 of "Training Millions of Personalized
Dialogue Agents" (Mazaré et al., EMNLP 2018); and that what is pre-trained is fine-tuned."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml
from torch import Tensor

from personae import run
from personae.data import jsonl
from personae.nn.dialogue_batch import Limits
from personae.types import Dialogue, Example, InputError, Speaker, Turn, Whose

Build = Callable[..., Any]

LIMITS = Limits(utterances=3, utterance_words=9, lines=2, line_words=4, reply_words=6)
"""Below what the cases hold, so that each is felt."""


def embed(model: Any, text: str, most: int) -> Tensor:
    """The word vectors (words, H) of a text."""
    sentences = model.words.sentences([(text, most)])
    vectors: Tensor = model.words(sentences)[sentences.words]
    return vectors


def read(encoder: Any, words: Tensor) -> Tensor:
    """A sequence (words, H), scaled, with its places, through the transformer, averaged."""
    width = words.shape[1]
    places = [
        [math.sin(place * 10000 ** (-2 * i / width)) for i in range(width // 2)]
        + [math.cos(place * 10000 ** (-2 * i / width)) for i in range(width // 2)]
        for place in range(len(words))
    ]
    states: Tensor = encoder.layers((words * width**0.5 + words.new_tensor(places))[None])[0]
    return states.mean(0)


def score(model: Any, case: Example) -> Tensor:
    """The score of each candidate."""
    said = [turn.text for turn in case.context.turns][-LIMITS.utterances :]
    context = read(model.context, torch.cat([embed(model, text, LIMITS.utterance_words) for text in said]))
    query = context
    read_personas: dict[str, tuple[Whose, ...]] = {"none": (), "both": ("self", "partner")}
    for layer, whose in zip(model.lines, read_personas.get(model.persona, (model.persona,)), strict=False):
        facts = case.facts(whose)[: LIMITS.lines]
        lines = [sum(layer(word) for word in embed(model, fact, LIMITS.line_words)) for fact in facts]
        if lines:
            memory = torch.stack(lines)  # type: ignore[arg-type]
            query = query + (memory @ context).softmax(0) @ memory
    replies = [read(model.reply, embed(model, text, LIMITS.reply_words)) for text in case.target.candidates]
    return torch.stack(replies) @ query


@pytest.mark.parametrize("whose", get_args(Whose))
def test_the_scores_are_those_of_the_published_model(whose: Whose, build: Build, cases: Sequence[Example]) -> None:
    model = build("ft_pc", persona=whose, limits=LIMITS).double()
    with torch.no_grad():
        scores = model.score(model.collate(cases))
        expected = torch.stack([score(model, case) for case in cases])
    torch.testing.assert_close(scores, expected, atol=1e-8, rtol=1e-8)
    assert scores.std() > 0.1


def test_at_first_a_persona_line_is_the_sum_of_its_words(build: Build) -> None:
    model = build("ft_pc", persona="both")
    of_the_replier, of_the_other = model.lines
    torch.testing.assert_close(of_the_replier.weight, torch.eye(model.words.width))
    assert not torch.allclose(of_the_other.weight, of_the_replier.weight, atol=0.1)


@pytest.mark.parametrize(("hidden", "heads"), [(8, 3), (9, 3), (8, 0)])
def test_sizes_that_do_not_fit_are_refused(hidden: int, heads: int, build: Build) -> None:
    with pytest.raises(InputError, match=rf"task\.model\.heads: {heads} do not divide hidden \({hidden}\)"):
        build("ft_pc", hidden=hidden, heads=heads)


def test_fine_tuning_goes_on_from_what_was_pre_trained(tmp_path: Path) -> None:
    """The words of the first stage keep their vectors, also where the second stage's texts do not hold them."""
    speakers = (Speaker("0"), Speaker("1"))

    def corpus(name: str, *words: str) -> str:
        file = tmp_path / f"{name}.jsonl"
        turns = [tuple(Turn(i % 2, f"{word} and {i}") for i in range(4)) for word in words]
        jsonl.write([Dialogue(f"{name}-{i}", speakers, said) for i, said in enumerate(turns)], file)
        return str(file)

    new = corpus("new", *map(str, range(30, 60)))

    def train(name: str, file: str, **more: Any) -> Any:
        path = "personae.models.selection.ft_pc.FTPC"
        changes = {
            "task.model": {"class_path": path, "init_args": {"hidden": 8, "layers": 1, "persona": "none"}},
            "task.optimization": {"learning_rate": 0.0},
            "corpus": {
                "class_path": "personae.data.files.Files",
                "init_args": {"train": [file], "dev": file, "valid": new},
            },
            "trainer.max_epochs": 1,
            "trainer.val_check_interval": 1.0,
            **more,
        }
        settings = {key: yaml.safe_dump(value) for key, value in changes.items()}
        run.train("selection/imn-toy-ra", settings, out=tmp_path / name)
        return run.load(str(tmp_path / name)).model

    first = train("first", corpus("one", "cats", "dogs", "cats", *map(str, range(30))))
    second = train("second", corpus("two", "birds", "dogs", *map(str, range(30))), init_from=str(tmp_path / "first"))
    assert set(first.words.numbers) < set(second.words.numbers)
    assert "birds" in set(second.words.numbers) - set(first.words.numbers)
    kept = len(first.words.weight)
    assert torch.equal(second.words.weight[:kept], first.words.weight)
    for name, weight in first.reply.named_parameters():
        assert torch.equal(dict(second.reply.named_parameters())[name], weight)
