from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_backbone import write
from torch import Tensor
from torch.nn import functional as F

from personae import weights
from personae.models.generation.p2bot import Impressions, P2Bot, Play, Receiver
from personae.nn.decoding import Decoding
from personae.nn.objective import Objective
from personae.types import Dialogue, Example, InputError, Persona, Speaker, Turn

PLAY = Play(turns=2, plays=3, longest=6)


def example(
    number: int,
    *said: str,
    reply: str,
    facts: Sequence[str] = (),
    others: Sequence[str] = (),
    wrong: Sequence[str] = (),
) -> Example:
    speakers = Speaker("partner", Persona(tuple(others))), Speaker("self", Persona(tuple(facts)))
    turns = tuple(Turn((len(said) - 1 - place) % 2, text) for place, text in enumerate(said))
    candidates = tuple(sorted([reply, *wrong])) if wrong else ()
    return Example(Dialogue(f"d{number}", speakers, turns), Turn(1, reply, candidates))


EXAMPLES = (
    example(0, "what is that?", reply="a cat", facts=["i like cats"], others=["i sail"], wrong=["in may", "a river"]),
    example(
        1, "hello", "hi", "a dog?", reply="two small dogs", facts=["a bird", "my dog"], others=["no"], wrong=["no"]
    ),
    example(2, "where?", reply="", others=["i swim in the sea"], wrong=["here", "in the river", "up"]),
    example(3, "and you?", reply="i sing all day", facts=["i sing"], wrong=["so do i", "no"]),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {kind: write(tmp_path_factory.mktemp(kind), kind) for kind in ("llama", "gpt2")}


@pytest.fixture
def build(folders: dict[str, str], backbone: str) -> Any:
    """Makes a model; `backbone` is a sentence encoder."""

    def build(kind: str = "gpt2", *, seed: int = 0, **arguments: Any) -> P2Bot:
        torch.manual_seed(seed)
        model = P2Bot(backbone=folders[kind], sentence_encoder=backbone, features=6, **arguments)
        for weight in (model.heads.kinds.weight, model.heads.fit.weight):
            torch.nn.init.normal_(weight, std=0.5)
        model.prepare([])
        return model.eval()

    return build


def test_the_receiver_takes_the_line_that_fits_best() -> None:
    receiver = Receiver(width=2, features=2)
    receiver.utterance.weight.data, receiver.line.weight.data = torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    read = Impressions(vectors, torch.tensor([[0, 1], [2, -1]]), torch.tensor([[0, -1], [1, 2]]))
    fits, best = receiver(read)
    assert fits[0].tolist() == [[[1, 0], [0, 1]], [[0, 0], [2, 2]]]
    assert fits[1].tolist() == [[[1, 0], [2, 3]], [[0, 0], [0, 0]]]
    assert best.tolist() == [[[1, 1], [0, 2]], [[1, 3], [0, 0]]]
    # case 0: its own persona .5, the other one's 1.5; case 1: 3 and 1. Sizes (1) / 2 and (2 + 3) / 1.
    expected = ((1 + 1.5 - 0.5) + 0) / 2 + 0.1 * (0.5 + 5) / 2
    assert float(receiver.loss(read, margin=1.0, sparse=0.1).detach()) == pytest.approx(expected)
    same = Impressions(vectors, read.said, torch.tensor([[0, 1], [0, 1]]))
    assert float(receiver.loss(same, margin=1.0, sparse=0.0).detach()) == 0
    none = Impressions(vectors, read.said, torch.empty(2, 0, dtype=torch.long))
    assert float(receiver.loss(none, margin=1.0, sparse=1.0).detach()) == 0
    begun = Receiver(width=4, features=4)
    vectors = F.normalize(torch.randn(2, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    read = Impressions(vectors, torch.tensor([[0]]), torch.tensor([[1]]))
    assert float(begun(read)[1].detach()) == pytest.approx(4 * float(vectors[0] @ vectors[1]), abs=1e-5)


def test_the_receiver_learns_whose_words_they_are() -> None:
    drawn = torch.Generator().manual_seed(0)
    vectors = F.normalize(torch.randn(8, 16, generator=drawn) / 2 + torch.randn(16, generator=drawn), dim=1)
    read = Impressions(vectors, torch.tensor([[0, -1], [1, 2], [3, -1]]), torch.tensor([[4, -1], [5, 6], [7, -1]]))
    torch.manual_seed(0)
    receiver = Receiver(width=16, features=6)
    optimizer = torch.optim.Adam(receiver.parameters(), lr=0.01)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = receiver.loss(read, margin=1.0, sparse=0.0)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 0.5
    assert losses[-1] == 0
    scores = receiver(read)[1].sum(1) / torch.tensor([[1], [2], [1]])
    assert scores.argmax(1).tolist() == [0, 1, 2]


def test_the_loss_has_three_parts(build: Any) -> None:
    model = build(sparse=0.3)
    batch = model.collate(EXAMPLES)
    said, counts = model.log_likelihood(batch)
    model.likelihood = 0.0
    receiver = model.receiver.loss(batch.impressions, margin=1.0, sparse=0.3)
    chosen = Objective()(model.score(batch), batch.asked.target)
    torch.testing.assert_close(model.loss(batch), chosen + receiver - said.sum() / counts.sum())


@torch.no_grad()
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_batch_of_one(build: Any, kind: str) -> None:
    model = build(kind)
    together = model.collate(EXAMPLES)
    sums, scores = model.log_likelihood(together)[0], model.score(together)
    for decoding in (Decoding(kind="beam", n=2, longest=5), Decoding(n=3, top_k=20, longest=5)):
        texts = model.generate(together, decoding)
        assert [model.generate(model.collate([each]), decoding)[0] for each in EXAMPLES] == texts
    for row, each in enumerate(EXAMPLES):
        alone = model.collate([each])
        torch.testing.assert_close(model.log_likelihood(alone)[0], sums[row : row + 1], atol=1e-4, rtol=1e-5)
        count = len(each.target.candidates)
        torch.testing.assert_close(model.score(alone)[0], scores[row, :count], atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_of_several_replies_the_best_by_both_heads_comes_first(build: Any) -> None:
    model = build(likelihood=0.3)
    decoding = Decoding(kind="beam", beams=4, n=4, longest=5)
    written = model.generate(model.collate(EXAMPLES), decoding)
    beams = model.heads.generate(model.collate(EXAMPLES).asked, decoding)
    assert written != beams
    for each, texts, found in zip(EXAMPLES, written, beams, strict=True):
        assert sorted(texts) == sorted(found)
        told = replace(each, target=Turn(1, "", tuple(texts)))
        scores = model.score(model.collate([told]))[0].tolist()
        assert scores == sorted(scores, reverse=True)
    best = model.generate(model.collate(EXAMPLES), replace(decoding, n=1))
    assert best == [texts[:1] for texts in written]
    greedy = Decoding(kind="greedy", longest=5)
    first = model.collate(EXAMPLES[:1])
    assert "".join(model.stream(first, greedy)) == model.generate(first, greedy)[0][0]
    assert model.generate(model.collate(EXAMPLES), greedy) == model.heads.generate(
        model.collate(EXAMPLES).asked, greedy
    )


@pytest.mark.parametrize("arguments", [{}, {"tune": "lora", "rank": 2}], ids=["full", "lora"])
def test_every_weight_that_is_trained_has_a_gradient(build: Any, arguments: dict[str, Any]) -> None:
    model = build(**arguments)
    for name, weight in model.named_parameters():
        if name.endswith(".up"):
            torch.nn.init.normal_(weight, std=0.3)
    model.loss(model.collate(EXAMPLES)).backward()
    flat = {
        name
        for name, weight in model.named_parameters()
        if weight.requires_grad and (weight.grad is None or not weight.grad.any())
    }
    assert flat == set()


@torch.no_grad()
def test_the_persona_counts(build: Any) -> None:
    model = build()
    other = replace(EXAMPLES[0], context=replace(EXAMPLES[0].context, speakers=EXAMPLES[1].context.speakers))
    first, second = (model.collate([each]) for each in (EXAMPLES[0], other))
    assert float(model.log_likelihood(first)[0]) != float(model.log_likelihood(second)[0])
    assert model.score(first).tolist() != model.score(second).tolist()


def test_saved_and_loaded(build: Any, backbone: str, tmp_path: Path) -> None:
    model = build(play=PLAY)
    weights.write(model, tmp_path / "model.safetensors")
    model.heads.words.keep(tmp_path / "backbone")
    kept = str(tmp_path / "backbone")
    again = P2Bot(backbone=kept, sentence_encoder=backbone, features=6, play=PLAY).eval()
    with pytest.raises(InputError, match="is without weights"):
        again.prepare([])
    again.load_state_dict(weights.read(tmp_path / "model.safetensors", again))
    with torch.no_grad():
        assert torch.equal(again.score(again.collate(EXAMPLES)), model.score(model.collate(EXAMPLES)))


def test_two_personas_talk_in_turn(build: Any) -> None:
    model = build(play=PLAY).train()
    torch.manual_seed(3)
    replies, answers = model.talk(EXAMPLES[:2], PLAY)
    assert model.training
    assert [len(turn) for turn in (*replies, *answers)] == [6] * 4
    for place, (first, answer, second) in enumerate(zip(replies[0], answers[0], replies[1], strict=True)):
        begun = EXAMPLES[place // 3]
        assert [turn.text for turn in first.context.turns] == [begun.context.turns[0].text]
        assert [turn.text for turn in answer.context.turns[1:]] == [first.target.text]
        assert [turn.text for turn in second.context.turns[2:]] == [answer.target.text]
        assert [turn.speaker for turn in (*second.context.turns, second.target)] == [0, 1, 0, 1]
        assert first.facts("self") == second.facts("self") == begun.facts("self")
        assert answer.facts("self") == begun.facts("partner")
    assert len({each.target.text for each in replies[0][:3]}) > 1
    torch.manual_seed(3)
    assert model.talk(EXAMPLES[:2], PLAY) == (replies, answers)


@torch.no_grad()
def test_rewards(build: Any) -> None:
    """Each of the three by itself, computed reply by reply; the persona's is shared with what comes before."""
    model = build(play=PLAY)
    replies, answers = model.talk(EXAMPLES[:2], PLAY)
    batch = model.heads.collate([each for turn in replies for each in turn], "self")

    def found(**shares: float) -> Tensor:
        weights: dict[str, Any] = {"language": 0, "coherence": 0, "persona": 0, **shares}
        play = replace(PLAY, discount=0.25, **weights)
        rewards: Tensor = model.rewards(replies, answers, batch, play)
        return rewards

    language, coherence, persona = found(language=1), found(coherence=1), found(persona=1)
    other = model.fluent.backbone
    for turn in range(2):
        for row, each in enumerate(replies[turn]):
            tokens = torch.tensor([256, *model.heads.words.tokenizer(each.target.text)["input_ids"], 256])
            states = other(input_ids=tokens[None]).last_hidden_state[0]
            told = model.fluent.logits(states).log_softmax(1)[:-1]
            mean = told[torch.arange(len(told)), tokens[1:]].mean()
            assert float(language[turn, row]) == pytest.approx(float(mean), abs=1e-4)
            alone = model.heads.collate([replace(each, target=Turn(1, "", (each.target.text,)))], "self")
            fits = model.heads.score(alone, likelihood=0)
            assert float(coherence[turn, row]) == pytest.approx(float(fits.sigmoid()), abs=1e-4)
    steps = [model.perceived(each) for pair in zip(replies, answers, strict=True) for each in pair]
    torch.testing.assert_close(persona[1], steps[2] + 0.25 * steps[3])
    torch.testing.assert_close(persona[0], steps[0] + 0.25 * steps[1] + 0.25**2 * steps[2] + 0.25**3 * steps[3])
    mixed = found(language=0.2, coherence=3, persona=0.7)
    torch.testing.assert_close(mixed, 0.2 * language + 3 * coherence + 0.7 * persona)


def test_the_gradient_is_that_of_the_rewards(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    play = replace(PLAY, supervised=0.0)
    model = build("llama", play=play).train()  # which has no dropout
    torch.manual_seed(1)
    said = model.talk(EXAMPLES[:2], play)
    monkeypatch.setattr(model, "talk", lambda _examples, _play: said)
    rewards = torch.randn(2, 6)
    monkeypatch.setattr(model, "rewards", lambda *_: rewards)
    model.loss(model.collate(EXAMPLES[:2])).backward()
    found = model.heads.kinds.weight.grad.clone()
    model.zero_grad()
    above = rewards.view(2, 2, 3) - rewards.view(2, 2, 3).mean(2, keepdim=True)
    for gained, each in zip(above.flatten(), [each for turn in said[0] for each in turn], strict=True):
        total, count = model.heads.log_likelihood(model.heads.collate([each], "self"))
        (-gained * total / count / 12).sum().backward()
    torch.testing.assert_close(model.heads.kinds.weight.grad, found, atol=1e-5, rtol=1e-3)
    assert all(
        weight.grad is None for part in (model.judge, model.fluent, model.receiver) for weight in part.parameters()
    )


def test_what_is_rewarded_is_said_more_often(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(turns=1, plays=8, top_k=20, longest=4, language=0, coherence=0, persona=1, supervised=0)
    model = build(play=play)
    monkeypatch.setattr(model, "perceived", lambda told: torch.tensor([_early(each.target.text) for each in told]))
    optimizer = torch.optim.Adam(model.heads.parameters(), lr=3e-3)
    before = {name: weight.clone() for name, weight in model.named_parameters() if not name.startswith("heads.")}
    batch = model.collate(EXAMPLES[:2])

    def told() -> float:
        torch.manual_seed(100)
        replies, _ = model.talk(batch.examples, replace(play, plays=64))
        return sum(_early(each.target.text) for each in replies[0]) / 128

    first = told()
    model.train()
    for step in range(40):
        torch.manual_seed(step)
        optimizer.zero_grad()
        model.loss(batch).backward()
        optimizer.step()
    assert told() > first + 0.2
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters() if name in before)


def _early(text: str) -> float:
    """The share of the letters of a text that are of the first half of the alphabet of bytes."""
    return sum(ord(letter) < 79 for letter in text) / max(len(text), 1)


def test_some_steps_are_supervised(build: Any) -> None:
    always, never = (build(play=replace(PLAY, supervised=share)) for share in (1.0, 0.0))
    batch = always.collate(EXAMPLES)
    always.train()
    always.heads.dropout.p = 0.0
    with torch.no_grad():
        losses = always.heads.losses(batch.asked, Objective())
    assert float(always.loss(batch).detach()) > float(losses[0]) > 0
    never.eval()  # what is measured is never played
    torch.testing.assert_close(never.loss(batch), always.eval().loss(batch))


def test_mistakes_are_named(build: Any) -> None:
    for arguments, message in (
        ({"likelihood": -0.1}, "task.model.likelihood: -0.1"),
        ({"features": 0}, "task.model.features: 0"),
    ):
        with pytest.raises(InputError, match=message):
            P2Bot(**arguments)
    for arguments, message in (
        ({"turns": 0}, "task.model.play.turns: 0 is not at least 1"),
        ({"plays": 1}, "task.model.play.plays: 1 is not at least 2"),
        ({"discount": 2}, "task.model.play.discount: 2 is not between 0 and 1"),
    ):
        with pytest.raises(InputError, match=message):
            Play(**arguments)
