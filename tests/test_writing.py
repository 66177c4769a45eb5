"""A loaded generator replies as users of its training, and as new ones."""

import json
import os
import time
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml
from tiny_backbone import write

from personae import run
from personae.agent import Agent
from personae.data.planted import Planted
from personae.models.generation.causal_lm import CausalLM
from personae.nn.decoding import Decoding
from personae.nn.newcomers import LATEST, OF_A_TRANSFORMER
from personae.nn.personalization import Factorization
from personae.tasks.generation import Generation
from personae.types import InputError
from personae.writing import Message, Writer

SIZES = {"width": 8, "hidden": 8, "min_count": 1}
TENSOR = {"ranks": [4, 4, 4], "spread": 0.5, "question": "encoder"}
SPEAKERS = {"start": "random", "width": 4}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "seq2seq": ("seq2seq.Seq2Seq", {}),
    "seq2seq-tf": ("seq2seq.Seq2Seq", {"tensor": TENSOR}),
    "seq2seq-tf-table": ("seq2seq.Seq2Seq", {"tensor": {**TENSOR, "question": "table"}}),
    "speaker": ("speaker.Speaker", {"speakers": SPEAKERS}),
    "speaker-tf": ("speaker.Speaker", {"speakers": SPEAKERS, "tensor": TENSOR}),
    "memory": ("memory.Memory", {"memories": 3}),
    "memory-speaker-tf": ("memory.Memory", {"memories": 3, "speakers": SPEAKERS, "tensor": TENSOR}),
}
PERSONAL = [name for name in MODELS if name != "seq2seq"]
ASKED = ["what food do you like best"]
SAID = [Message("gosh i go for tacos every time it is truly cool amen", ("which meals would you never give up",))]
GREEDY = Decoding(kind="greedy", longest=8)


def trained(name: str, out: Path, **changes: str) -> Path:
    path, arguments = MODELS[name]
    model = {"class_path": f"personae.models.generation.{path}", "init_args": {"sizes": SIZES, **arguments}}
    quiet = ("logger", "enable_checkpointing", "enable_model_summary", "enable_progress_bar")
    recipe = {
        "task": {
            "class_path": "personae.tasks.generation.Generation",
            "init_args": {"model": model, "select": "log-likelihood", "optimization": {"learning_rate": 0.01}},
        },
        "corpus": {
            "class_path": "personae.data.planted.Planted",
            "init_args": {"users": 8, "topics": 3, "answers": 3, "held_out": 1},
        },
        "trainer": {
            "class_path": "lightning.Trainer",
            "init_args": {
                "max_epochs": 2,
                "accelerator": "cpu",
                "num_sanity_val_steps": 0,
                **dict.fromkeys(quiet, False),
            },
        },
    }
    file = out.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    run.train(str(file), changes, out=out)
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {name: trained(name, folder / name) for name in MODELS}


@pytest.fixture
def copied(runs: dict[str, Path], tmp_path: Path) -> Path:
    """A run in which users can be kept."""
    import shutil

    return shutil.copytree(runs["memory-speaker-tf"], tmp_path / "run")


def likely(writer: Writer, user: str | None, text: str = "gosh truly amen") -> float:
    """The log-likelihood of a text as a user."""
    from dataclasses import replace

    from personae.types import Turn

    example = replace(writer._example(ASKED, user, (), ()), target=Turn(1, text))
    with torch.no_grad():
        return float(writer.model.log_likelihood(writer._collated([example]))[0])


@pytest.mark.parametrize("name", MODELS)
def test_a_reply_and_what_the_model_thinks_of_it(runs: dict[str, Path], name: str) -> None:
    writer = Writer.load(runs[name])
    user = None if name == "seq2seq" else "user-3"
    one, other = writer.reply(ASKED, user=user, decoding=Decoding(n=2, longest=8))
    assert one.log_probability == pytest.approx(likely(writer, user, one.text), abs=1e-4)
    assert one.text != other.text
    assert writer.reply(ASKED, user=user) == Writer.load(runs[name]).reply(ASKED, user=user)
    assert len(writer.reply([], user=user)) == 1


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("decoding", [GREEDY, Decoding(longest=12), Decoding(top_k=None, seed=3)])
def test_a_stream_is_the_reply(runs: dict[str, Path], name: str, decoding: Decoding) -> None:
    writer = Writer.load(runs[name])
    pieces = list(writer.stream(ASKED, decoding=decoding))
    (reply,) = writer.reply(ASKED, decoding=decoding)
    assert "".join(pieces) == reply.text
    assert len(pieces) == len(reply.text.split())
    assert not torch.is_inference_mode_enabled()
    with pytest.raises(InputError, match=r"decoding\.n: 2 is not for a stream, which is one reply, sampled or greedy"):
        list(writer.stream(ASKED, decoding=Decoding(n=2)))


