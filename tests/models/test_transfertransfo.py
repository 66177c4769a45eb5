from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_backbone import write
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from personae import weights
from personae.models.generation.transfertransfo import TransferTransfo
from personae.nn.decoding import Decoded, Decoding, decode
from personae.nn.double_heads import log_probabilities
from personae.nn.lora import adapters
from personae.nn.objective import Objective
from personae.tasks.generation import Generation
from personae.tasks.negatives import Drawn
from personae.tasks.selection import Selection
from personae.types import Dialogue, Example, InputError, Persona, Speaker, Turn

END = 256
OWN, PARTNERS, SELF, PARTNER = range(4)


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
    example(0, "what do you eat?", reply="soup", facts=["i cook"], wrong=["in may", "a red one"]),
    example(
        1,
        "hello",
        "hi, i am new",
        "do you like cats, or dogs?",
        reply="i like dogs and cats",
        facts=["i have a dog", "i sail"],
        others=["i paint"],
        wrong=["no"],
    ),
    example(2, "where?", reply="", others=["i live in a tent"], wrong=["here", "in the house by the sea", "up"]),
    example(3, reply="i begin", facts=["i talk first"], wrong=["so do i", "no"]),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {kind: write(tmp_path_factory.mktemp(kind), kind) for kind in ("llama", "gpt2", "llama-untied")}


@pytest.fixture(params=["llama", "gpt2"])
def backbone(folders: dict[str, str], request: pytest.FixtureRequest) -> str:
    return folders[request.param]


def built(backbone: str, *, seed: int = 0, **arguments: Any) -> TransferTransfo:
    torch.manual_seed(seed)
    model = TransferTransfo(backbone=backbone, **arguments)
    model.prepare([])
    for layer in adapters(model):
        torch.nn.init.normal_(layer.up, std=0.3)
    torch.nn.init.normal_(model.heads.kinds.weight, std=0.5)
    torch.nn.init.normal_(model.heads.fit.weight, std=0.5)
    return model.eval()


ARGUMENTS: list[dict[str, Any]] = [{}, {"tune": "lora", "rank": 2, "persona": "both"}]


def spelled(model: TransferTransfo, example: Example) -> list[tuple[int, int]]:
    """Persona, utterances and the end before the reply: tokens and their kinds."""

    def numbers(text: str) -> list[int]:
        found: list[int] = model.heads.words.tokenizer(text)["input_ids"]
        return found

    parts: list[tuple[int, str]] = []
    for kind, whose in ((OWN, "self"), (PARTNERS, "partner")):
        if model.persona in (whose, "both") and (lines := example.facts(whose)):  # type: ignore[arg-type]
            parts.append((kind, "".join(f" {line}" for line in lines)))
    parts += [(SELF if turn.speaker == 1 else PARTNER, turn.text) for turn in example.context.turns]
    read = [(token, kind) for kind, text in parts for token in (END, *numbers(text))]
    return [*read, (END, SELF)]


def plainly(model: TransferTransfo, other: Any, example: Example, reply: str) -> tuple[float, float]:
    """The log-likelihood of a reply and how well it fits, by transformers' module, all read at once."""
    read = spelled(model, example)
    written = [*model.heads.words.tokenizer(reply)["input_ids"], END]
    tokens = torch.tensor([[token for token, _ in read] + written])
    kinds = torch.tensor([[kind for _, kind in read] + [SELF] * len(written)])
    embedded = other.get_input_embeddings()(tokens) + model.heads.kinds.weight[kinds]
    output = other(inputs_embeds=embedded, output_hidden_states=True)
    told = output.logits[0, len(read) - 1 : -1].log_softmax(1)
    likelihood = told[torch.arange(len(written)), torch.tensor(written)].sum()
    return float(likelihood), float(model.heads.fit(output.hidden_states[-1][0, -1]))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["llama", "gpt2", "llama-untied"])
def test_both_heads_say_what_transformers_would(folders: dict[str, str], kind: str) -> None:
    model = built(folders[kind], persona="both")
    other = AutoModelForCausalLM.from_pretrained(folders[kind])
    batch = model.collate(EXAMPLES)
    sums, counts = model.log_likelihood(batch)
    scores = model.score(batch)
    assert counts.tolist() == [len(example.target.text) + 1 for example in EXAMPLES]
    for row, each in enumerate(EXAMPLES):
        said = {text: plainly(model, other, each, text) for text in (each.target.text, *each.target.candidates)}
        assert float(sums[row]) == pytest.approx(said[each.target.text][0], abs=1e-3)
        fits = torch.tensor([said[text][1] for text in each.target.candidates])
        torch.testing.assert_close(scores[row, : len(fits)], fits, atol=1e-4, rtol=1e-4)
        assert scores[row, len(fits) :].tolist() == [-torch.inf] * (4 - len(fits))


