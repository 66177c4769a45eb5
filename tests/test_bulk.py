"""A file of cases becomes a file of rankings: each line once, in order, also where the command is killed."""

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from personae import bulk, checkpoint, run
from personae.agent import WINDOW, Agent
from personae.cli import main
from personae.nn.dialogue_batch import Limits
from personae.tasks.selection import SCORED, Selection
from personae.types import Case, InputError, Whose

WORDS = "a cat dog bird sings and sleeps all day near the old river , i like to swim with two small brothers !"
SMALL = 500
"""So many candidates are ranked before they are written, in the tests that need several times."""
CODE = f"from personae import bulk, cli; bulk.WINDOW = {SMALL}; raise SystemExit(cli.main())"
COMMAND = [sys.executable, "-c", CODE, "rank"]
CASE = {"id": "c1", "persona": ["i like cats"], "context": ["any pets ?"], "candidates": ["no", "a cat", "no pets"]}
Build = Callable[..., Any]


def cases(count: int, *, candidates: int = 20, seed: int = 0) -> Iterator[dict[str, Any]]:
    rng = random.Random(seed)

    def texts(many: int) -> list[str]:
        return [" ".join(rng.choices(WORDS.split(), k=rng.choice((2, 5, 9, 16)))) for _ in range(many)]

    for number in range(count):
        about = {"persona": texts(number % 4), "context": texts(number % 5), "candidates": texts(candidates)}
        yield about if number % 3 else {"id": f"case {number}", **about}


