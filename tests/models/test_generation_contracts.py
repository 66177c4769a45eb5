"""What every model that writes replies promises, whichever it is and however it is made: see `generators`."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from generators import (
    CASES,
    CLASSES,
    HELD_OUT,
    PERSONAL,
    STARTS,
    TRAIN,
    WAYS,
    WITH_TENSOR,
    Make,
    Way,
    asked,
    called,
    learn,
    likelihoods,
    maker,
    of_user,
    takes,
    texts,
)
from safetensors.torch import load_file
from torch import Tensor

from personae import run
from personae.data.candidates import examples
from personae.nn import decoding as decodings
from personae.nn.decoding import Decoded
from personae.nn.name_table import NameTable
from personae.nn.personalization import Questions
from personae.tasks.base import Task
from personae.types import Dialogue, Example, Speaker, Turn

MORE_LOSS = {"p2bot"}
"""Models whose loss is more than that of the replies."""

REORDERS = {"p2bot"}
"""Models that put what was decoded into another order."""

each = pytest.mark.parametrize("way", WAYS, ids=called)
personal = pytest.mark.parametrize("way", PERSONAL, ids=called)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, backbone: str) -> Make:
    return maker(tmp_path_factory.mktemp("made"), backbone)


@pytest.fixture(scope="module")
def learnt(make: Make) -> Callable[[Way], Task]:
    """Each model, trained for some steps on its cases; not to be changed."""
    return cache(lambda name: learn(make(next(way for way in WAYS if called(way) == name)), steps=40))


def test_the_models() -> None:
    assert set(CLASSES) >= {"seq2seq", "speaker", "memory", "causal_lm"}
    assert {called(way) for way in WAYS} >= {
        *("seq2seq", "seq2seq-table", "seq2seq-encoder", "memory", "memory-table-random", "memory-encoder"),
        *(f"speaker-{start}" for start in STARTS),
        *("causal_lm", "causal_lm-table", "causal_lm-encoder"),
    }


@each
def test_a_batch_of_one_is_the_row_of_a_larger_batch(way: Way, learnt: Any) -> None:
    task = learnt(called(way))
    sums, tokens = likelihoods(task, CASES)
    assert sums.shape == tokens.shape == (len(CASES),)
    hows: list[dict[str, Any]] = [{"kind": "greedy"}, {"kind": "beam", "n": 2}, {"top_k": None, "n": 2}]
    replies = [texts(task, CASES, **how) for how in hows]
    for place, case in enumerate(CASES):
        alone, count = likelihoods(task, [case])
        assert count.tolist() == [tokens[place]]
        torch.testing.assert_close(alone[0], sums[place], atol=1e-4, rtol=1e-5)
        if place < 5:
            assert [texts(task, [case], **how)[0] for how in hows] == [reply[place] for reply in replies]
    assert len({text for reply in replies[-1] for text in reply}) > len(CASES) / 2
    assert texts(task, CASES[:3], top_k=None, seed=1) != [reply[:1] for reply in texts(task, CASES[:3], top_k=None)]


@each
def test_the_loss_is_the_mean_of_the_log_likelihoods(way: Way, learnt: Any) -> None:
    task = learnt(called(way))
    sums, tokens = likelihoods(task, CASES)
    with torch.no_grad():
        loss = task.model.loss(task.model.collate(CASES))
    assert loss.isfinite()
    if way[0] not in MORE_LOSS:
        torch.testing.assert_close(loss, -sums.sum() / tokens.sum(), atol=1e-5, rtol=1e-5)
    empty = replace(CASES[0], target=Turn(1, ""))
    assert likelihoods(task, [empty])[1].tolist() == [1]  # the end


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[Decoded]]]:
    """What is decoded meanwhile, of each case."""
    found: list[list[Decoded]] = []
    decode = decodings.decode

    def spy(*given: Any, **more: Any) -> list[list[Decoded]]:
        replies = decode(*given, **more)
        found.extend(replies)
        return replies

    with monkeypatch.context() as patched:
        for name, module in list(sys.modules.items()):
            if name.startswith("personae.") and getattr(module, "decode", None) is decode:
                patched.setattr(module, "decode", spy)
        yield found


@each
def test_steps_give_a_reply_the_log_likelihood_that_it_has(
    way: Way, learnt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the replies that ended, and whose text is of as many tokens as were written."""
    task, longest, compared = learnt(called(way)), 32, 0
    for how in ({"kind": "beam", "n": 3, "length_penalty": 0.0}, {"n": 3}, {"n": 8, "top_k": None, "temperature": 3.0}):
        with recorded(monkeypatch) as decoded:
            replies = texts(task, HELD_OUT, longest=longest, **how)
        assert len(decoded) == len(replies) == len(HELD_OUT)
        for case, written, found in zip(HELD_OUT, replies, decoded, strict=True):
            given = [replace(case, target=Turn(1, text)) for text in written]
            sums, tokens = (each.tolist() for each in likelihoods(task, given))
            for place, text in enumerate(written):
                own = [
                    reply.log_probability
                    for reply in (found if way[0] in REORDERS else found[place : place + 1])
                    if len(reply.tokens) < longest and len(reply.tokens) + 1 == tokens[place]
                ]
                known = not re.search(r"\ufffd|[^\w\s]\w", text)  # else it may be read as other tokens
                if own and known and text not in case.user.history:  # where it would be no memory
                    assert any(sums[place] == pytest.approx(each, abs=1e-3) for each in own)
                    compared += 1
    assert compared >= 5


