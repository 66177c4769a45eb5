"""The persona reranker beside transformers' BERT, told by masks and positions what the reranker leaves out."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from personae.models.selection import persona_reranker
from personae.models.selection.persona_reranker import OWN_TURN, PARTNER, PARTNER_TURN, SELF
from personae.nn import packed_cases
from personae.types import Example, InputError

Build = Callable[..., Any]


@pytest.fixture(scope="module")
def model(build: Build) -> Any:
    model = build("persona_reranker")
    for weight in (model.encoder.subtypes.weight, model.weight.weight, model.recent.weight, model.whole.weight):
        torch.nn.init.normal_(weight, std=0.1)
    return model


def states(model: Any, tokens: Sequence[int], kinds: Sequence[int], positions: Sequence[int], sees: Tensor) -> Tensor:
    """Of each token (L, H), by transformers."""
    bert = model.encoder.backbone
    embeddings = bert.embeddings
    embedded = embeddings.LayerNorm(
        embeddings.word_embeddings(torch.tensor(tokens))
        + embeddings.position_embeddings(torch.tensor(positions))
        + embeddings.token_type_embeddings(torch.tensor(0))
        + model.encoder.subtypes(torch.tensor(kinds))
    )
    bias = torch.zeros(sees.shape).masked_fill(~sees, -torch.inf)
    return bert.encoder(embedded[None], attention_mask=bias[None, None]).last_hidden_state[0]


def plainly(model: Any, case: Example) -> list[float]:
    parts = model._context(case)
    tokens, kinds = ([each for part in parts for each in part[place]] for place in (0, 1))
    of = torch.tensor([number for number, (part, _) in enumerate(parts) for _ in part])
    before = of[:, None] >= of
    read = states(model, tokens, kinds, range(len(tokens)), before)
    weights = model.weight(read).exp()
    mean = model.recent(read[of == of[-1]].mean(0)) + model.whole((weights * read).sum(0) / weights.sum())
    context = F.normalize(mean, dim=0)
    scores = []
    for text in case.target.candidates:
        reply, of_reply = model._reply(text)
        alone = states(model, reply, of_reply, range(len(reply)), torch.ones(len(reply), len(reply)).bool()).mean(0)
        whole = len(tokens) + len(reply)
        sees = torch.ones(whole, whole).bool()
        sees[: len(tokens), len(tokens) :] = False
        sees[: len(tokens), : len(tokens)] = before
        read = states(model, [*tokens, *reply], [*kinds, *of_reply], range(whole), sees)[len(tokens) :].mean(0)
        apart = model.alone.exp() * context @ F.normalize(alone, dim=0)
        together = model.output(read)[0] + model.together.exp() * context @ F.normalize(read, dim=0)
        scores.append(float(apart + together))
    return scores


def test_scores_are_those_of_bert(model: Any, cases: Sequence[Example]) -> None:
    with torch.no_grad():
        scores = model.score(model.collate(cases))
        for case, row in zip(cases, scores, strict=True):
            torch.testing.assert_close(row, torch.tensor(plainly(model, case)), atol=1e-4, rtol=1e-5)


def test_kept_weights_are_those_of_now(build: Build, cases: Sequence[Example]) -> None:
    model = build("persona_reranker")
    batch = model.collate(cases)
    with torch.inference_mode():
        before = model.score(batch)
    with torch.no_grad():
        model.encoder.backbone.encoder.layer[0].output.dense.weight.mul_(2)
    with torch.inference_mode():
        after = model.score(batch)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(model.score(batch).detach(), after)


def test_what_fused_adam_learnt_is_measured(build: Build, cases: Sequence[Example]) -> None:
    model = build("persona_reranker")
    batch = model.collate(cases)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], fused=True)
    found = []
    for _ in range(2):
        model.eval()
        with torch.no_grad():
            found.append(model.score(batch))
            torch.testing.assert_close(found[-1], _fresh(build, model).score(batch), atol=1e-5, rtol=1e-5)
        model.train()
        model.loss(batch).backward()
        optimizer.step()
    assert not torch.allclose(*found)


def test_each_precision_has_weights_of_its_own(build: Build, cases: Sequence[Example]) -> None:
    model = build("persona_reranker").eval()
    batch = model.collate(cases)
    found = []
    for half in (False, True, False):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            found.append(model.score(batch))
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])


def _fresh(build: Build, model: Any) -> Any:
    """A model with the same weights that has read nothing."""
    other = build("persona_reranker").eval()
    other.load_state_dict(model.state_dict())
    return other


def test_blocks_of_replies_change_nothing(
    model: Any, cases: Sequence[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = model.collate(cases)
    with torch.no_grad():
        whole = model.score(batch)
        monkeypatch.setattr(packed_cases, "SPAN", 10)
        torch.testing.assert_close(model.score(batch), whole)


def test_one_reading_is_for_all_replies_of_a_conversation(
    model: Any, case: Callable[..., Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = ["the cat", "a dog", "old bird", "you like", "the cat"]
    first = case(said=said, candidates=["bird", "me"], facts=["i swim"])
    turns = first.context.turns
    examples = [replace(first, context=replace(first.context, turns=turns[:count])) for count in (3, 5, 1)]
    examples.append(case(said=said[:3], candidates=["bird", "old"], facts=["me"]))
    batch = model.collate(examples)
    lengths = [sum(len(tokens) for tokens, _ in model._context(example)) for example in examples]
    assert batch.contexts.starts[-1] == lengths[1] + lengths[3]
    with torch.no_grad():
        for example, scores in zip(examples, model.score(batch), strict=True):
            torch.testing.assert_close(scores, model.score(model.collate([example]))[0], atol=1e-5, rtol=1e-5)


def test_in_chat_only_the_last_utterances_are_read(
    build: Build, case: Callable[..., Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build("persona_reranker")
    said = ["the cat", "a dog", "old bird", "you like", "the cat"]
    first = case(said=said, candidates=["bird", "me"], facts=["i swim"])
    read = []
    encode = model.encoder.encode
    monkeypatch.setattr(model.encoder, "encode", lambda packed, *rest: (read.append(packed), encode(packed, *rest))[1])
    for count, replies in ((1, ["bird", "me"]), (3, ["me", "cat"]), (5, ["cat", "bird"]), (5, ["dog"]), (3, ["me"])):
        turns = first.context.turns[:count]
        target = replace(first.target, candidates=tuple(replies))
        batch = model.collate([replace(first, context=replace(first.context, turns=turns), target=target)])
        with torch.no_grad():
            scores = model.score(batch)
        torch.testing.assert_close(scores, _fresh(build, model).score(batch).detach(), atol=1e-5, rtol=1e-5)
    lengths = [packed.starts[-1] for packed in read]
    contexts = {count: sum(map(len, (part for part, _ in model._context(_with(first, count))))) for count in (1, 3, 5)}
    each = {text: len(model._reply(text)[0]) for text in ("bird", "me", "cat", "dog")}
    whole = [
        [contexts[1], each["bird"] + each["me"], each["bird"] + each["me"]],
        [contexts[3] - contexts[1], each["cat"], each["me"] + each["cat"]],
        [contexts[5] - contexts[3], each["cat"] + each["bird"]],
        [each["dog"], each["dog"]],
        [each["me"]],
    ]
    assert lengths == [length for step in whole for length in step]


def test_a_persona_that_begins_alike_is_another(build: Build, case: Callable[..., Example]) -> None:
    model = build("persona_reranker")
    for facts in (["i swim", "you like"], ["i swim"], ["i swim", "you like", "me"]):
        batch = model.collate([case(said=["the cat"], candidates=["bird", "me"], facts=facts)])
        with torch.no_grad():
            torch.testing.assert_close(model.score(batch), _fresh(build, model).score(batch), atol=1e-5, rtol=1e-5)


def _with(example: Example, count: int) -> Example:
    return replace(example, context=replace(example.context, turns=example.context.turns[:count]))


def test_few_conversations_are_kept(model: Any, case: Callable[..., Example]) -> None:
    for number in range(3 * persona_reranker.CONVERSATIONS):
        with torch.no_grad():
            model.score(model.collate([case(said=["the cat"], candidates=["bird"], facts=["i swim"] * number)]))
    assert len(model._remembered()[1]) == persona_reranker.CONVERSATIONS


def test_eight_bits_say_almost_the_same(build: Build, cases: Sequence[Example]) -> None:
    model = build("persona_reranker")
    batch = model.collate(cases)
    found = []
    for numbers in ("32-true", "int8", "32-true"):
        model.compute_in(numbers)
        with torch.no_grad():
            found.append(model.score(batch))
    torch.testing.assert_close(found[0], found[2], atol=0, rtol=0)
    assert not torch.equal(found[0], found[1])
    there = found[0] > -torch.inf
    assert (found[0] - found[1])[there].abs().max() < found[0][there].std() / 2
    model.compute_in("int8")
    assert model.loss(batch).requires_grad  # what is trained is not rounded


def test_what_a_context_is(model: Any, case: Callable[..., Example]) -> None:
    example = case(said=["the cat", "a dog", "old"], candidates=["bird"], facts=["i swim"], partner=["you like", "me"])
    model.collate([example])
    known, end = model.encoder.tokens(()), model.encoder.end
    swim, like, me = ((*known[line], end) for line in ("i swim", "you like", "me"))
    persona = (model.encoder.start, *swim, *like, *me)
    kinds = (0, *[SELF] * len(swim), *[PARTNER] * len(like + me))
    said = [((*known[text], end), kind) for text, kind in (("the cat", PARTNER_TURN), ("a dog", OWN_TURN))]
    last = (*known["old"], end)
    turns = [(tokens, (kind,) * len(tokens)) for tokens, kind in (*said, (last, PARTNER_TURN))]
    assert model._context(example) == ((persona, kinds), *turns)


def test_what_there_is_no_room_for(build: Build, case: Callable[..., Example]) -> None:
    model = build("persona_reranker", longest=28, utterance_tokens=6, line_tokens=6)
    example = case(said=["the cat"] * 9, candidates=["bird"], facts=["i swim"] * 9, partner=["me"] * 4)
    model.collate([example])
    turns = example.context.turns
    each = 1 + len(model.encoder.tokens(())["the cat"])
    kept = []
    for count in range(1, len(turns) + 1):
        now = replace(example, context=replace(example.context, turns=turns[:count]))
        (persona, kinds), *said = model._context(now)
        assert len(persona) <= 14
        assert SELF in kinds
        assert PARTNER not in kinds
        assert len(persona) + each * len(said) <= 28
        assert said[-1][1][0] == (PARTNER_TURN, OWN_TURN)[(len(turns) - count) % 2]
        kept.append(len(said))
    room = (28 - len(persona)) // each
    assert kept[: room + 1] == [*range(1, room + 1), (28 - len(persona)) // 2 // each]
    assert kept[room + 1] == kept[room] + 1  # what was read stays of use


def test_of_an_utterance_the_end_is_read(build: Build, case: Callable[..., Example]) -> None:
    model = build("persona_reranker", longest=40, utterance_tokens=3, line_tokens=3)
    one, other = (case(said=[f"{'the cat ' * 300}{last}"], candidates=["bird", "dog"]) for last in ("bird", "old"))
    with torch.no_grad():
        scores = [model.score(model.collate([each])) for each in (one, other)]
    assert not torch.allclose(*scores)
    (_, (tokens, _)), known = model._context(one), model.encoder.tokens(())
    assert tokens[:-1] == known[one.context.turns[0].text][-3:]


def test_what_is_not_read_is_said_once(
    build: Build, case: Callable[..., Example], caplog: pytest.LogCaptureFixture
) -> None:
    model = build("persona_reranker", longest=28, utterance_tokens=6, line_tokens=6, reply_tokens=4)
    long = "the cat sings and sleeps all day"
    for _ in range(2):
        model.collate([case(said=[long] * 9, candidates=[long], facts=[long] * 9)])
    told = [record.getMessage() for record in caplog.records]
    parts = ("6 tokens of a line", "14 tokens in all", "6 tokens of an utterance", "last utterances", "of a reply")
    assert len(told) == len(parts)
    assert all(any(part in each for each in told) for part in parts)


def test_a_line_without_room_is_not_read(build: Build, case: Callable[..., Example]) -> None:
    model = build("persona_reranker", longest=28, utterance_tokens=6, line_tokens=6)
    whole, less, other = (
        case(said=["hi"], candidates=["bird", "dog"], facts=["i swim"] * count) for count in (9, 8, 1)
    )
    assert model.sequences([whole]) == model.sequences([less])
    assert model.sequences([whole]) != model.sequences([other])


def test_training_reads_the_replies_that_it_likes(
    build: Build, cases: Sequence[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build("persona_reranker", crossed=3, hard=1, among=1.0)
    batch = model.collate(cases)
    chosen = []
    read = model._read
    monkeypatch.setattr(model, "_read", lambda *arguments: (chosen.append(arguments[-1]), read(*arguments))[1])
    model.loss(batch)
    (places,) = chosen
    apart = model._apart(batch, model._contexts(batch)[1])
    for row, (target, picked) in enumerate(zip(batch.target.tolist(), places.tolist(), strict=True)):
        candidates = batch.places[row].tolist()
        assert len(set(picked)) == 3
        assert picked[0] == candidates[target]
        others = [place for place in range(len(candidates)) if place != target]
        assert picked[1] == candidates[max(others, key=lambda place: apart[row, place].item())]
        assert picked[2] in candidates


def test_where_none_are_crossed_the_bi_encoder_learns_alone(build: Build, cases: Sequence[Example]) -> None:
    model = build("persona_reranker", crossed=0)
    batch = model.collate(cases)
    loss = model.loss(batch)
    wanted = F.cross_entropy(model._apart(batch, model._contexts(batch)[1]), batch.target)
    torch.testing.assert_close(loss, wanted)


def test_words_stay_as_they_were(model: Any, cases: Sequence[Example]) -> None:
    assert not model.encoder.backbone.embeddings.word_embeddings.weight.requires_grad


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"line_tokens": 0}, "line_tokens: 0 is not at least 1"),
        ({"longest": 100}, "longest: 100 is less than four times a line or an utterance"),
        ({"reply_tokens": 0}, "reply_tokens: 0 is not at least 1"),
        ({"among": 0.0}, "among: 0.0 is not above 0 and at most 1"),
        ({"hard": 8}, r"crossed \(8\) must be more than hard \(8\)"),
    ],
)
def test_settings_that_make_no_sense(build: Build, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build("persona_reranker", **arguments)