def written(path: Path, records: Iterator[dict[str, Any]] | Sequence[dict[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def quiet(message: str) -> None:
    """What is said does not matter."""


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def agent() -> Agent:
    return Agent.load("tfidf")


@pytest.mark.parametrize("model", ["tfidf", "hre", "bert", "p5", "minilm"])
def test_many_are_ranked_as_each_alone(model: str, build: Build) -> None:
    agent = Agent.load(model) if model in ("tfidf", "minilm") else Agent(Selection(model=build(model)))
    some: list[Case] = [{k: v for k, v in case.items() if k != "id"} for case in cases(12, candidates=5)]  # type: ignore[misc]
    for case, ranked in zip(some, agent.rank_many(iter(some)), strict=True):
        alone = agent.rank(**case)
        assert isinstance(ranked, list)
        assert [one.score for one in ranked] == sorted((one.score for one in ranked), reverse=True)
        assert {one.index: one.text for one in ranked} == {one.index: one.text for one in alone}
        assert {one.index: one.score for one in ranked} == pytest.approx(
            {one.index: one.score for one in alone}, abs=1e-5
        )


def test_no_more_cases_are_read_than_are_needed(agent: Agent) -> None:
    asked = 0

    def endless() -> Iterator[Case]:
        nonlocal asked
        while True:
            asked += 1
            yield {"candidates": ["a cat", "a dog"] * 64}

    ranked = agent.rank_many(endless())
    for _ in range(WINDOW // 128):
        assert len(next(ranked)) == 128  # type: ignore[arg-type]
    assert asked == WINDOW // 128


def test_a_case_that_cannot_be_ranked_does_not_stop_the_others(agent: Agent) -> None:
    good: Case = {"candidates": ["a cat"]}
    strange: Any = {"candidate": ["a"]}
    given = [good, {"candidates": []}, {"candidates": ["a", " "]}, good, strange]
    first, second, third, fourth, fifth = agent.rank_many(given)
    assert isinstance(first, list)
    assert first == fourth
    assert "there are none to rank" in str(second)
    assert isinstance(third, InputError)
    assert "number 1, counted from 0, is empty" in str(third)
    assert "candidate: is no part of a case, which are candidates, persona" in str(fifth)


@pytest.mark.parametrize("whose", ["none", "self"])
def test_what_is_not_read_is_told_of_once(whose: Whose, build: Build, caplog: pytest.LogCaptureFixture) -> None:
    agent = Agent(Selection(model=build("hre", persona=whose, limits=Limits(lines=2, reply_words=3))))
    long: Case = {"candidates": ["a cat sings near the river"], "persona": ["i swim"] * 3}
    assert len(list(agent.rank_many([long] * 5))) == 5
    assert len(caplog.messages) == 2


def test_a_candidate_may_be_very_long(build: Build, caplog: pytest.LogCaptureFixture) -> None:
    long = "word " * 4000
    for agent in (Agent.load("minilm"), Agent(Selection(model=build("bert"))), Agent(Selection(model=build("hre")))):
        caplog.clear()
        for _ in range(2):
            ranked = agent.rank(candidates=["a cat", long, long + "x"], context=["pets ?"])
            assert {one.index for one in ranked} == {0, 1, 2}
        assert len(caplog.messages) == 1, caplog.messages


def test_scores_that_are_no_numbers_never_leave(build: Build) -> None:
    for name, value in (("hre", torch.nan), ("bert", torch.inf)):
        agent = Agent(Selection(model=build(name)), name="runs/broken")
        next(agent.task.model.parameters()).data.fill_(torch.nan)
        list(agent.task.model.parameters())[-1].data.fill_(value)
        given: Case = {"candidates": ["a cat", "a dog"], "context": ["my cat ?"]}
        with pytest.raises(InputError, match=r"runs/broken: gives candidate 0, counted from 0, the score (nan|inf)"):
            agent.rank(**given)
        with pytest.raises(InputError, match=r"runs/broken: gives candidate 0"):
            agent.explain(agent.case(**given))
        assert all(isinstance(one, InputError) for one in agent.rank_many([given, given]))


def test_the_parts_of_a_large_case_are_made_one_at_a_time(build: Build) -> None:
    agent = Agent(Selection(model=build("hre")))
    collate, made = agent.task.model.collate, []

    def counted(examples: Any) -> Any:
        made.append(len(examples[0].target.candidates))
        return collate(examples)

    agent.task.model.collate = counted
    many = [f"a cat {number}" for number in range(2 * SCORED + 1)]
    parts = iter(agent.task.parts([agent.case(candidates=many)]))
    next(parts)
    assert made == [SCORED]
    assert len(agent.rank(candidates=many)) == len(many)


def test_a_line_in_is_a_line_out(tmp_path: Path, capsys: pytest.CaptureFixture[str], agent: Agent) -> None:
    source, output = tmp_path / "cases.jsonl", tmp_path / "new" / "ranked.jsonl"
    given = list(cases(600))
    source.write_text("\n" + "\n\n".join(json.dumps(case) for case in given))  # blank lines are none
    assert main(["rank", "tfidf", "--input", str(source), "--output", str(output), "--top", "3", "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result.pop("seconds") > 0
    assert result == {
        "model": "tfidf",
        "scale": "similarity",
        "input": str(source),
        "output": str(output),
        "cases": 600,
        "pairs": 12_000,
        "errors": 0,
        "resumed_at": None,
    }
    assert err.startswith("600 cases with 12,000 candidates were ranked in ")
    assert left(output.parent) == {"ranked.jsonl"}
    rows = read(output)
    assert [row["line"] for row in rows] == [2 * place + 2 for place in range(600)]
    for case, row in zip(given, rows, strict=True):
        assert set(row) == {"id", "line", "results"}
        assert row["id"] == case.pop("id", row["line"])
        expected = agent.rank(**case)[:3]
        assert row["results"] == [{"text": one.text, "score": one.score, "index": one.index} for one in expected]


WRONG = {
    b"{": "not JSON (column ",
    b"[]": "a list where a JSON object is wanted",
    b"NaN": "a number where a JSON object is wanted",
    b"[" * 100_000: "write one case a line",
    b'{"candidates": ["a"], "context": []}': "field persona: is missing: a list is wanted",
    b'{"candidates": [], "persona": [], "context": []}': "field candidates: there are none: give at least one",
    b'{"candidates": ["a", 1], "persona": [], "context": []}': "field candidates[1]: is a number: a text is wanted",
    b'{"candidates": ["a"], "persona": "x", "context": []}': "field persona: is a text: a list is wanted",
    b'{"candidates": ["a"], "persona": [], "context": [], "id": 7}': "field id: is a number: a text is wanted",
    b'{"candidates": ["a"], "persona": [], "context": [], "partner_persona": []}': "partner is: rename it",
    b'{"candidate": ["a"], "persona": [], "context": []}': "field candidate: is not known, candidates is: rename it",
    b'{"candidates": ["a"], "candidates": ["b"], "persona": [], "context": []}': "field candidates is there more than",
    b'{"candidates": ["caf\xe9"], "persona": [], "context": []}': "byte 20 of the line is not UTF-8",
    b'{"candidates": ["\\ud800"], "persona": [], "context": []}': "field candidates[0]: holds half a surrogate pair",
    b'{"candidat\\ud800es": ["a"], "persona": [], "context": []}': r"candidat\ud800es: is not known, candidates",
    b'{"x\\ud800": 1, "x\\ud800": 2}': r"field x\ud800 is there more than once",
}


@pytest.mark.parametrize("kept", [True, False])
def test_what_is_wrong_is_told_and_the_rest_ranked(
    kept: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output, errors = (tmp_path / name for name in ("cases.jsonl", "ranked.jsonl", "errors.jsonl"))
    good = json.dumps(CASE).encode()
    source.write_bytes(b"\n".join([good, *(line for wrong in WRONG for line in (wrong, good))]))
    given = ["rank", "tfidf", "--input", str(source), "--output", str(output), "--json"]
    assert main([*given, "--errors", str(errors)] if kept else given) == (0 if kept else 2)
    out, err = capsys.readouterr()
    assert [row["line"] for row in read(output)] == list(range(1, 2 * len(WRONG) + 2, 2))
    assert json.loads(out)["errors"] == len(WRONG)
    if kept:
        rows = read(errors)
        assert err.count("\n") == 1
        assert err.endswith(f"{len(WRONG)} lines could not be, see {errors}\n")
    else:
        *told, summary, last = err.splitlines()
        rows = [{"line": 2 * place + 2, "error": message} for place, message in enumerate(told)]
        assert f"{len(WRONG)} lines could not be" in summary
        assert last == f"personae: {source}: {len(WRONG)} lines could not be ranked; the others are, in {output}"
    for place, (row, (wrong, message)) in enumerate(zip(rows, WRONG.items(), strict=True)):
        assert row["line"] == 2 * place + 2
        assert row["error"].startswith(f"{source}:{row['line']}: ")
        assert message in row["error"]
        if kept:
            assert row["text"] == wrong.decode(errors="backslashreplace")


def test_scores_that_are_no_numbers_are_a_lines_error(
    tmp_path: Path, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Selection(model=build("hre"))
    list(task.model.parameters())[-1].data.fill_(torch.nan)
    monkeypatch.setattr(run, "load", lambda _: task)
    source, errors = written(tmp_path / "cases.jsonl", list(cases(3))), tmp_path / "errors.jsonl"
    result = bulk.rank("broken", source, tmp_path / "ranked.jsonl", errors=errors, say=quiet)
    assert (result["cases"], result["errors"]) == (0, 3)
    assert all("broken: gives candidate 0, counted from 0, the score nan" in row["error"] for row in read(errors))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "WINDOW", SMALL)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cases with a mistake here and there."""
    path = tmp_path_factory.mktemp("cases") / "cases.jsonl"
    lines = [json.dumps(case) for case in cases(600)]
    lines[10::19] = ["no case"] * len(lines[10::19])  # 32 of them
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def whole(many: Path, folder: Path, model: str = "tfidf") -> tuple[bytes, bytes]:
    bulk.rank(model, many, folder / "ranked.jsonl", errors=folder / "errors.jsonl", say=quiet)
    return (folder / "ranked.jsonl").read_bytes(), (folder / "errors.jsonl").read_bytes()


def test_a_command_that_is_killed_goes_on(many: Path, small: None, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    expected = whole(many, tmp_path / "whole")
    folder = tmp_path / "killed"
    folder.mkdir()
    output, errors = folder / "ranked.jsonl", folder / "errors.jsonl"
    command = [*COMMAND, "tfidf", "--input", str(many), "--output", str(output), "--errors", str(errors), "--json"]
    rng, killed, places = random.Random(0), 0, []
    while not output.exists():
        journal = folder / "ranked.jsonl.part.json"
        before = journal.read_bytes() if journal.exists() else b""
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        while process.poll() is None and killed < 3:
            if journal.exists() and journal.read_bytes() != before:
                time.sleep(rng.random() / 10)
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.001)
        out = process.communicate()[0]
        killed += process.returncode == -signal.SIGKILL
        if journal.exists():
            places.append(json.loads(journal.read_bytes())["place"]["line"])
    assert killed >= 1
    assert (output.read_bytes(), errors.read_bytes()) == expected
    result = json.loads(out)
    assert result["resumed_at"] == places[-1] + 1
    assert (result["cases"], result["errors"]) == (568, 32)
    assert left(folder) == {"ranked.jsonl", "errors.jsonl"}


Died = Callable[[Path, str, int], int]


@pytest.fixture
def died(many: Path, small: None, monkeypatch: pytest.MonkeyPatch) -> Died:
    """A command that dies at its so-manieth call of a function of `os` or of a path, and how many calls there were."""

    def died(folder: Path, of: str, call: int, model: str = "tfidf") -> int:
        owner, calls = os if of == "fsync" else Path, 0
        real = getattr(owner, of)

        def dying(*given: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                raise KeyboardInterrupt
            return real(*given)

        folder.mkdir()
        with monkeypatch.context() as patched:
            patched.setattr(owner, of, dying)
            try:
                whole(many, folder, model)
            except KeyboardInterrupt:
                assert calls == call
        return calls

    return died


@pytest.mark.parametrize(
    ("of", "call"),
    [("fsync", 1), ("fsync", 2), ("fsync", 3), ("fsync", 9), ("replace", 2), ("replace", -1), ("replace", 0)],
)
def test_it_may_die_anywhere(of: str, call: int, many: Path, tmp_path: Path, died: Died) -> None:
    folder, part = tmp_path / "dead", tmp_path / "dead" / "ranked.jsonl.part"
    total = died(tmp_path / "whole", of, -1)
    died(folder, of, call if call > 0 else total + call)
    if part.exists() and call > 0:
        with part.open("ab") as file:
            file.write(b'{"id": "torn')
    elif call == 0:
        assert left(folder) == {"ranked.jsonl", "errors.jsonl.part", "ranked.jsonl.part.json"}
    expected = [(tmp_path / "whole" / name).read_bytes() for name in ("ranked.jsonl", "errors.jsonl")]
    assert [*whole(many, folder)] == expected
    assert left(folder) == {"ranked.jsonl", "errors.jsonl"}


@pytest.mark.parametrize("name", ["minilm", "hre", "p5"])
def test_what_goes_on_gives_the_same_to_the_last_bit(
    name: str, tmp_path: Path, small: None, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a model keeps what it made of earlier texts."""
    load = run.load
    monkeypatch.setattr(run, "load", lambda _: load("minilm") if name == "minilm" else Selection(model=build(name)))
    source = written(tmp_path / "cases.jsonl", [*cases(SMALL // 20 + 10), *cases(30), *cases(SMALL // 20, seed=1)])
    bulk.rank(name, source, tmp_path / "whole.jsonl", say=quiet)
    real, calls = Agent.rank_many, 0

    def dying(self: Agent, some: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return real(self, some)

    monkeypatch.setattr(Agent, "rank_many", dying)
    with pytest.raises(KeyboardInterrupt):
        bulk.rank(name, source, tmp_path / "ranked.jsonl", say=quiet)
    result = bulk.rank(name, source, tmp_path / "ranked.jsonl", say=quiet)
    assert result["resumed_at"] == SMALL // 20 + 1
    assert result["cases"] == 2 * (SMALL // 20) + 40
    assert (tmp_path / "ranked.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.fixture
def begun(many: Path, tmp_path: Path, died: Died) -> Path:
    """A folder with what a command that was stopped left, and its input."""
    died(tmp_path / "begun", "fsync", 8)
    (tmp_path / "begun" / "cases.jsonl").write_bytes(many.read_bytes())
    return tmp_path / "begun"


def asked(folder: Path, **changes: Any) -> dict[str, Any]:
    given = {"model": "tfidf", "source": folder / "cases.jsonl", "output": folder / "ranked.jsonl"}
    return bulk.rank(**{**given, "errors": folder / "errors.jsonl", "say": quiet, **changes})


def test_another_command_does_not_go_on_with_it(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = begun / "ranked.jsonl.part.json"
    before = journal.read_bytes()
    for changes, message in (
        ({"model": "minilm"}, "is of a command with another model; give the same, or delete"),
        ({"top": 3}, "is of a command with --top None, not 3; give the same, or delete"),
        ({"errors": None}, "errors.jsonl, not None; give the same, or delete"),
        ({"source": Path("-")}, "is of a command that read a file, which can go on; give it, or delete"),
    ):
        with (begun / "cases.jsonl").open(encoding="utf-8") as file:
            monkeypatch.setattr(sys, "stdin", file)
            with pytest.raises(InputError, match=message) as error:
                asked(begun, **changes)
        assert str(journal) in str(error.value)
    source = begun / "cases.jsonl"
    text = source.read_bytes()
    for other in (text.replace(b"cat", b"cow"), text[:1000]):
        source.write_bytes(other)
        with pytest.raises(InputError, match=rf"--input {source}: its first \d+ lines are not those that were ranked"):
            asked(begun)
    source.write_bytes(text)
    assert journal.read_bytes() == before
    journal.write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        asked(begun)
    journal.write_bytes(before)
    (begun / "ranked.jsonl.part").write_bytes(b"short")
    with pytest.raises(InputError, match=r"ranked\.jsonl\.part: is not what"):
        asked(begun)
    journal.unlink()
    assert asked(begun)["resumed_at"] is None


def test_lines_may_be_added_to_the_end_of_an_input(begun: Path) -> None:
    with (begun / "cases.jsonl").open("a") as file:
        file.write("\n" + json.dumps(CASE) + "\n")
    assert asked(begun)["resumed_at"]
    assert read(begun / "ranked.jsonl")[-1]["line"] == 602


def test_nothing_that_is_there_is_lost(tmp_path: Path) -> None:
    source = written(tmp_path / "cases.jsonl", [CASE])
    there, new = tmp_path / "there.jsonl", tmp_path / "new.jsonl"
    there.write_text("kept")
    for output, errors, message in (
        (there, None, f"--output {there}: exists, and would be lost; name another, or delete it"),
        (new, there, f"--errors {there}: exists, and would be lost"),
        (source, None, "two of them are one file"),
        (new, new, "two of them are one file"),
        (tmp_path, None, "exists, and would be lost"),
    ):
        with pytest.raises(InputError) as error:
            bulk.rank("tfidf", source, output, errors=errors, say=quiet)
        assert message in str(error.value)
    assert there.read_text() == "kept"
    assert left(tmp_path) == {"cases.jsonl", "there.jsonl"}


@pytest.mark.parametrize("name", ["ranked.jsonl", "errors.jsonl"])
def test_two_commands_do_not_write_one_file(name: str, tmp_path: Path) -> None:
    source = written(tmp_path / "cases.jsonl", [CASE])
    with (
        checkpoint.alone(tmp_path / f"{name}.part.lock", "busy"),
        pytest.raises(InputError, match="another command is wr"),
    ):
        bulk.rank("tfidf", source, tmp_path / "ranked.jsonl", errors=tmp_path / "errors.jsonl", say=quiet)


def test_what_is_no_input_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed, output = tmp_path / "cases.jsonl.gz", tmp_path / "ranked.jsonl"
    packed.write_bytes(gzip.compress(json.dumps(CASE).encode()))
    for given, message in (
        (["--input", str(packed), "--output", str(output)], f"{packed}: is compressed by gzip: unpack it"),
        (["--input", str(tmp_path / "no"), "--output", str(output)], "no: cannot be read (No such file"),
        (["--input", str(tmp_path), "--output", str(output)], "cannot be read (Is a directory)"),
        (["--input", str(packed)], "--input, --output: give both"),
        (["--errors", str(output)], "--input, --output: give both"),
        (["--input", str(packed), "--output", str(output), "--explain"], "and none of --persona, --context,"),
        (["--input", str(packed), "--output", str(output), "--top", "0"], "--top: 0 is not at least 1"),
        (["--persona", str(packed)], "--persona, --context, --candidates: give all, or cases by --input"),
    ):
        assert main(["rank", "tfidf", *given]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert message in err
    assert left(tmp_path) == {packed.name}


def test_standard_input_is_read(many: Path, small: None, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    expected, _ = whole(many, tmp_path / "whole")
    output = tmp_path / "ranked.jsonl"
    with many.open("rb") as file:
        piped = subprocess.run(
            [*COMMAND, "tfidf", "--input", "-", "--output", str(output)], stdin=file, capture_output=True, text=True
        )
    assert piped.returncode == 2
    assert "personae: -: 32 lines could not be ranked" in piped.stderr
    assert output.read_bytes() == expected
    output.unlink()
    process = subprocess.Popen([*COMMAND, "tfidf", "--input", "-", "--output", str(output)], stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(many.read_bytes()[:400_000])
    process.stdin.flush()
    while not (tmp_path / "ranked.jsonl.part").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    process.stdin.close()
    assert left(tmp_path) == {"whole"}


def test_a_full_disk_is_told_of_and_goes_on(many: Path, small: None, tmp_path: Path, full_disk: Any) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "full").mkdir()
    expected = whole(many, tmp_path / "whole")
    with full_disk(len(expected[0]) // 2), pytest.raises(InputError, match="make room, then the same command goes on"):
        whole(many, tmp_path / "full")
    assert whole(many, tmp_path / "full") == expected


def peak(path: Path, model: str = "tfidf") -> int:
    """The most memory, in KiB, that a command takes to rank a file, as Linux tells it; the output is deleted."""
    output = path.with_suffix(".out")
    code = "from personae.cli import main; main(); print(open('/proc/self/status').read())"
    command = [sys.executable, "-c", code, "rank", model, "--input", str(path), "--output", str(output), "--top", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    output.unlink()
    return int(done.stdout.partition("VmHWM:")[2].split()[0])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_memory_does_not_grow_with_the_cases(tmp_path: Path) -> None:
    few, many = (peak(written(tmp_path / f"{count}.jsonl", cases(count))) for count in (2_000, 20_000))
    assert many - few < 10_000


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_memory_hardly_grows_with_the_candidates_of_a_case(tmp_path: Path) -> None:
    few, many = (peak(written(tmp_path / f"{count}.jsonl", cases(1, candidates=count))) for count in (20_000, 100_000))
    assert many - few < 150_000
