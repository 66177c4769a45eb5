"""`personae generate`, `personae adapt` and `personae cold`."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from personae import cold, run
from personae.cli import main
from personae.types import InputError

MODEL = {"sizes": {"width": 8, "hidden": 8, "min_count": 1}, "tensor": {"ranks": [4, 4, 4], "question": "encoder"}}
CORPUS = {"users": 8, "topics": 3, "answers": 3, "held_out": 1}


def recipe(path: Path, model: dict[str, Any], corpus: dict[str, Any], epochs: int, **task: Any) -> Path:
    off = ("logger", "enable_checkpointing", "enable_model_summary", "enable_progress_bar")
    trainer = {"max_epochs": epochs, "accelerator": "cpu", "num_sanity_val_steps": 0, "gradient_clip_val": 5.0}
    written = {
        "task": {"class_path": "personae.tasks.generation.Generation", "init_args": {"model": model, **task}},
        "corpus": {"class_path": "personae.data.planted.Planted", "init_args": corpus},
        "trainer": {"class_path": "lightning.Trainer", "init_args": {**trainer, **dict.fromkeys(off, False)}},
    }
    path.write_text(yaml.safe_dump(written), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    seq2seq = {"class_path": "personae.models.generation.seq2seq.Seq2Seq", "init_args": MODEL}
    run.train(str(recipe(folder / "run.yaml", seq2seq, CORPUS, 1)), {}, out=folder / "run")
    return folder / "run"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    texts = {
        "context.txt": "hello there\nwhat food do you like best\n",
        "empty.txt": "",
        "eve.txt": "gosh i go for tacos\n\ntruly cool amen\n",
        "two.jsonl": '{"user": "ann", "text": "yep", "context": ["what food do you like best"]}\n'
        '{"user": "bob", "text": "gosh"}\n{"user": "ann", "history": ["", "amen"]}\n',
        "blank.jsonl": '{"user": "ann", "text": ""}\n',
        "odd.jsonl": '{"user": "ann", "history": ["yep"], "context": ["hi"]}\n',
        "listed.txt": '\n["i sail", "i cook"]\n',
        "quoted.txt": '"eve","i sail"\n',
        "prose.jsonl": "i sail\n",
        "nothing.json": "\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return {Path(name).stem: str(tmp_path / name) for name in texts}


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main([*map(str, arguments)]) == 2
    return capsys.readouterr().err


def test_generate(capsys: pytest.CaptureFixture[str], model: Path, files: dict[str, str]) -> None:
    about = ("generate", model, "--context", files["context"], "--longest", 6)
    found = told(capsys, *about, "--user", "user-3", "-n", 2)
    assert found.keys() == {"model", "user", "replies", "decoding"}
    assert (found["model"], found["user"]) == (str(model), "user-3")
    assert [reply.keys() for reply in found["replies"]] == [{"text", "log_probability"}] * 2
    assert found["decoding"]["n"] == 2
    assert told(capsys, *about)["user"] is None
    assert told(capsys, "generate", model, "--context", files["empty"])["replies"]
    assert main([*map(str, about), "--user", "user-3"]) == 0
    line = capsys.readouterr().out
    assert main([*map(str, about), "--user", "user-3", "--stream"]) == 0
    assert capsys.readouterr().out == line
    assert line.strip()


def test_decoding_is_the_recipes_where_nothing_is_given(
    capsys: pytest.CaptureFixture[str], model: Path, files: dict[str, str]
) -> None:
    def decoding(*arguments: object) -> dict[str, Any]:
        found: dict[str, Any] = told(capsys, "generate", model, "--context", files["context"], *arguments)["decoding"]
        return {name: found[name] for name in ("kind", "top_k", "top_p", "beams", "n", "seed")}

    recipes = {"kind": "sample", "top_k": 2, "top_p": None, "beams": 4, "n": 1, "seed": 0}
    assert decoding() == recipes
    assert decoding("--top_p", 0.9) == {**recipes, "top_k": None, "top_p": 0.9}
    assert decoding("--top_p", 0.9, "--top_k", 5) == {**recipes, "top_k": 5, "top_p": 0.9}
    assert decoding("--top_k", 0, "--seed", 3) == {**recipes, "top_k": None, "seed": 3}
    assert decoding("--kind", "beam", "--beams", 3, "-n", 2) == {**recipes, "kind": "beam", "beams": 3, "n": 2}
    assert decoding("--kind", "greedy") == {**recipes, "kind": "greedy"}


def test_someone_who_is_known_by_a_file_alone(
    capsys: pytest.CaptureFixture[str], model: Path, files: dict[str, str]
) -> None:
    found = told(capsys, "generate", model, "--context", files["context"], "--history", files["eve"])
    assert found["user"] == files["eve"]
    of_two = ("generate", model, "--context", files["context"], "--history", files["two"])
    assert told(capsys, *of_two, "--user", "ann")["user"] == "ann"
    assert "holds none of their messages; did you mean ann?" in refused(capsys, *of_two, "--user", "anne")
    assert not (model / "users").exists()


def test_adapt_and_generate(
    capsys: pytest.CaptureFixture[str], model: Path, files: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "copy"
    weights = (model / "model.safetensors").read_bytes()
    found = told(capsys, "adapt", model, "--history", files["eve"], "--out", out)
    path = str(out / "users" / "eve.safetensors")
    del found["before"], found["after"]
    assert found == {"model": str(out), "user": "eve", "messages": 2, "file": path}
    assert not (model / "users").exists()
    assert (out / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes() == weights
    about = ("--context", files["context"], "--user", "eve")
    assert told(capsys, "generate", out, *about)["user"] == "eve"
    assert "no such user" in refused(capsys, "generate", model, *about)
    assert "'eve' is known already" in refused(capsys, "adapt", out, "--history", files["eve"])
    assert told(capsys, "adapt", out, "--history", files["two"], "--user", "ann")["messages"] == 2
    assert main(["adapt", str(out), "--history", files["two"], "--user", "bob", "--steps", "1"]) == 0
    shown = capsys.readouterr().out
    assert "bob is known by 1 message, and kept" in shown
    assert "of the messages that were fitted" in shown
    assert "none of them has a context" in shown
    assert main(["adapt", str(out), "--history", files["two"], "--user", "ann", "--out", f"{out}-2"]) == 2
    (out / "users" / "ann.safetensors").unlink()
    capsys.readouterr()
    assert main(["adapt", str(out), "--history", files["two"], "--user", "ann", "--steps", "1"]) == 0
    assert "has a context" not in capsys.readouterr().out
    assert (out / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("adapt RUN --history empty", "holds no message; give one in each line"),
        ("adapt RUN --history blank", "holds no message; give what they said, or generate for the average user"),
        ("adapt RUN --history two", "holds messages of 2 users; choose by --user, such as ann"),
        ("adapt RUN --history two --user anne", "holds none of their messages; did you mean ann?"),
        ("adapt RUN --history nothing", "holds no message; give one in each line"),
        ("adapt RUN --history listed", 'listed.txt:2: is no JSON object; write {"user": "eve", "text": "..."}'),
        ("adapt RUN --history quoted", "quoted.txt:1: is no JSON object"),
        ("generate RUN --context context --history prose", "prose.jsonl:1: is no JSON object"),
        ("adapt RUN --history odd", "odd.jsonl:1: field context: is of one message"),
        ("adapt RUN --history eve --user user-3", "'user-3' is known already"),
        ("adapt RUN --history eve --user ../eve", "--user '../eve': is no name of a file"),
        ("adapt RUN --history eve --steps 0", "--steps: 0 is not at least 1"),
        ("adapt RUN --history eve --out RUN", "is not an empty folder"),
        (
            "generate RUN --context context --user usr-3",
            "did you mean user-3? It knows 8, such as user-0 and user-1.",
        ),
        ("generate RUN --context context --user eve", "no such user; name another. It knows 8, such as user-0 and"),
        ("generate RUN --context context --user user-3 --history eve", "is of one user, whom it does not name"),
        ("generate RUN --context context --stream --json", "--stream, --json: give one of them"),
        (
            "generate RUN --context context --stream -n 2",
            "personae: -n: 2 is not for a stream, which is one reply",
        ),
        ("generate RUN --context context --stream --kind beam", "personae: --kind: beam is not for a stream"),
        ("generate RUN --context context --beams 2", "--beams: is of --kind beam"),
        ("generate RUN --context context --top_p 2", "personae: --top_p: 2.0 is not above 0"),
        ("generate RUN --context context --kind greedy -n 2", "personae: -n: greedy decoding gives one"),
        ("generate RUN --context context --kind greedy --top_k 2", "--top_k: is of --kind sample"),
        ("generate RUN --context context --kind greedy -n 2", "greedy decoding gives one reply"),
        ("generate tfidf --context context", "ranks replies, and writes none"),
        ("generate nosuch --context context", "no run folder; give that of a model that writes replies: personae fit"),
        ("generate selection/imn-toy-ra --context context", "personae fit --config generation/... --out RUN"),
        (
            "generate generation/seq2seq-planted-tf --context context",
            "personae fit --config generation/seq2seq-pl",
        ),
        (
            "adapt memory --history eve",
            "no run folder; give that of a model that writes replies: personae fit --config",
        ),
        ("cold nosuch --out OUT", "no run folder; give that of a model that writes replies"),
        ("calibrate RUN", "writes replies, and has no scores to make probabilities of; give a run that was trained to"),
        ("rank RUN --context context --persona eve --candidates eve", "writes replies, and ranks none"),
        ("cold RUN --out OUT --users 4", "--users: 4 are too few"),
        ("cold RUN --out OUT --messages 1,x", "--messages 1,x: numbers with commas"),
        ("cold RUN --out OUT --messages 0,4", "--messages: 0 of 20 users have 4"),
        ("cold RUN --out context", "is a file; name a folder"),
    ],
)
def test_mistakes(
    capsys: pytest.CaptureFixture[str], model: Path, files: dict[str, str], tmp_path: Path, arguments: str, message: str
) -> None:
    known = {**files, "RUN": str(model), "OUT": str(tmp_path / "out")}
    command, *rest = arguments.split()
    places = [
        known.get(part, part) if place == 0 or rest[place - 1] != "--user" else part for place, part in enumerate(rest)
    ]
    assert message in " ".join(refused(capsys, command, *places).split())
    assert not (model / "users").exists()
    assert not (tmp_path / "out").exists()


def test_a_run_that_knows_no_users(capsys: pytest.CaptureFixture[str], files: dict[str, str], tmp_path: Path) -> None:
    bare = {"class_path": "personae.models.generation.seq2seq.Seq2Seq", "init_args": {"sizes": MODEL["sizes"]}}
    run.train(str(recipe(tmp_path / "bare.yaml", bare, CORPUS, 1)), {}, out=tmp_path / "bare")
    assert "knows nothing of users" in refused(capsys, "adapt", tmp_path / "bare", "--history", files["eve"])
    assert "knows nothing of users" in refused(capsys, "cold", tmp_path / "bare", "--out", tmp_path / "out")
    assert told(capsys, "generate", tmp_path / "bare", "--context", files["context"])["replies"]


def test_cold(capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    found = told(capsys, "cold", model, "--out", tmp_path / "out", "--users", 6, "--messages", "3,0")
    assert (found["users"], found["n"]) == (6, 12)
    assert [step["messages"] for step in found["curve"]] == [0, 3]
    assert all(
        {"per-hits@1/6", "per-hits-avg/6", "perplexity/word"} <= step["metrics"].keys() for step in found["curve"]
    )
    assert found["chance"]["per-hits@1/6"] == pytest.approx(1 / 6)
    assert found["real"]["per-hits@1/6"]["value"] > 0.5
    assert json.loads((tmp_path / "out" / "cold.json").read_text(encoding="utf-8")) == found
    assert "messages of a new user" in (tmp_path / "out" / "cold.svg").read_text(encoding="utf-8")
    again = cold.curve(model, users=6, numbers=[0, 3], seed=0)
    metrics = [[step["metrics"] for step in each["curve"]] for each in (found, again)]
    assert json.loads(json.dumps(metrics[1])) == metrics[0]
    assert main(["cold", str(model), "--out", str(tmp_path / "out"), "--users", "6"]) == 2
    assert "holds a curve already, which would be lost; name another" in capsys.readouterr().err
    assert main(["cold", str(model), "--out", str(tmp_path / "more"), "--users", "6", "--messages", "0"]) == 0
    assert "12 replies as 6 new users" in " ".join(capsys.readouterr().out.split())


def test_cold_needs_a_corpus_of_users(model: Path, tmp_path: Path) -> None:
    import shutil

    moved = shutil.copytree(model, tmp_path / "run")
    text = (moved / "recipe.yaml").read_text(encoding="utf-8")
    told = yaml.safe_load(text)
    told["corpus"] = {"class_path": "personae.data.toy.Selection"}
    (moved / "recipe.yaml").write_text(yaml.safe_dump(told, sort_keys=False), encoding="utf-8")
    with pytest.raises(InputError, match=r"corpus\.cold"):
        cold.curve(moved, users=6, numbers=[0], seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("known_by", ["tensor", "speakers", "memories"])
def test_the_cold_user_curve_rises(tmp_path: Path, known_by: str) -> None:
    classes = {"tensor": "seq2seq.Seq2Seq", "speakers": "speaker.Speaker", "memories": "memory.Memory"}
    ways: dict[str, Any] = {
        "tensor": {"tensor": {"question": "encoder", "spread": 0.3}},
        "speakers": {"speakers": {"start": "random", "width": 30}},
        "memories": {},
    }
    sizes = {"width": 64, "hidden": 128, "min_count": 1}
    model = {
        "class_path": f"personae.models.generation.{classes[known_by]}",
        "init_args": {"sizes": sizes, **ways[known_by]},
    }
    rates = {"learning_rate": 0.003, "cooldown": 0.5, "decay": 1.0}
    path = recipe(tmp_path / "run.yaml", model, {}, 30, batch_size=32, optimization=rates)
    run.train(str(path), {}, out=tmp_path / "run")
    found = cold.curve(tmp_path / "run", users=20, numbers=[0, 1, 5, 20], seed=0)
    first, one, five, twenty = (step["metrics"]["per-hits@1/20"] for step in found["curve"])
    assert first["high"] < 0.25  # chance is 0.05
    assert one["low"] > first["high"]
    assert min(five["value"], twenty["value"]) > one["value"] - 0.05
    assert twenty["value"] > 4 * first["value"]
    assert twenty["value"] > 0.5
