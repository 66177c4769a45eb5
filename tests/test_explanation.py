"""`personae explain`: what it writes, prints and refuses."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from matplotlib.patches import Rectangle

from personae import explanation, picture, run
from personae.cli import main
from personae.data import jsonl
from personae.data.candidates import examples
from personae.data.toy import Selection
from personae.tasks.selection import texts
from personae.types import Effect, Example, Explained

CONTENTS = {
    "persona": "I have two dogs.\nI work nights as a nurse.\n",
    "context": "hello there\nhi, how are you?\ndo you have any pets?\n",
    "candidates": "yes, my two dogs sleep all day\nplanes fly low here\nwhat lovely weather\n",
}


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """The options that name a case's files."""
    for name, text in CONTENTS.items():
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    return [part for name in CONTENTS for part in (f"--{name}", str(tmp_path / f"{name}.txt"))]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "toy.jsonl"
    jsonl.write(Selection(dialogues=40).split("valid"), path)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> str:
    """The run folder of a tiny DIM, not trained, that knows the corpus' words."""
    folder = tmp_path_factory.mktemp("run")
    words = {"class_path": "personae.nn.words.Words", "init_args": {"glove_size": 0, "task": 8, "filters": 4}}
    model = {
        "class_path": "personae.models.selection.dim.DIM",
        "init_args": {"hidden": 8, "features": 8, "words": words, "persona": "both"},
    }
    recipe = {"task": {"class_path": "personae.tasks.selection.Selection", "init_args": {"model": model}}, "seed": 0}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    task = run.build(str(folder / "recipe.yaml"))
    task.model.prepare([*texts(Selection(dialogues=40).split("train")), *CONTENTS.values()])
    run.save(task, folder)
    return str(folder)


def cases(corpus: Path) -> list[Example]:
    from personae.data.read import read

    return examples(read(corpus))