@each
def test_every_parameter_is_trained(way: Way, make: Make) -> None:
    task = make(way)
    model = task.model.double()
    cases = examples(TRAIN)
    model.loss(model.collate(cases)).backward()
    untouched = {
        name
        for name, weight in model.named_parameters()
        if weight.requires_grad and (weight.grad is None or weight.grad.abs().max() < 1e-12)
    }
    spared = ("self.key.bias", "heads.fit.weight", "heads.fit.bias")  # a softmax does not change; no candidates here
    assert {name for name in untouched if not name.endswith(spared)} == set()
    model.zero_grad()
    some = [case for case in cases if case.user.id in ("user-1", "user-4")]
    model.loss(model.collate(some)).backward()
    for table in (part for part in model.modules() if isinstance(part, NameTable) and "user-1" in part.names):
        assert table.weight.grad is not None
        touched = table.weight.grad.abs().sum(1) > 0
        assert {name for name, place in table.names.items() if touched[place]} == {"user-1", "user-4"}


@each
def test_dropout_is_for_training_only(way: Way, make: Make) -> None:
    task = make(way)
    assert torch.equal(likelihoods(task, CASES)[0], likelihoods(task, CASES)[0])
    if "sizes" in takes(way[0]):
        task.train()
        assert not torch.equal(likelihoods(task, CASES)[0], likelihoods(task, CASES)[0])


@each
def test_the_same_seed_gives_the_same_training(way: Way, make: Make) -> None:
    first, again, other = (learn(make(way, seed=seed), seed=seed).model.state_dict() for seed in (1, 1, 2))
    names = [name for name, weight in first.items() if isinstance(weight, Tensor)]
    assert all(torch.equal(first[name], again[name]) for name in names)
    drawn = any(not torch.equal(first[name], other[name]) for name in names if first[name].shape == other[name].shape)
    assert drawn or (way[0] == "causal_lm" and not way[1])  # where nothing is drawn


@each
def test_a_saved_model_gives_the_same(way: Way, make: Make, tmp_path: Path) -> None:
    task = learn(make(way, folder=tmp_path / "run"))
    run.save(task, tmp_path / "run")
    loaded = run.load(str(tmp_path / "run"))
    assert not loaded.training
    assert torch.equal(likelihoods(loaded, CASES)[0], likelihoods(task, CASES)[0])
    assert texts(loaded, CASES) == texts(task, CASES)
    bare = [of_user(case, case.user.id, history=()) for case in CASES]  # what users said before is remembered
    assert torch.equal(likelihoods(loaded, bare)[0], likelihoods(task, CASES)[0])
    files = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert {"recipe.yaml", "config.json", "model.safetensors"} <= {file.name for file in files}
    assert not [file for file in files if file.read_bytes()[:1] == b"\x80" or file.read_bytes()[:2] == b"PK"]  # pickles
    json.loads((tmp_path / "run" / "config.json").read_text())
    load_file(tmp_path / "run" / "model.safetensors")


@personal
def test_another_user_says_something_else(way: Way, make: Make) -> None:
    task = learn(make(way))
    others = [of_user(case, "user-0", history=TRAIN[0].speakers[1].history) for case in CASES[2:]]
    assert {case.user.id for case in CASES[2:]} > {"user-0"}
    for case, other in zip(CASES[2:], others, strict=True):
        same = torch.equal(likelihoods(task, [case])[0], likelihoods(task, [other])[0])
        assert same == (case.user.id == "user-0")


@pytest.mark.parametrize("name", ["seq2seq", "causal_lm"])
def test_without_a_tensor_nobody_is_known(name: str, make: Make) -> None:
    task = learn(make((name, {})))
    others = [of_user(case, "somebody", history=()) for case in CASES]
    assert torch.equal(likelihoods(task, CASES)[0], likelihoods(task, others)[0])