@pytest.mark.parametrize("name", PERSONAL)
def test_users_differ_and_the_average_one_is_none_of_them(runs: dict[str, Path], name: str) -> None:
    writer = Writer.load(runs[name])
    assert writer.knows_users
    assert set(writer.users) == {f"user-{place}" for place in range(8)}
    found = {user: likely(writer, user) for user in (None, "user-1", "user-2")}
    assert len(set(found.values())) == 3


@pytest.mark.parametrize("name", PERSONAL)
def test_a_new_user_becomes_likelier_and_the_others_stay_as_they_are(runs: dict[str, Path], name: str) -> None:
    writer = Writer.load(runs[name])
    for table in writer._tables.values():
        table.weight.data *= 30  # so little was learnt that users hardly differ
    before = {user: likely(writer, user) for user in (None, "user-1")}
    state = {key: value.clone() for key, value in writer.model.state_dict().items() if isinstance(value, torch.Tensor)}
    welcomed = writer.welcome("eve", SAID * 3)
    assert welcomed.messages == 3
    if name == "memory":
        assert welcomed.before is welcomed.after is None
    else:
        assert welcomed.before is not None
        assert welcomed.after is not None
        assert welcomed.after > welcomed.before
    assert likely(writer, "eve") != before[None]
    assert {user: likely(writer, user) for user in before} == before
    for key, value in writer.model.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value[: len(state[key])] if value.dim() else value, state[key])


@pytest.mark.parametrize("name", PERSONAL)
def test_a_new_user_without_messages_is_the_average_one(runs: dict[str, Path], name: str) -> None:
    writer = Writer.load(runs[name])
    assert writer.welcome("eve", []).messages == 0
    assert likely(writer, "eve") == pytest.approx(likely(writer, None), abs=1e-5)
    assert [one.text for one in writer.reply(ASKED, user="eve")] == [one.text for one in writer.reply(ASKED)]


@pytest.mark.parametrize("name", PERSONAL)
def test_users_with_the_same_history_are_the_same(runs: dict[str, Path], name: str) -> None:
    writer = Writer.load(runs[name])
    writer.welcome("ann", SAID, steps=5)
    writer.welcome("bob", SAID, steps=5)
    assert likely(writer, "ann") == pytest.approx(likely(writer, "bob"), abs=1e-5)


@pytest.mark.parametrize("messages", [SAID, [Message("zzz qqq xxx")], [Message("?")], [Message("a " * 3000)]])
def test_whatever_they_said_their_replies_are_finite(runs: dict[str, Path], messages: list[Message]) -> None:
    writer = Writer.load(runs["memory-speaker-tf"])
    writer.welcome("eve", messages, steps=5)
    (reply,) = writer.reply(ASKED, user="eve")
    assert torch.tensor(reply.log_probability).isfinite()


