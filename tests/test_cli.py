"""What the command line promises: output, exit codes, one message for a mistake."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from personae import recipes
from personae.cli import main
from personae.data.toy import Selection as Toy
from personae.types import Dialogue

TINY = {
    "--task.model.hidden": "4",
    "--task.model.features": "4",
    "--corpus.dialogues": "40",
    "--trainer.max_epochs": "1",
    "--trainer.val_check_interval": "1.0",
}
RECIPE = "selection/imn-toy-ra"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    contents = {
        "persona": "I have two dogs.\nI work nights as a nurse.\n",
        "context": "hello there\nhi, how are you?\ndo you have any pets?\n",
        "candidates": "yes, my two dogs sleep all day\nplanes fly low here\nwhat lovely weather\n",
    }
    paths = {}
    for name, text in contents.items():
        paths[name] = tmp_path / f"{name}.txt"
        paths[name].write_text(text, encoding="utf-8")
    return paths


def options(files: dict[str, Path]) -> list[str]:
    return [part for name, path in files.items() for part in (f"--{name}", str(path))]


def changes(**others: str) -> list[str]:
    return [part for item in (TINY | others).items() for part in item]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one message of a refused command."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["fit", "--config", RECIPE, "--out", str(out), *changes()]) == 0
    return out


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from personae.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'lightning', 'transformers', 'numpy'} & set(sys.modules)"
    )
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert time.monotonic() - start < 5  # on a busy machine; alone it takes about 0.3 s


def test_rank_prints_one_json_object_best_first(capsys: pytest.CaptureFixture[str], files: dict[str, Path]) -> None:
    assert main(["rank", "tfidf", *options(files), "--explain", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["scale"] == "similarity"
    scores = [reply["score"] for reply in result["results"]]
    assert scores == sorted(scores, reverse=True)
    assert {reply["index"] for reply in result["results"]} == {0, 1, 2}
    assert result["results"][0]["text"] == "yes, my two dogs sleep all day"
    assert result["results"][0]["fact"] == "I have two dogs."


def test_rank_shows_as_many_as_asked_for(capsys: pytest.CaptureFixture[str], files: dict[str, Path]) -> None:
    assert main(["rank", "tfidf", *options(files), "--top", "1", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["results"]) == 1
    assert "--top: 0" in refused(capsys, "rank", "tfidf", *options(files), "--top", "0")


def test_rank_takes_unusual_text(capsys: pytest.CaptureFixture[str], files: dict[str, Path], trained: Path) -> None:
    files["persona"].write_text("".join(f"fact number {n}\n" for n in range(200)), encoding="utf-8")
    files["context"].write_text("", encoding="utf-8")
    files["candidates"].write_text("word " * 5000 + "\n🦜🎸\n我喜欢猫\na\x07bell\x1b[31m\n", encoding="utf-8")
    for model in ("tfidf", str(trained)):
        assert main(["rank", model, *options(files), "--json"]) == 0
        assert len(json.loads(capsys.readouterr().out)["results"]) == 4


def test_rank_says_what_it_does_not_read(files: dict[str, Path]) -> None:
    code = "import sys; from personae.cli import main; sys.exit(main(sys.argv[1:]))"
    given = [*options(files), "--partner", str(files["persona"]), "--json"]
    told = subprocess.run([sys.executable, "-c", code, "rank", "tfidf", *given], check=True, capture_output=True)
    assert len(json.loads(told.stdout)["results"]) == 3
    assert told.stderr.decode() == "this model reads no persona of the other speaker (persona: self); it is left out\n"


def test_rank_refuses_what_it_cannot_read(capsys: pytest.CaptureFixture[str], files: dict[str, Path]) -> None:
    good = options(files)
    for blank in ("", "\n", " \n\n"):
        files["candidates"].write_text(blank)
        assert f"{files['candidates']}: holds no reply" in refused(capsys, "rank", "tfidf", *good)
    files["candidates"].write_bytes("fine\ncaf\xe9\n".encode("latin-1"))
    assert f"{files['candidates']}:2: byte 8 of the file is not UTF-8" in refused(capsys, "rank", "tfidf", *good)
    files["candidates"].unlink()
    assert str(files["candidates"]) in refused(capsys, "rank", "tfidf", *good)


@pytest.mark.parametrize("blank", ["", "\n", " \n\n"])
def test_a_persona_and_a_context_may_be_blank(
    blank: str, capsys: pytest.CaptureFixture[str], files: dict[str, Path]
) -> None:
    for name in ("persona", "context"):
        files[name].write_text(blank)
    assert main(["rank", "tfidf", *options(files), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["results"]) == 3


def test_texts_are_printed_as_they_are(capsys: pytest.CaptureFixture[str], files: dict[str, Path]) -> None:
    """Nothing is markup, and nothing steers the terminal."""
    replies = ["yes [my dog] sleeps", "a [/b] closing tag", ":smile: [red]no[/red]", "a\x07bell\x1b[31m"]
    files["candidates"].write_text("\n".join(replies))
    assert main(["rank", "tfidf", *options(files)]) == 0
    out = capsys.readouterr().out
    assert all(reply in out for reply in replies[:3])
    assert r"a\x07bell\x1b[31m" in out
    assert not {"\x07", "\x1b"} & set(out)


def test_models_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    models = json.loads(capsys.readouterr().out)["models"]
    assert {"hre", "imn", "minilm", "tfidf"} <= {model["name"] for model in models}
    for model in models:
        assert set(model) >= {"name", "families", "paper", "file", "recipes", "shipped"}
        assert "http" in model["paper"]
        assert model["recipes"] or not model["trained"]
        assert set(model["results"]) <= {model["name"], *model["recipes"]}
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    printed = "".join("".join(lines).split())
    of = "personachat/valid_both_original.txt, n 7,801"
    assert f"    tfidf, needs no training, hits@1/20 0.420 [0.407, 0.432] on {of}" in lines
    for model in models:
        assert "".join(model["paper"].split()) in printed
        assert set(model["recipes"]) <= {line.strip().partition(",")[0] for line in lines}
    assert main(["models", "--shipped"]) == 0
    printed = capsys.readouterr().out
    assert "    persona-reranker, comes with its weights\n" in printed
    assert "tfidf" not in printed


def test_a_recipe_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "selection/imn-toy-ra"]) == 0
    assert capsys.readouterr().out == recipes.shipped()["selection/imn-toy-ra"].read_text(encoding="utf-8")
    assert "did you mean selection/imn-toy-ra?" in refused(capsys, "recipe", "selection/imn-toy-r")


def test_what_is_compared_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "hre-personachat-ra", "tfidf-none/on-original"]) == 0
    file = "personachat/valid_both_original.txt"
    assert capsys.readouterr().out.splitlines()[-2:] == [f"A: persona self, {file}", f"B: persona none, {file}"]


def test_a_run_that_is_not_finished_is_not_compared(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    said = refused(capsys, "compare", str(tmp_path), "hre-personachat-ra")
    assert f"{tmp_path}: no finished run, it has no metrics.json; resume its training" in said


def test_a_true_reply_among_its_candidates_twice_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    file, said = tmp_path / "mine.jsonl", []
    for name, candidates in (("a", ["hello you", "no", "hello you"]), ("b", ["hello you", "no", "yes"])):
        turns = [{"speaker": 0, "text": "hi"}, {"speaker": 1, "text": "hello you", "candidates": candidates}]
        said.append(json.dumps({"id": name, "personas": [[], ["i am tall"]], "turns": turns}))
    file.write_text("\n".join(said))
    assert main(["evaluate", "tfidf", "--data", str(file), "--json"]) == 0
    assert f"{file}: 1 of 2 replies are among their candidates more than once" in caplog.text
    assert set(json.loads(capsys.readouterr().out)["metrics"]) == {"hits@1/3", "mrr/3"}


def test_data_commands(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    turns = [{"speaker": 0, "text": "hi"}, {"speaker": 1, "text": "hello you"}]
    file.write_text(json.dumps({"id": "a", "personas": [[], ["i am tall"]], "turns": turns}) + "\n")
    assert main(["data", "stats", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dialogues"] == 1
    assert main(["data", "show", str(file), "-n", "1"]) == 0
    assert "hello you" in capsys.readouterr().out
    file.write_text(json.dumps({"id": "a", "personas": [[], []], "turns": []}) + "\n")
    assert f"{file}:1" in refused(capsys, "data", "stats", str(file))


def test_evaluate_prints_what_is_promised(capsys: pytest.CaptureFixture[str], trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "valid_mine.jsonl"
    with file.open("w") as out:
        for n in range(30):
            turns = [{"speaker": k % 2, "text": f"turn {k} of {n}"} for k in range(4)]
            out.write(json.dumps({"id": str(n), "personas": [[], [f"i am {n}"]], "turns": turns}) + "\n")
    for model in ("tfidf", str(trained)):
        assert main(["evaluate", model, "--data", str(file), "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert set(result) >= {"model", "data", "n", "seed", "metrics", "environment"}
        assert set(result["data"]) == {"path", "split", "sha256", "candidates"}
        assert result["data"]["split"] == "valid"
        assert result["data"]["candidates"]["name"] == "own20"
        assert result["n"] == 60
        for metric in result["metrics"].values():
            assert metric["low"] <= metric["value"] <= metric["high"]
    assert "must be trained first" in refused(capsys, "evaluate", "imn", "--data", str(file))
    assert "no such model" in refused(capsys, "evaluate", "nosuch", "--data", str(file))


def test_compare_is_by_example(capsys: pytest.CaptureFixture[str], trained: Path, tmp_path: Path) -> None:
    assert main(["compare", str(trained), str(trained), "--json"]) == 0
    same = json.loads(capsys.readouterr().out)
    assert same["metrics"]["hits@1/20"]["difference"]["value"] == 0
    assert str(tmp_path) in refused(capsys, "compare", str(trained), str(tmp_path))


def test_one_example_says_nothing_about_others(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    turns = [{"speaker": 0, "text": "hi"}, {"speaker": 1, "text": "hello", "candidates": ["hello", "no"]}]
    file, out = tmp_path / "one.jsonl", tmp_path / "one"
    file.write_text(json.dumps({"personas": [[], ["i am one"]], "turns": turns}) + "\n")
    assert main(["evaluate", "tfidf", "--data", str(file), "--out", str(out)]) == 0
    capsys.readouterr()
    assert main(["compare", str(out), str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["mrr/2"]["t_test"] == {"p": None}
    assert main(["compare", str(out), str(out)]) == 0
    assert "│           - │\n" in capsys.readouterr().out


def test_fit_refuses_a_recipe_with_mistakes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    assert "hiden" in refused(capsys, "fit", "--config", RECIPE, "--out", out, "--task.model.hiden", "4")
    assert "many" in refused(capsys, "fit", "--config", RECIPE, "--out", out, "--task.model.hidden", "many")
    assert "nosuch.yaml" in refused(capsys, "fit", "--config", "nosuch.yaml", "--out", out)
    bad = tmp_path / "bad.yaml"
    bad.write_text("task: [unclosed")
    assert str(bad) in refused(capsys, "fit", "--config", str(bad), "--out", out)
    assert not Path(out).exists()


def test_fit_refuses_a_folder_that_is_in_use(capsys: pytest.CaptureFixture[str], trained: Path) -> None:
    assert "--resume" in refused(capsys, "fit", "--config", RECIPE, "--out", str(trained))


def test_damaged_weights_are_named(capsys: pytest.CaptureFixture[str], trained: Path, files: dict[str, Path]) -> None:
    weights = trained / "model.safetensors"
    whole = weights.read_bytes()
    try:
        weights.write_bytes(whole[: len(whole) // 2])
        assert "model.safetensors" in refused(capsys, "rank", str(trained), *options(files))
    finally:
        weights.write_bytes(whole)


def interrupted(process: subprocess.Popen[str]) -> str:
    """What a process says on Ctrl-C, pressed again where it fell on a moment that cannot raise (a finalizer)."""
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        try:
            return process.communicate(timeout=20)[1]
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError("still running after three times Ctrl-C")


def test_ctrl_c_keeps_a_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-c",
        "from personae.cli import main; raise SystemExit(main())",
        "fit",
        "--config",
        RECIPE,
        "--out",
        str(out),
    ]
    slow = changes(**{"--trainer.max_epochs": "500", "--save_every": "2"})
    process = subprocess.Popen(
        [*command, *slow], stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "80"}
    )
    deadline = time.monotonic() + 120
    while not (out / "checkpoints" / "last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    try:
        err = interrupted(process)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "--resume" in err
    assert "Traceback" not in err
    assert (out / "checkpoints" / "last.ckpt").exists()
    assert not list(out.rglob("*.part"))


def test_ctrl_c_before_anything_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def split(self: Toy, name: str) -> Iterator[Dialogue]:
        signal.raise_signal(signal.SIGINT)
        return iter(())

    command = ["fit", "--config", RECIPE, "--out", str(tmp_path / "run"), *changes()]
    with monkeypatch.context() as patched:
        patched.setattr(Toy, "split", split)
        assert main(command) == 130
    assert capsys.readouterr().err == "personae: interrupted before anything was kept; give the same command again\n"
    assert main(command) == 0


def test_the_help_of_an_option_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["record", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "Records of other runs that are there stay. The paths of files are as in the recipe. (required" in printed


@pytest.mark.parametrize("rest", [["--task.model.hidden"], ["--task.model.hidden="], ["--task.model.hidden", "--seed"]])
def test_an_option_without_a_value_is_named(
    rest: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    message = refused(capsys, "fit", "--config", "selection/imn-toy-ra", "--out", out, *rest)
    assert "--task.model.hidden: give it a value" in message
    assert not (tmp_path / "run").exists()
    assert "seed, save_every: a number is wanted" in refused(
        capsys, "fit", "--config", "selection/imn-toy-ra", "--out", out, "--save_every", "null"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["reproduce", "dim/table3", "--budget", "huge"], "--budget: invalid choice: 'huge' (choose from 'cpu-small'"),
        (
            ["evaluate", "tfidf", "--data", "x", "--persona", "me"],
            "--persona: invalid choice: 'me' (choose",
        ),
        (["evaluate", "tfidf", "--data", "x", "--seed", "y"], "--seed: y is no int"),
        (["explain", "tfidf", "--persona", "x"], "arguments are required: --out (see personae explain --help)"),
        (["perhits", "--users", "y"], "--users: y is no int"),
        (["perhits"], "arguments are required: --responses, --histories (see personae perhits --help)"),
        (["data", "users"], "arguments are required: path (see personae data users --help)"),
        (["nosuch"], "invalid choice: 'nosuch' (choose from 'demo'"),
        ([], "to be one of {demo,"),
    ],
)
def test_a_mistake_is_told_in_one_line(given: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, *given)
    assert message in told
    assert told.count("\n") == 1
    assert told.rstrip().endswith("--help)")


def test_a_record_is_told_from_a_model(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, "evaluate", "dim-personachat", "--data", "x")
    assert "x: there is nothing at" in told
    candidates = ["--candidates", str(files["candidates"]), "--context", str(files["context"])]
    told = refused(capsys, "rank", "dim-personachat", "--persona", str(files["persona"]), *candidates)
    assert re.search(r"dim-personachat: is recorded without weights; train it anew: .* --config \S+recipe", told)


def test_what_the_terminal_cannot_show_is_escaped(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    files["candidates"].write_text("\u4f60\u597d\n", encoding="utf-8")
    shown = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", shown)
    assert main(["rank", "tfidf", *options(files)]) == 0
    shown.flush()
    assert rb"\u4f60\u597d" in shown.buffer.getvalue()  # type: ignore[attr-defined]