@torch.no_grad()
def test_the_likelihood_has_its_share_of_a_score(backbone: str) -> None:
    model = built(backbone)
    heads = model.score(model.collate(EXAMPLES[1:2]))
    model.likelihood = 1.0
    alone = model.score(model.collate(EXAMPLES[1:2]))[0]
    for place, text in enumerate(EXAMPLES[1].target.candidates):
        told = replace(EXAMPLES[1], target=Turn(1, text))
        total, count = model.log_likelihood(model.collate([told]))
        assert float(alone[place]) == pytest.approx(float(total / count), abs=1e-4)
    model.likelihood = 0.25
    mixed = model.score(model.collate(EXAMPLES[1:2]))
    torch.testing.assert_close(mixed, 0.75 * F.logsigmoid(heads) + 0.25 * alone)


@torch.no_grad()
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=["full", "lora"])
@pytest.mark.parametrize("decoding", [Decoding(kind="greedy"), Decoding(kind="beam", n=2), Decoding(n=2, top_k=20)])
def test_what_is_generated_is_as_likely_as_it_is_when_read(
    backbone: str, arguments: dict[str, Any], decoding: Decoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step by step against all at once."""
    found: list[list[list[Decoded]]] = []

    def kept(*given: Any, **more: Any) -> list[list[Decoded]]:
        found.append(decode(*given, **more))
        return found[-1]

    monkeypatch.setattr("personae.nn.double_heads.decode", kept)
    model = built(backbone, **arguments)
    decoding = replace(decoding, longest=6)
    model.generate(model.collate(EXAMPLES), decoding)
    for each, replies in zip(EXAMPLES, found[0], strict=True):
        for reply in replies:
            batch = model.collate([each])
            ended = len(reply.tokens) < 6
            written = torch.tensor([[*reply.tokens, END]])
            told = replace(batch.true, tokens=written, written=torch.tensor([written.shape[1]]))
            states = model.heads.states(batch, told, model.heads.read(batch))
            steps = log_probabilities(model.heads.words, states, told)[0]
            again = float(steps.sum() if ended else steps[:-1].sum())
            assert reply.log_probability == pytest.approx(again, abs=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=["full", "lora"])
def test_a_batch_of_one(backbone: str, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("personae.nn.double_heads.ROOM", 120)  # so that candidates are read in parts
    model = built(backbone, likelihood=0.5, **arguments)
    together = model.collate(EXAMPLES)
    sums, scores = model.log_likelihood(together)[0], model.score(together)
    for decoding in (Decoding(kind="greedy", longest=5), Decoding(kind="beam", longest=5), Decoding(longest=5)):
        texts = model.generate(together, decoding)
        assert [model.generate(model.collate([each]), decoding)[0] for each in EXAMPLES] == texts
    for row, each in enumerate(EXAMPLES):
        alone = model.collate([each])
        torch.testing.assert_close(model.log_likelihood(alone)[0], sums[row : row + 1], atol=1e-4, rtol=1e-5)
        count = len(each.target.candidates)
        torch.testing.assert_close(model.score(alone)[0], scores[row, :count], atol=1e-4, rtol=1e-5)


def test_a_reply_is_told_piece_by_piece(backbone: str) -> None:
    model = built(backbone)
    for decoding in (Decoding(kind="greedy", longest=9), Decoding(longest=9)):
        for each in EXAMPLES:
            batch = model.collate([each])
            assert "".join(model.stream(batch, decoding)) == model.generate(batch, decoding)[0][0]


def test_the_loss_is_of_both_heads(backbone: str) -> None:
    model = built(backbone, language=3.0)
    batch = model.collate(EXAMPLES)
    said, counts = model.log_likelihood(batch)
    language = -said.sum() / counts.sum()
    for objective in (Objective(), Objective("pointwise")):
        expected = 3 * language + objective(model.score(batch), batch.target)
        torch.testing.assert_close(model.loss(batch, objective), expected)
    bare = [replace(each, target=replace(each.target, candidates=())) for each in EXAMPLES]
    torch.testing.assert_close(model.loss(model.collate(bare)), language)


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=["full", "lora"])
def test_every_weight_that_is_trained_has_a_gradient(backbone: str, arguments: dict[str, Any]) -> None:
    model = built(backbone, **arguments).double()
    model.loss(model.collate(EXAMPLES)).backward()
    flat = {
        name
        for name, weight in model.named_parameters()
        if weight.requires_grad and (weight.grad is None or float(weight.grad.abs().max()) < 1e-12)
    }
    assert flat <= {"heads.fit.bias"}  # a softmax does not change by what is added to all of it
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert len(trained) < len(list(model.parameters())) or not arguments


@torch.no_grad()
def test_the_persona_counts(backbone: str) -> None:
    own, other = (replace(EXAMPLES[0], context=_with(EXAMPLES[0].context, place)) for place in (1, 0))

    def found(whose: Any, each: Example) -> list[float]:
        model = built(backbone, persona=whose)
        batch = model.collate([each])
        return [*model.score(batch)[0].tolist(), float(model.log_likelihood(batch)[0])]

    assert found("none", own) == found("none", other) == found("none", EXAMPLES[0])
    assert found("self", own) != found("self", EXAMPLES[0]) == found("self", other)
    assert found("partner", own) != found("partner", other)
    assert found("both", own) != found("both", other)


def _with(dialogue: Dialogue, place: int) -> Dialogue:
    speakers = [
        replace(speaker, persona=Persona(("i like tea",) if number == place else speaker.persona.facts))
        for number, speaker in enumerate(dialogue.speakers)
    ]
    return replace(dialogue, speakers=(speakers[0], speakers[1]))


def test_saved_and_loaded(backbone: str, tmp_path: Path) -> None:
    model = built(backbone, tune="lora", rank=2)
    weights.write(model, tmp_path / "model.safetensors")
    model.heads.words.keep(tmp_path / "backbone")
    again = TransferTransfo(backbone=str(tmp_path / "backbone"), tune="lora", rank=2).eval()
    with pytest.raises(InputError, match="is without weights"):
        again.prepare([])
    again.load_state_dict(weights.read(tmp_path / "model.safetensors", again))
    again.prepare([])
    with torch.no_grad():
        assert torch.equal(again.score(again.collate(EXAMPLES)), model.score(model.collate(EXAMPLES)))
    assert again.tokens == model.tokens


def test_what_is_too_long_is_left_out(folders: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    model = built(folders["llama"], longest=24, reply=8)
    texts = model.heads.words
    case = example(0, "x" * 9, "y" * 9, "z" * 4, reply="w" * 20, facts=["abcd", "efgh"])
    batch = model.collate([case])
    (tokens,), (kinds,) = batch.context.tolist(), batch.kinds.tolist()
    assert texts.text(tokens) == "abcd efghzzzz"
    assert kinds == [OWN] * 11 + [PARTNER] * 5 + [SELF]
    assert batch.true.written.tolist() == [9]
    assert "more than 24 tokens" in caplog.text
    assert "beyond 8 tokens" in caplog.text
    long = example(0, "x" * 9, "z" * 40, reply="w", facts=["abcd", "efgh"])
    assert texts.text(model.collate([long]).context[0].tolist()) == "abcd efgh" + "z" * 11
    longer = example(0, "z" * 40, reply="w", facts=["abcd" * 10])
    batch = model.collate([longer])
    assert batch.context.shape[1] == 24
    assert texts.text(batch.context[0].tolist()) == ("abcd" * 10)[:21]
    few = built(folders["llama"], utterances=1)
    assert few.heads.words.text(few.collate([case]).context[0].tolist()) == "abcd efghzzzz"


def test_one_model_is_trained_and_measured_in_both_roles(folders: dict[str, str]) -> None:
    cases = [each for each in EXAMPLES if each.context.turns]
    model: Any = built(folders["gpt2"])
    selection = Selection(model=model, negatives=Drawn(candidates=2, pool=4), batch_size=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    generation = Generation(model=model, decoding=Decoding(kind="greedy", longest=8), select="log-likelihood")

    @torch.no_grad()
    def measured() -> tuple[float, float]:
        selection.eval()
        chosen = [row for batch in selection.held_out(cases) for row in selection.rows_of(batch)]
        spoken = [row for batch in generation.held_out(cases) for row in generation.rows_of(batch)]
        hits = sum(row.scores[row.target] == max(row.scores) for row in chosen)
        return hits / len(chosen), generation.values(spoken)["log-likelihood"]

    _, unlikely = measured()
    batches = selection.batches(cases)
    selection.train()
    for _ in range(30):
        for batch in batches:
            optimizer.zero_grad()
            selection.loss(batch).backward()
            optimizer.step()
    hits, likely = measured()
    assert hits == 1
    assert likely > unlikely + 1


def test_mistakes_are_named(folders: dict[str, str]) -> None:
    for arguments, message in (
        ({"language": 0}, "task.model.language: 0 is not above 0"),
        ({"likelihood": 1.5}, "task.model.likelihood: 1.5"),
        ({"utterances": 0}, "task.model.utterances: 0 is not at least 1"),
        ({"longest": 7}, "task.model.longest: 7 is not at least 8"),
        ({"longest": 192}, "task.model.longest: the backbone has room for 256"),
        ({"tune": "some"}, "task.model.tune: 'some'"),
        ({"persona": "mine"}, "task.model.persona: 'mine'"),
    ):
        with pytest.raises(InputError, match=message):
            TransferTransfo(backbone=folders["llama"], **{"longest": 100, **arguments})  # type: ignore[arg-type]
    model = built(folders["llama"], longest=100)
    with pytest.raises(InputError, match=r"decoding\.longest: 157 tokens do not fit in; 156 do"):
        model.generate(model.collate(EXAMPLES), Decoding(longest=157))


def test_scores_are_one_for_each_candidate(folders: dict[str, str]) -> None:
    model = built(folders["llama"])
    case = replace(EXAMPLES[0], target=Turn(1, "soup", ("no", "soup", "no", "up")))
    with torch.no_grad():
        scores: Tensor = model.score(model.collate([case, EXAMPLES[1]]))
    assert scores.shape == (2, 4)
    assert scores[0, 0] == scores[0, 2]
    assert len(set(scores[0].tolist())) == 3