def test_empty_messages_are_left_out(runs: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    writer = Writer.load(runs["seq2seq-tf"])
    assert writer.welcome("eve", [*SAID, Message(""), Message(" ")], steps=1).messages == 1
    assert "2 empty messages left out" in caplog.text


def test_of_very_many_messages_the_latest_are_read(runs: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    writer = Writer.load(runs["memory-speaker-tf"])
    start = time.process_time()
    messages = [*[Message(f"message {place}") for place in range(100_000 - LATEST)], *SAID * LATEST]
    assert writer.welcome("eve", messages).messages == LATEST
    assert time.process_time() - start < 60
    assert f"of 100000 messages the latest {LATEST} are read" in caplog.text
    other = Writer.load(runs["memory-speaker-tf"])
    other.welcome("eve", SAID * LATEST)
    assert likely(other, "eve") == pytest.approx(likely(writer, "eve"), abs=1e-6)


def test_who_is_kept_is_known_when_the_run_is_loaded(copied: Path) -> None:
    before = {file.name: file.read_bytes() for file in copied.iterdir() if file.is_file()}
    writer = Writer.load(copied)
    average = likely(writer, None)
    writer.welcome("eve", SAID, steps=10)
    path = writer.keep("eve")
    assert path == copied / "users" / "eve.safetensors"
    again = Writer.load(copied)
    assert "eve" in again.users
    assert likely(again, "eve") == likely(writer, "eve") != average
    assert likely(again, None) == average
    assert again.reply(ASKED, user="eve") == writer.reply(ASKED, user="eve")
    assert {file.name: file.read_bytes() for file in copied.iterdir() if file.is_file()} == before
    assert os.listdir(path.parent) == ["eve.safetensors"]  # noqa: PTH208 - nothing half written beside


def test_a_name_that_is_taken(copied: Path) -> None:
    writer = Writer.load(copied)
    with pytest.raises(InputError, match="'user-3' is known already; from training; take another name"):
        writer.welcome("user-3", SAID)
    writer.welcome("eve", SAID, steps=1)
    writer.welcome("eve", SAID, steps=1)  # not kept yet
    writer.keep("eve")
    for one in (writer, Writer.load(copied)):
        with pytest.raises(
            InputError, match=r"'eve' is known already; take another name, or delete .*eve\.safetensors"
        ):
            one.welcome("eve", SAID)


@pytest.mark.parametrize("name", ["", " ", "..", "../eve", "a/b", ".eve", "a\\b", "e" * 101, "a\nb", "-x"])
def test_a_name_that_is_none_of_a_file(copied: Path, name: str) -> None:
    with pytest.raises(InputError, match="is no name of a file"):
        Writer.load(copied).keep(name)
    assert not (copied / "users").exists()


@pytest.mark.parametrize("damage", ["cut", "other", "shape", "text"])
def test_a_user_whose_file_is_damaged(copied: Path, runs: dict[str, Path], damage: str, tmp_path: Path) -> None:
    writer = Writer.load(copied)
    writer.welcome("eve", SAID, steps=1)
    path = writer.keep("eve")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    elif damage == "text":
        path.write_bytes(b"eve")
    elif damage == "shape":
        from safetensors.torch import save_file

        save_file({"eve": torch.ones(2)}, path, metadata={"of": writer._digest(), "history": "[]"})
    else:
        trained("memory-speaker-tf", tmp_path / "other")
        state = run.load(str(tmp_path / "other"))
        for table in Writer(state)._tables.values():
            table.weight.data += 1
        run.save(state, copied)
    with pytest.raises(InputError, match=r"eve\.safetensors: is damaged .*; delete it, and adapt to the user again"):
        Writer.load(copied).reply(ASKED, user="eve")


def test_an_unknown_user_is_named_and_what_to_do(runs: dict[str, Path]) -> None:
    for name in PERSONAL:
        with pytest.raises(InputError, match=r"--user usr-3: .* no such user; did you mean user-3\?.*adapt.*--history"):
            Writer.load(runs[name]).reply(ASKED, user="usr-3")
    with pytest.raises(InputError, match="knows nothing of users; leave it out"):
        Writer.load(runs["seq2seq"]).reply(ASKED, user="user-3")
    with pytest.raises(InputError, match="knows nothing of users; take a model with a tensor"):
        Writer.load(runs["seq2seq"]).welcome("eve", SAID)


def test_mistakes(runs: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    writer = Writer.load(runs["seq2seq-tf"])
    with pytest.raises(InputError, match="--steps: 0 is not at least 1"):
        writer.welcome("eve", SAID, steps=0)
    with pytest.raises(InputError, match="a user has a name"):
        writer.welcome(" ", SAID)
    with pytest.raises(InputError, match=r'messages: a list of Message is wanted, such as \[Message\("i sail \."\)\]'):
        writer.welcome("eve", ["a text"])  # type: ignore[list-item]
    with pytest.raises(InputError, match="context: number 0, counted from 0, is empty"):
        writer.reply([""])
    writer.reply(ASKED, persona=["i sail"], partner=["i run"])
    assert "reads no persona of the one who replies (persona: none)" in caplog.text
    assert "reads no persona of the other one (persona: none)" in caplog.text
    with pytest.raises(InputError, match="is no run folder, in which users could be kept"):
        Writer(writer.task).keep("eve")
    with pytest.raises(InputError, match="user 'zoe': was not welcomed; let `welcome` make them known first"):
        writer.keep("zoe")


def test_what_is_said_is_read_as_the_training_was(copied: Path) -> None:
    asked, told = "see HTTP://a.org/b at 10:30 !!!", Message("mail me@a.org , 42 times", ("where ? ?",))
    for standard in (False, True):
        recipe = yaml.safe_load((copied / "recipe.yaml").read_text())
        users = {"files": ["mine.jsonl"], "standard": standard}
        recipe["corpus"] = {"class_path": "personae.data.users.Users", "init_args": users}
        (copied / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        writer = Writer.load(copied)
        dialogue = writer._example([asked], None, (), ()).context
        assert dialogue.turns[-1].text == ("see url at digit !" if standard else asked)
        read: list[Any] = []
        collate = writer.model.collate
        writer.model.collate = lambda examples, read=read, collate=collate: (read.extend(examples), collate(examples))[
            1
        ]
        writer.welcome("eve", [told], steps=1)
        assert read[0].target.text == ("mail email , digit times" if standard else told.text)
        assert read[0].user.history == (read[0].target.text,)
        assert read[0].context.turns[-1].text == ("where ?" if standard else "where ? ?")


def test_who_ranks_does_not_write_and_who_writes_does_not_rank(runs: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="tfidf: ranks replies, and writes none; see `personae rank`"):
        Writer.load("tfidf")
    with pytest.raises(InputError, match="writes replies, and ranks none; see `personae generate`"):
        Agent.load(str(runs["seq2seq"]))


def test_a_model_that_shows_nothing_before_the_end(runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer.load(runs["seq2seq"])
    monkeypatch.delattr(type(writer.model), "stream")
    with pytest.raises(InputError, match=r"--stream: .* shows its reply at the end alone; leave it out"):
        writer.stream(ASKED)


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_a_causal_language_model_with_a_tensor_gets_to_know_users(
    tmp_path: Path, tune: Literal["full", "lora"]
) -> None:
    torch.manual_seed(0)
    tensor = Factorization(ranks=(3, 4, 5), question="encoder", spread=3.0)
    task = Generation(model=CausalLM(backbone=write(tmp_path, "llama"), tensor=tensor, tune=tune), select="f1")
    task.prepare(list(Planted(users=8, topics=3, answers=3, held_out=1).split("train")))
    writer = Writer(task)
    weights = {name: weight.detach().clone() for name, weight in writer.model.named_parameters()}
    before = {user: likely(writer, user) for user in (None, "user-1")}
    welcomed = writer.welcome("eve", SAID)
    assert welcomed.before is not None
    assert welcomed.after is not None
    assert welcomed.after > welcomed.before
    assert {user: likely(writer, user) for user in before} == pytest.approx(before, abs=1e-4)
    assert likely(writer, "eve") != pytest.approx(before[None], abs=1e-3)
    for name, weight in writer.model.named_parameters():
        assert torch.equal(weight[: len(weights[name])], weights[name])
    (reply,) = writer.reply(ASKED, user="eve", decoding=GREEDY)
    assert torch.tensor(reply.log_probability).isfinite()
    many = writer.welcome("dan", SAID * (OF_A_TRANSFORMER + 1), steps=1)
    assert many.messages == OF_A_TRANSFORMER < LATEST


def test_the_corpus_is_the_one_of_the_runs(runs: dict[str, Path]) -> None:
    """The tests above ask a question that these users are asked."""
    corpus = Planted(users=8, topics=3, answers=3, held_out=1)
    assert ASKED[0] in {dialogue.question for dialogue in corpus.split("train")}
    assert json.loads((runs["seq2seq"] / "metrics.json").read_text(encoding="utf-8"))["n"] == 8


def test_what_is_asked_is_found_among_the_questions_of_training(runs: dict[str, Path]) -> None:
    writer = Writer.load(runs["seq2seq-tf-table"])
    questions = {}
    for dialogue in Planted(users=8, topics=3, answers=3, held_out=1).split("train"):
        assert dialogue.question is not None
        questions[dialogue.turns[-2].text] = writer.model.writer.personal.questions.names[dialogue.question]
    assert len(set(questions.values())) > 2
    for text, number in questions.items():
        for asked in (text, f"{text.upper()} ?!"):
            assert writer._collated([writer._example([asked], None, (), ())]).questions.tolist() == [number]
    assert writer._collated([writer._example(["who is there"], None, (), ())]).questions.tolist() == [-1]


def test_a_file_is_read_as_the_training_was(copied: Path, tmp_path: Path) -> None:
    recipe = yaml.safe_load((copied / "recipe.yaml").read_text())
    said = (
        ["see HTTP://a.org/b at 10:30 !!!", "gosh , i go there at 9 9"],
        ["see url at digit !", "gosh , i go there at digit"],
    )
    files = []
    for number, texts in enumerate(said):
        turns = [{"speaker": place, "text": text} for place, text in enumerate(texts)]
        row = {"id": "d", "speakers": ["x", "user-1"], "personas": [[], []], "turns": turns}
        files.append(tmp_path / f"file-{number}.jsonl")
        files[-1].write_text(json.dumps(row) + "\n", encoding="utf-8")
    for standard in (False, True):
        users = {"files": ["mine.jsonl"], "standard": standard}
        recipe["corpus"] = {"class_path": "personae.data.users.Users", "init_args": users}
        (copied / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        found = [run.evaluate(str(copied), str(file))["metrics"]["perplexity/word"]["value"] for file in files]
        assert (found[0] == pytest.approx(found[1], rel=1e-6)) == standard


def test_a_training_goes_on_from_the_words_users_and_questions_of_another(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    first = runs["seq2seq-tf-table"]
    slow = {"init_from": str(first), "task.optimization.learning_rate": "1e-9"}
    again = trained("seq2seq-tf-table", tmp_path / "again", **slow)
    before, after = (dict(run.load(str(folder)).model.named_parameters()) for folder in (first, again))
    assert before.keys() == after.keys()
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, atol=1e-5, rtol=0)
