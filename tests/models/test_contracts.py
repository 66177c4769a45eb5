"""What every model that chooses a reply promises, whichever it is: the models are found, not listed, but for the toy
corpus, which those that are shipped solve."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
import yaml
from torch import Tensor

from personae import catalogue, results, run
from personae.data import jsonl
from personae.data.candidates import examples
from personae.data.toy import Selection
from personae.tasks.selection import Selection as SelectionTask
from personae.types import Example, InputError, Persona, Whose

Build = Callable[..., Any]
Case = Callable[..., Example]

MODELS = [model for model in catalogue.models() if model["families"][0] == "selection"]


def _variants() -> list[tuple[str, dict[str, Any]]]:
    """Every model by name, and how it can be made: with every fusion if it has one, and with a shared context."""
    found: list[tuple[str, dict[str, Any]]] = []
    for model in MODELS:
        parameters = _parameters(model["class"])
        ways = (
            [{"fusion": way} for way in get_args(parameters["fusion"].annotation)] if "fusion" in parameters else [{}]
        )
        shared = [{**way, "shared": True} for way in ways] if "shared" in parameters else []
        found += [(model["name"], way) for way in [*ways, *shared]]
    return found


def _parameters(path: str) -> Mapping[str, inspect.Parameter]:
    module, _, constructor = path.rpartition(".")
    return inspect.signature(getattr(import_module(module), constructor)).parameters


VARIANTS = _variants()
CHOICES = [
    (model["name"], argument)
    for model in MODELS
    for argument, parameter in _parameters(model["class"]).items()
    if get_origin(parameter.annotation) is Literal
]
TRAINED = [variant for variant in VARIANTS if catalogue.untrained(variant[0]) is None]


def _name(variant: tuple[str, dict[str, Any]]) -> str:
    return "-".join((variant[0], *("shared" if value is True else value for value in variant[1].values())))


@pytest.fixture(scope="module", params=VARIANTS, ids=_name)
def model(request: pytest.FixtureRequest, build: Build) -> Any:
    name, arguments = request.param
    return build(name, **arguments)


@pytest.fixture(params=TRAINED, ids=_name)
def trained(request: pytest.FixtureRequest, build: Build) -> Callable[..., Any]:
    """Makes a model that is trained; `seed` and further arguments are its own."""
    name, arguments = request.param
    return lambda **more: build(name, **arguments, **more)


def score(model: Any, cases: Sequence[Example]) -> Tensor:
    with torch.inference_mode():
        scores: Tensor = model.score(model.collate(cases))
    return scores


@pytest.mark.parametrize(("name", "argument"), CHOICES)
def test_a_choice_that_there_is_not_is_refused(
    name: str, argument: str, build: Build, cases: Sequence[Example]
) -> None:
    with pytest.raises(InputError, match=rf"{argument}: 'bogus' is none of the choices none, |{argument}: .* rnn, att"):
        build(name, **{argument: "bogus"}).collate(cases)


def with_facts(case: Example, *, place: int, facts: tuple[str, ...]) -> Example:
    speakers = list(case.context.speakers)
    speakers[place] = replace(speakers[place], persona=Persona(facts))
    return replace(case, context=replace(case.context, speakers=(speakers[0], speakers[1])))


def test_the_models() -> None:
    memories = {"starspace", "profile_memory", "kv_profile_memory", "ft_pc"}
    fused = {"hre", "imn", "bert"}
    assert {model["name"] for model in MODELS} == {
        *memories,
        *fused,
        "dim",
        "dgmn",
        "fire",
        "p5",
        "persona_reranker",
        "minilm",
        "tfidf",
    }
    assert {_name(variant) for variant in TRAINED} >= {
        f"{name}-{fusion}" for name in fused for fusion in ("none", "na", "ca", "ra", "cra")
    }


def test_a_batch_of_one_is_the_row_of_a_larger_batch(model: Any, cases: Sequence[Example]) -> None:
    together = score(model, cases)
    assert together.shape == (len(cases), 4)
    for place, case in enumerate(cases):
        torch.testing.assert_close(score(model, [case])[0], together[place], atol=1e-5, rtol=1e-5)


def test_missing_candidates_score_minus_infinity(model: Any, cases: Sequence[Example]) -> None:
    cut = [
        replace(case, target=replace(case.target, candidates=case.target.candidates[:count]))
        for case, count in zip(cases, (2, 4, 1, 3, 4, 2, 3), strict=True)
    ]
    together, full = score(model, cut), score(model, cases)
    for row, case in enumerate(cut):
        count = len(case.target.candidates)
        assert together[row, count:].tolist() == [-torch.inf] * (4 - count)
        torch.testing.assert_close(together[row, :count], full[row, :count], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(score(model, [case])[0], full[row, :count], atol=1e-5, rtol=1e-5)


def test_ten_thousand_candidates_are_scored(model: Any, case: Case) -> None:
    texts = tuple(f"{word} {number} times" for word in ("yes", "no", "cat", "the sea") for number in range(10))
    few, many = (case(said=["hello", "how old ?"], facts=["i sail"], candidates=texts * times) for times in (1, 250))
    task = SelectionTask(model=model)
    with torch.inference_mode():
        (row,) = task.rows_of(task.held_out([many])[0])
    scores = torch.tensor(row.scores).view(250, 40)
    torch.testing.assert_close(scores, score(model, [few]).float().expand(250, 40), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("times", [2, 3, 5, 7])
def test_equal_candidates_have_equal_scores(model: Any, case: Case, times: int) -> None:
    equal = case(said=["hello", "how old ?"], facts=["i sail"], candidates=("the sea is cold today",) * times)
    other = case(said=["hello"], facts=["i sail"], candidates=("yes i do", "no", "yes i do", "oh"))
    task = SelectionTask(model=model)
    with torch.inference_mode():
        rows = [row for batch in task.held_out([equal, other]) for row in task.rows_of(batch)]
    found = {len(row.scores): row.scores for row in rows}
    assert len(set(found[times])) == 1
    assert found[4][0] == found[4][2]


def test_permuted_candidates_have_permuted_scores(model: Any, cases: Sequence[Example]) -> None:
    order = [2, 0, 3, 1]
    permuted = [
        replace(case, target=replace(case.target, candidates=tuple(case.target.candidates[i] for i in order)))
        for case in cases
    ]
    torch.testing.assert_close(score(model, permuted), score(model, cases)[:, order], atol=1e-5, rtol=1e-5)


def test_the_score_does_not_know_the_true_reply(model: Any, cases: Sequence[Example]) -> None:
    unknown = [replace(case, target=replace(case.target, text="")) for case in cases]
    assert torch.equal(score(model, unknown), score(model, cases))


@pytest.mark.parametrize("made_for", ["self", "both"])
@pytest.mark.parametrize("whose", get_args(Whose))
@pytest.mark.parametrize("variant", VARIANTS, ids=_name)
def test_the_persona_that_is_read_changes_the_scores(
    variant: tuple[str, dict[str, Any]], cases: Sequence[Example], whose: Whose, made_for: Whose, build: Build
) -> None:
    model = build(variant[0], persona=made_for, **variant[1])
    read = {"none": (), "self": (1,), "partner": (0,), "both": (0, 1)}[whose]
    if model.persona == "none":  # built without
        read = ()
    elif whose == "both" and getattr(model, "personas", 2) < 2:
        return
    else:
        model.persona = whose
    case = cases[2]
    before = score(model, [case])
    for place in (0, 1):
        facts = (case.target.candidates[0], "i sing near the river")
        changed = not torch.equal(score(model, [with_facts(case, place=place, facts=facts)]), before)
        assert changed == (place in read)


NO_FUSION = {"fusion": "none"}


@pytest.mark.parametrize(
    ("name", "arguments"), [("hre", NO_FUSION), ("imn", NO_FUSION), ("bert", NO_FUSION), ("dim", {})]
)
def test_without_context_no_persona_crowds_out_the_other(
    name: str, arguments: dict[str, str], build: Build, case: Case
) -> None:
    model = build(name, **arguments, context=False, persona="both")
    facts = ["a cat", "the dog sleeps", "i like birds", "no river", "my brothers swim"]
    first, second, third = (
        case(said=["all day"], facts=own, partner=other, candidates=["a cat", "the river"])
        for own, other in ((facts, facts), (facts, ["all day"]), (["all day"], facts))
    )
    assert not torch.allclose(score(model, [first]), score(model, [second]))
    assert not torch.allclose(score(model, [first]), score(model, [third]))


@pytest.mark.parametrize("variant", VARIANTS, ids=_name)
def test_of_both_personas_it_is_known_whose_they_are(
    variant: tuple[str, dict[str, Any]], cases: Sequence[Example], build: Build
) -> None:
    model = build(variant[0], persona="both", **variant[1])
    if getattr(model, "personas", 0) < 2 or model.persona == "none":
        return
    case = cases[2]
    swapped = with_facts(with_facts(case, place=0, facts=case.facts("self")), place=1, facts=case.facts("partner"))
    assert not torch.allclose(score(model, [swapped]), score(model, [case]), atol=1e-6)


def test_a_model_without_fusion_reads_no_persona(build: Build) -> None:
    assert {
        build(*variant[:1], **variant[1]).persona for variant in VARIANTS if variant[1].get("fusion") == "none"
    } == {"none"}


@pytest.mark.parametrize("name", [model["name"] for model in MODELS if "context" in _parameters(model["class"])])
def test_without_context_the_persona_is_matched_with_the_reply(
    name: str, cases: Sequence[Example], build: Build
) -> None:
    alone = {"fusion": "none"} if any(variant[0] == name and variant[1] for variant in VARIANTS) else {}
    model, case = build(name, context=False, persona="self", **alone), cases[2]
    told = replace(case, context=replace(case.context, turns=cases[3].context.turns))
    assert torch.equal(score(model, [told]), score(model, [case]))
    facts = (case.target.candidates[0],)
    assert not torch.equal(score(model, [with_facts(case, place=1, facts=facts)]), score(model, [case]))
    assert torch.equal(score(model, [with_facts(case, place=0, facts=facts)]), score(model, [case]))
    with pytest.raises(InputError, match=r"task\.model"):
        build(name, context=False, persona="none", **alone)


def test_the_context_changes_the_scores(model: Any, case: Case) -> None:
    replies = ["my cat sleeps", "the bird sings"]
    about_cats, about_birds = (case(said=[text], candidates=replies) for text in ("my cat ?", "all bird day"))
    assert not torch.allclose(score(model, [about_cats]), score(model, [about_birds]))


@pytest.mark.parametrize(
    ("said", "facts", "candidates"),
    [
        (["hello there"], [], ["hi", "no"]),
        (["hello there"], [f"i have {number} cats" for number in range(200)], ["hi", "i have 3 cats"]),
        ([], ["i like cats"], ["hi", "no"]),
        ([""], [""], ["", "hi"]),
        ([" \t\n"], ["  "], ["", " "]),
        (["hello there"], ["i like cats"], ["word " * 5000, "hi"]),
        (["hello " * 5000], ["cats " * 5000], ["hi", "no"]),
        (["x" * 5000], ["i like cats"], ["y" * 5000, "hi"]),
        (["utterance"] * 300, ["i like cats"], ["hi", "no"]),
        (["👋🏽 👨‍👩‍👧‍👦"], ["❤️ 🐈"], ["😀" * 50, "🐈"]),
        (["你好，你喜欢猫吗？"], ["我有两只猫。"], ["是的，我很喜欢", "不"]),
        (["مرحبا كيف حالك"], ["ฉันชอบแมว"], ["é è ü ß", "e\u0301\u0323"]),
        (["a\x00b\x07\x1b[31m"], ["\u202e\ufeff\u200b"], ["\x7f\x85\u2028", "\r\n"]),
        (["half a pair: \ud83d"], ["\udc00 like"], ["\udfff", "hi"]),
        (["the same"], ["the same"], ["the same", "the same"]),
    ],
    ids=lambda texts: ascii(texts)[:24] if isinstance(texts, list) else None,
)
def test_whatever_is_said_has_a_finite_score(
    model: Any, case: Case, said: list[str], facts: list[str], candidates: list[str]
) -> None:
    rough = case(said=said, facts=facts, candidates=candidates)
    scores = score(model, [rough])
    assert scores.shape == (1, 2)
    assert scores.isfinite().all()
    if candidates[0] == candidates[1]:
        assert scores[0, 0] == pytest.approx(float(scores[0, 1]), abs=1e-6)


def test_scores_say_what_they_are(model: Any, cases: Sequence[Example]) -> None:
    assert model.scale in (("logit", "similarity") if hasattr(model, "loss") else ("similarity",))
    assert model.scale == "logit" or score(model, cases).abs().max() <= 2 + 1e-6


def test_every_parameter_is_trained(trained: Callable[..., Any], cases: Sequence[Example]) -> None:
    model = trained().double()
    model.loss(model.collate(cases)).backward()
    untouched = {
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or parameter.grad.abs().max() < 1e-12)
    }
    # A softmax does not change by what is added to all of it: to every line by the bias of equation 9 or, where none is
    # rectified, 22, to every token by the bias of a key, to every candidate by the last bias.
    added = ("weigh.bias", "self.key.bias", "classifier.output.bias", "judge.output.bias")
    assert {name for name in untouched if not name.endswith(added)} == set()


def test_the_same_seed_gives_the_same_loss(trained: Callable[..., Any], cases: Sequence[Example]) -> None:
    losses = []
    for seed in (1, 1, 2):
        model = trained(seed=seed).train()
        losses.append(float(model.loss(model.collate(cases)).detach()))
    assert losses[0] == losses[1] != losses[2]


def test_dropout_is_for_training_only(trained: Callable[..., Any], cases: Sequence[Example]) -> None:
    model = trained(dropout=0.5)
    assert torch.equal(score(model, cases), score(model, cases))
    model.train()
    assert not torch.equal(score(model, cases), score(model, cases))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("softmax_in_float", [False, True], ids=["cpu", "like-cuda"])
def test_half_precision_is_close(
    trained: Callable[..., Any],
    cases: Sequence[Example],
    dtype: torch.dtype,
    softmax_in_float: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = trained()
    exact = score(model, cases)
    if softmax_in_float:  # what automatic mixed precision does on a GPU
        softmax = Tensor.softmax
        monkeypatch.setattr(Tensor, "softmax", lambda self, dim: softmax(self.float(), dim))
    with torch.autocast("cpu", dtype):
        batch = model.collate(cases)
        rounded, loss = model.score(batch), model.loss(batch)
    torch.testing.assert_close(rounded.float(), exact, atol=0.02, rtol=0.02)
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("variant", TRAINED, ids=_name)
def test_a_saved_model_gives_the_same_scores(
    variant: tuple[str, dict[str, Any]], cases: Sequence[Example], backbone: str, tmp_path: Path
) -> None:
    words = {"class_path": "personae.nn.words.Words", "init_args": {"glove_size": 0, "task": 8, "filters": 4}}
    path = next(model["class"] for model in MODELS if model["name"] == variant[0])
    taken = _parameters(path)
    pretrained = {"backbone": backbone, "sentence_encoder": backbone}
    sizes = {"hidden": 8, "features": 8, "words": words, **pretrained}
    small = {key: value for key, value in sizes.items() if key in taken}
    made = {"class_path": path, "init_args": {**small, **variant[1]}}
    recipe = {"task": {"class_path": "personae.tasks.selection.Selection", "init_args": {"model": made}}, "seed": 0}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    task = run.build(str(tmp_path / "recipe.yaml")).eval()
    task.prepare([case.context for case in cases])
    run.save(task, tmp_path)
    loaded = run.load(str(tmp_path))
    assert not loaded.training
    assert torch.equal(score(loaded.model, cases), score(task.model, cases))


@pytest.mark.parametrize("name", [variant[0] for variant in VARIANTS if variant not in TRAINED])
def test_a_model_that_needs_no_training_is_loaded_by_name(name: str, build: Build, cases: Sequence[Example]) -> None:
    expected = build(name)
    loaded = run.load(name)
    loaded.model.prepare([])
    expected.prepare([])
    torch.testing.assert_close(score(loaded.model, cases), score(expected, cases))


@pytest.mark.parametrize("name", ["imn", "hre"])
def test_a_few_dialogues_are_learnt_by_heart(name: str, tmp_path: Path) -> None:
    """That replies which were not trained on are found as well takes more dialogues, and minutes: the next test."""
    path = next(model["class"] for model in MODELS if model["name"] == name)
    words = {"class_path": "personae.nn.words.Words", "init_args": {"task": 0, "filters": 8, "dropout": 0}}
    arguments = {"hidden": 32, "features": 64, "dropout": 0, "words": words}
    file = str(tmp_path / "toy.jsonl")
    jsonl.write(Selection(dialogues=60).split("train"), Path(file))
    jsonl.write(Selection(dialogues=60).split("valid"), tmp_path / "valid.jsonl")
    files = {"train": [file], "dev": file, "valid": str(tmp_path / "valid.jsonl")}
    changes = {
        "task.model": {"class_path": path, "init_args": arguments},
        "task.optimization": {"learning_rate": 0.004, "muon": 0.03, "cooldown": 1.0},
        "corpus": {"class_path": "personae.data.files.Files", "init_args": files},
        "trainer.max_epochs": 20,
        "trainer.val_check_interval": 1.0,
        "trainer.check_val_every_n_epoch": 20,
    }
    settings = {key: yaml.safe_dump(value) for key, value in changes.items()}
    run.train("selection/imn-toy-ra", settings, out=tmp_path / "run")
    assert run.evaluate(str(tmp_path / "run"), file)["metrics"]["hits@1/20"]["low"] > 0.4  # chance is 0.05


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["imn", "hre"])
def test_the_toy_corpus_is_solved(name: str, tmp_path: Path) -> None:
    recipe = yaml.safe_load((Path(run.__file__).parent / "recipes" / "selection" / "imn-toy-ra.yaml").read_text())
    path = next(model["class"] for model in MODELS if model["name"] == name)
    recipe["task"]["init_args"]["model"]["class_path"] = path
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    result = run.train(str(tmp_path / "recipe.yaml"), {}, out=tmp_path / "run")
    assert result["metrics"]["hits@1/20"]["value"] >= 0.6


def test_word_overlap_does_not_solve_the_toy_corpus() -> None:
    valid = examples(Selection().split("valid"))
    task = SelectionTask(model=run.load("tfidf").model)
    task.model.prepare(text for case in valid for text in case.target.candidates)
    hits = task.metrics(results.predict(task, valid))["hits@1/20"]
    assert 0.02 <= sum(hits) / len(hits) <= 0.09  # chance is 0.05