@personal
def test_who_is_unknown_has_the_mean_and_so_has_an_unknown_question(way: Way, make: Make) -> None:
    task = learn(make(way))
    case = next(case for case in CASES if case.user.id == "user-2")
    question = str(case.context.question)
    tables = [part for part in task.model.modules() if isinstance(part, NameTable)]
    told = likelihoods(task, [case])[0]
    assert torch.equal(likelihoods(task, [asked(case, question="never asked")])[0], told)  # found by its letters
    for part in tables:
        if isinstance(part, Questions):
            part.asked.clear()
    for name, unknown in (("user-2", of_user(case, "nobody")), (question, asked(case, question="never asked"))):
        before = likelihoods(task, [case])[0]
        found = likelihoods(task, [unknown])[0]
        assert found.isfinite()
        if name == question:
            assert torch.equal(likelihoods(task, [asked(case, question=None)])[0], found)
        known = [table for table in tables if name in table.names]
        assert torch.equal(before, found) != bool(known)
        for table in known:
            table.weight.data[table.names[name]] = table.weight.data.mean(0)
        torch.testing.assert_close(likelihoods(task, [case])[0], found, atol=1e-5, rtol=1e-5)


@each
@pytest.mark.parametrize(
    ("said", "reply"),
    [
        ([], "i go for tacos"),
        ([], ""),
        (["what meals do you like best"], ""),
        ([""], " \t\n"),
        (["zzz qqq zzz"], "qqq zzz"),
        (["meals " * 5000], "tacos " * 5000),
        (["x" * 5000], "y" * 5000),
        (["utterance"] * 300, "hi"),
        (["👋🏽 👨‍👩‍👧‍👦"], "😀" * 50),
        (["你好，你喜欢猫吗？"], "مرحبا é\u0301"),
        (["a\x00b\x07\x1b[31m </s> <|endoftext|> <s>"], "\u202e\ufeff </s> <pad> <|endoftext|>"),
        (["half a pair: \ud83d"], "\udfff"),
    ],
    ids=lambda told: ascii(told)[:24],
)
def test_whatever_is_said_is_likely_somehow(way: Way, said: list[str], reply: str, learnt: Any) -> None:
    task = learnt(called(way))
    turns = tuple(Turn((len(said) - 1 - place) % 2, text) for place, text in enumerate(said))
    speakers = (Speaker("asker"), Speaker("nobody", history=tuple(said)))
    case = Example(Dialogue("rough", speakers, turns), Turn(1, reply))
    sums, tokens = likelihoods(task, [case])
    assert sums.isfinite().all()
    assert tokens.item() >= 1
    assert task.model.size(case) >= 0
    for how in ({"kind": "greedy"}, {"kind": "beam"}, {}):
        ((text,),) = texts(task, [case], longest=4, **how)
        assert isinstance(text, str)
    together, _ = likelihoods(task, [CASES[0], case])
    torch.testing.assert_close(together[1:], sums, atol=1e-4, rtol=1e-4)


@each
def test_an_earlier_turn_is_read_where_more_than_one_is(way: Way, make: Make) -> None:
    case = next(case for case in CASES if len(case.context.turns) == 3)
    other = asked(case, turns=(Turn(1, "honestly frankly"), *case.context.turns[1:]))
    by_size = [({"sizes": {"utterances": n}}, n > 1) for n in (1, 3)] if "sizes" in takes(way[0]) else [({}, True)]
    for changes, more in by_size:
        task = learn(make(way, **changes))
        assert torch.equal(likelihoods(task, [case])[0], likelihoods(task, [other])[0]) != more
        last = asked(case, turns=(*case.context.turns[:-1], Turn(0, "honestly frankly")))
        assert not torch.equal(likelihoods(task, [case])[0], likelihoods(task, [last])[0])


@pytest.mark.parametrize("way", WITH_TENSOR, ids=called)
def test_with_a_balance_of_nothing_it_is_its_counterpart(way: Way, make: Make) -> None:
    """After some steps with gradients that are clipped by their norm, to the last bit."""
    name, parts = way
    tasks = [make(way, tensor={"balance": 0.0}), make((name, {key: parts[key] for key in parts if key != "tensor"}))]
    courses = []
    for task in tasks:
        optimizer = task.configure_optimizers()["optimizer"]
        task.train()
        losses = []
        for step in range(5):
            torch.manual_seed(step)
            optimizer.zero_grad()
            loss = task.model.loss(task.model.collate(CASES))
            loss.backward()
            task.configure_gradient_clipping(optimizer, 0.1)
            optimizer.step()
            losses.append(float(loss.detach()))
        courses.append(losses)
        task.eval()
    assert courses[0] == courses[1]
    weights, counterparts = (dict(task.model.named_parameters()) for task in tasks)
    assert set(weights) > set(counterparts)
    assert [key for key, weight in counterparts.items() if not torch.equal(weight, weights[key])] == []
    assert texts(tasks[0], CASES) == texts(tasks[1], CASES)


def test_a_causal_model_with_a_tensor_without_features_is_its_counterpart(make: Make) -> None:
    task, counterpart = make(("causal_lm", {"tensor": "table"})), make(("causal_lm", {}))
    assert not torch.equal(likelihoods(task, CASES)[0], likelihoods(counterpart, CASES)[0])
    task.model.personal.tensor.features.data.zero_()
    assert torch.equal(likelihoods(task, CASES)[0], likelihoods(counterpart, CASES)[0])
    assert texts(task, CASES) == texts(counterpart, CASES)