def explained(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """What --json prints, which is what the file holds."""
    assert main(["explain", *arguments, "--json"]) == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    out = Path(arguments[arguments.index("--out") + 1])
    assert json.loads((out / "explanation.json").read_text()) == printed
    shown = [one["picture"] for case in printed["cases"] for one in case["shown"]]
    assert sorted(path.name for path in out.iterdir()) == sorted(["explanation.json", *shown])
    return printed


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one message of a refused command."""
    assert main(["explain", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err


def said(picture: Path) -> list[str]:
    """The texts of a picture."""
    return [element.text or "" for element in ElementTree.parse(picture).iter() if element.tag.endswith("}text")]


def test_any_model_tells_what_each_line_does(
    capsys: pytest.CaptureFixture[str], files: list[str], tmp_path: Path
) -> None:
    result = explained(capsys, "tfidf", *files, "--top", "2", "--out", str(tmp_path / "out"))
    assert (result["model"], result["scale"]) == ("tfidf", "similarity")
    (case,) = result["cases"]
    assert case["id"] is None
    assert case["unit"] == "similarity"
    assert [turn["speaker"] for turn in case["context"]] == ["partner", "self", "partner"]
    assert case["candidates"] == 3
    first, second = case["shown"]
    assert first["text"] == "yes, my two dogs sleep all day"
    assert [effect["line"] for effect in first["effects"]] == CONTENTS["persona"].splitlines()
    assert first["effects"][0]["change"] < -0.05
    assert (first["true_reply"], first["attention"], first["log_share"]) == (None, [], None)
    assert second["rank"] == 2
    shown = said(tmp_path / "out" / "explanation-1.svg")
    assert {"yes, my two dogs sleep all day", "I have two dogs.", "(a) what each persona line does"} <= set(shown)
    assert f"{first['effects'][0]['change']:+.3f}" in shown
    assert f"tfidf, rank 1 of 3; similarity {first['score']:.3f}" in shown


@pytest.mark.parametrize(
    ("changes", "ticks"),
    [
        ((-0.146, 0.02), ["-0.2", "-0.1", "0", "+0.1", "+0.2"]),
        ((3.0, -10.0), ["-10", "-5", "0", "+5", "+10"]),
        ((0.0001, None), ["-0.01", "-0.005", "0", "+0.005", "+0.01"]),
    ],
)
def test_bars_are_as_long_as_their_axis_says(changes: Sequence[float | None], ticks: list[str], tmp_path: Path) -> None:
    effects = tuple(Effect("self", f"line {place}", change) for place, change in enumerate(changes))
    figure = picture.draw(Explained("yes", 1.0, 0, 1, None, effects), (), unit="similarity", about="tfidf")
    (axes,) = figure.axes
    found = {text.get_text(): text.get_position()[0] for text in axes.texts}
    assert [text for text in found if text in ticks] == ticks
    unit = (found[ticks[-1]] - found["0"]) / float(ticks[-1])
    assert unit > 0
    for tick in ticks:
        assert found[tick] == pytest.approx(found["0"] + float(tick) * unit)
    widths = [bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)]
    assert widths == pytest.approx([(change or 0.0) * unit for change in changes])


@pytest.mark.parametrize(
    ("model", "sizes", "encoders", "read"),
    [("bert.BERT", {"longest": 32}, ["backbone"], 3), ("p5.P5", {"top": 1}, ["backbone", "sentence_encoder"], 1)],
)
def test_a_line_that_is_left_out_is_said_not_to_be_read(
    model: str,
    sizes: dict[str, int],
    encoders: list[str],
    read: int,
    capsys: pytest.CaptureFixture[str],
    files: list[str],
    tmp_path: Path,
    backbone: str,
) -> None:
    """BERT has no room for the last of them, P5 reads the one that is most like a reply."""
    lines = ["a cat sings", "a dog sleeps near the river", "a bird swims" * 9, "my brothers like dog and cat"]
    (tmp_path / "persona.txt").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "candidates.txt").write_text(lines[0], encoding="utf-8")
    made = {
        "class_path": f"personae.models.selection.{model}",
        "init_args": {**sizes, **dict.fromkeys(encoders, backbone)},
    }
    task = {"class_path": "personae.tasks.selection.Selection", "init_args": {"model": made}}
    recipe = tmp_path / "run" / "recipe.yaml"
    recipe.parent.mkdir()
    recipe.write_text(yaml.safe_dump({"task": task, "seed": 0}))
    run.save(run.build(str(recipe)), recipe.parent)
    given = (str(recipe.parent), *files, "--out", str(tmp_path / "out"))
    (one,) = explained(capsys, *given)["cases"][0]["shown"]
    assert [effect["line"] for effect in one["effects"]] == lines
    assert [effect["change"] is not None for effect in one["effects"]] == [place < read for place in range(4)]
    assert said(tmp_path / "out" / one["picture"]).count("not read") == 4 - read
    assert main(["explain", *given]) == 0
    assert capsys.readouterr().out.count("not read") == 4 - read


def test_the_picture_holds_the_words_and_who_said_them(
    capsys: pytest.CaptureFixture[str], files: list[str], tmp_path: Path, trained: str
) -> None:
    partner = ["--partner", str(tmp_path / "persona.txt")]
    (case,) = explained(capsys, trained, *files, *partner, "--out", str(tmp_path / "out"))["cases"]
    (one,) = case["shown"]
    assert case["unit"] == "log share"
    assert [part["to"] for part in one["attention"]] == ["context", "self", "partner"]
    for part in one["attention"]:
        assert len(part["weights"]) == len(part["words"])
        for row in part["weights"]:
            assert len(row) == sum(map(len, part["sentences"]))
            assert sum(row) == pytest.approx(1, abs=1e-5)
    shown = said(tmp_path / "out" / one["picture"])
    for letter, title in zip(
        "abcd",
        [
            "attention of the reply's words to the context",
            "attention of the reply's words to the persona of the replier",
            "attention of the reply's words to the persona of the partner",
            "what each persona line does",
        ],
        strict=True,
    ):
        assert f"({letter}) {title}" in shown
    assert [text for text in shown if text in ("partner", "replier")] == ["partner", "replier", "partner"]
    written = [word for part in one["attention"] for sentence in part["sentences"] for word in sentence]
    written += [word for part in one["attention"] for word in part["words"]]
    assert all(shown.count(word) >= written.count(word) for word in written)
    assert "change of the log share without it" in shown


def test_cases_of_a_corpus_are_explained_and_the_true_reply_marked(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, trained: str, corpus: Path
) -> None:
    chosen = [case for case in cases(corpus) if len(case.context.turns) > 2][:2]
    named = [part for case in chosen for part in ("--case", case.id)]
    for model in (trained, "tfidf"):
        out = tmp_path / Path(model).name
        evaluation = tmp_path / f"evaluation-{out.name}"
        assert main(["evaluate", model, "--data", str(corpus), "--out", str(evaluation)]) == 0
        capsys.readouterr()
        predictions = (evaluation / "predictions.jsonl").read_text().splitlines()
        scores = {row["id"]: row["scores"] for row in map(json.loads, predictions)}
        result = explained(capsys, model, "--data", str(corpus), *named, "--top", "2", "--out", str(out))
        assert [case["id"] for case in result["cases"]] == [case.id for case in chosen]
        for told, case in zip(result["cases"], chosen, strict=True):
            assert [turn["text"] for turn in told["context"]] == [turn.text for turn in case.context.turns]
            assert [one["text"] for one in told["shown"] if one["true_reply"]] == [case.target.text]
            assert [one["rank"] for one in told["shown"]][:2] == [1, 2]
            for one in told["shown"]:
                assert case.target.candidates[one["index"]] == one["text"]
                assert one["score"] == pytest.approx(scores[case.id][one["index"]], abs=1e-5)
                of_model = f"{Path(model).name}, {case.id}: rank {one['rank']} of "
                about = next(text for text in said(out / one["picture"]) if text.startswith(of_model))
                assert ("not the true reply" in about) == (not one["true_reply"])


def test_a_later_explanation_takes_the_place_of_an_earlier_one(
    capsys: pytest.CaptureFixture[str], files: list[str], tmp_path: Path
) -> None:
    out = str(tmp_path / "out")
    assert len(explained(capsys, "tfidf", *files, "--top", "3", "--out", out)["cases"][0]["shown"]) == 3
    before = (tmp_path / "out" / "explanation-1.svg").read_bytes()
    assert len(explained(capsys, "tfidf", *files, "--out", out)["cases"][0]["shown"]) == 1
    assert (tmp_path / "out" / "explanation-1.svg").read_bytes() == before


def test_a_table_is_printed(capsys: pytest.CaptureFixture[str], files: list[str], tmp_path: Path, trained: str) -> None:
    assert main(["explain", trained, *files, "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "log share without it" in out
    assert re.search(r"replier +│ I have two dogs\. +│ +[+-]\d\.\d{3}", out)
    assert "rank 1 of 3; logit" in out
    assert str(tmp_path / "out") in out


@pytest.mark.parametrize("model", ["tfidf", "trained"])
def test_unusual_texts_are_explained(
    model: str, capsys: pytest.CaptureFixture[str], files: list[str], tmp_path: Path, trained: str
) -> None:
    model = {"trained": trained}.get(model, model)
    rough = ["a\x07bell\x1b[31m", "我喜欢猫 🦜 مرحبا", "$x$ & <b> \ufffe", "word " * 5000]
    for name in CONTENTS:
        (tmp_path / f"{name}.txt").write_text("\n".join(rough), encoding="utf-8")
    (case,) = explained(capsys, model, *files, "--top", "9", "--out", str(tmp_path / "out"))["cases"]
    assert len(case["shown"]) == 4
    for one in case["shown"]:
        shown = said(tmp_path / "out" / one["picture"])
        assert r"a\x07bell\x1b[31m" in shown
        assert "我喜欢猫 🦜 مرحبا" in shown


@pytest.mark.parametrize("model", ["tfidf", "trained"])
@pytest.mark.parametrize("blank", [["persona"], ["context"], ["persona", "context"]])
def test_persona_and_context_may_be_blank(
    model: str,
    blank: Sequence[str],
    capsys: pytest.CaptureFixture[str],
    files: list[str],
    tmp_path: Path,
    trained: str,
) -> None:
    for name in blank:
        (tmp_path / f"{name}.txt").write_text("\n")
    given = ({"trained": trained}.get(model, model), *files, "--out", str(tmp_path / "out"))
    (one,) = explained(capsys, *given)["cases"][0]["shown"]
    assert len(one["effects"]) == (0 if "persona" in blank else 2)
    looks = [to for to, name in (("context", "context"), ("self", "persona")) if name not in blank]
    assert [part["to"] for part in one["attention"]] == ([] if model == "tfidf" else looks)
    assert main(["explain", *given]) == 0


def test_what_is_wrong_is_named(
    capsys: pytest.CaptureFixture[str], files: list[str], tmp_path: Path, corpus: Path
) -> None:
    out = ["--out", str(tmp_path / "out")]
    data = ["--data", str(corpus)]
    first, second, third, *_ = (case.id for case in cases(corpus))
    assert "its own; give files of text, or --data and --case" in refused(capsys, "tfidf", *files, *data, *out)
    assert "--persona: a case of a corpus" in refused(capsys, "tfidf", *files, "--case", first, *out)
    assert "--data, --case: one needs the other" in refused(capsys, "tfidf", *data, *out)
    assert "--data, --case: one needs the other" in refused(capsys, "tfidf", "--case", first, *out)
    assert "--context, --candidates: give a file" in refused(capsys, "tfidf", *files[:2], *out)
    assert "--persona, --context, --candidates: give" in refused(capsys, "tfidf", *out)
    message = refused(capsys, "tfidf", *data, "--case", first, "--case", "nosuch#1", *out)
    assert "--case nosuch#1: is none of the" in message
    assert f"they are {first}, {second}, {third} and so on" in message
    assert "top: 0 is not at least 1" in refused(capsys, "tfidf", *files, "--top", "0", *out)
    assert "nosuch.jsonl: there is nothing at" in refused(
        capsys, "tfidf", "--data", "nosuch.jsonl", "--case", "a", *out
    )
    assert "no such model" in refused(capsys, "nosuch", *files, *out)
    assert not (tmp_path / "out").exists()
    assert "is a file; name a folder" in refused(capsys, "tfidf", *files, "--out", str(corpus))
    (tmp_path / "candidates.txt").write_text("\n")
    assert "candidates.txt: holds no reply" in refused(capsys, "tfidf", *files, *out)


def test_no_picture_is_left_half(
    files: list[str], tmp_path: Path, full_disk: Callable[[int], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with full_disk(2000):
        assert "cannot be written" in refused(capsys, "tfidf", *files, "--out", str(tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


def test_the_command_takes_what_the_module_gives(tmp_path: Path) -> None:
    """From Python, too."""
    given = {name: text.splitlines() for name, text in CONTENTS.items()}
    result = explanation.write("tfidf", given, out=tmp_path / "out", top=3)
    assert [one["rank"] for one in result["cases"][0]["shown"]] == [1, 2, 3]
