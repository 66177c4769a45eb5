"""The pages: commands parse, links resolve, recipes fit, examples are read, Python compiles."""

import json
import os
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from personae import options, recipes, run
from personae.cli import ABOUT, COMMANDS
from personae.data.candidates import examples, offered
from personae.data.read import form, read
from personae.published import records

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]
SHIPPED = {*recipes.shipped(), "selection/average-toy"}  # the last is the one that CONTRIBUTING writes


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, text) of every fenced block in a language."""
    fence = re.compile(rf"^```{language}\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    return [(page.name, text) for page in PAGES for text in fence.findall(page.read_text(encoding="utf-8"))]


def prose() -> Iterator[tuple[Path, str]]:
    """Every page without its fenced blocks."""
    for page in PAGES:
        yield page, re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    """The arguments of every `personae` command line, of the blocks and of the prose; bare names of commands and lines
    with "..." are not command lines."""
    lines = [line for _, text in blocks("sh") for line in text.replace("\\\n", " ").splitlines()]
    lines += [span for _, text in prose() for span in re.findall(r"`([^`]+)`", text)]
    given = [re.fullmatch(r"(?:\.venv/bin/)?personae (.+)", line) for line in lines]
    split = [shlex.split(line[1].partition(" > ")[0], comments=True) for line in given if line and "..." not in line[1]]
    return [arguments for arguments in split if not named(arguments)]


def named(arguments: list[str]) -> bool:
    """Whether the arguments are the name of a command or of a group, and nothing more."""
    command: Any = COMMANDS
    for name in arguments:
        if not isinstance(command, dict) or name not in command:
            return False
        command = command[name]
    return True


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_pages() -> None:
    assert [page.relative_to(ROOT).as_posix() for page in PAGES] == [
        *("CHANGELOG.md", "CONTRIBUTING.md", "README.md"),
        *("docs/data.md", "docs/explain.md", "docs/generate.md", "docs/index.md", "docs/metrics.md"),
        *("docs/models.md", "docs/recipes.md", "docs/reproduce.md", "docs/reranker.md", "docs/results.md"),
        *("docs/tutorial.md",),
        "benchmarks/README.md",
    ]


def test_commands_are_found() -> None:
    found = commands()
    assert len(found) >= 25
    assert {arguments[0] for arguments in found} >= {"data", "fit", "evaluate", "compare", "rank"}
    assert ["data", "show", "FILE", "-n", "2"] in found  # of the prose


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_a_command_parses(arguments: list[str]) -> None:
    known, changes = options.split(arguments)
    if "--help" in known:
        with pytest.raises(SystemExit) as ended:
            options.parser(COMMANDS, ABOUT).parse_args(known)
        assert ended.value.code == 0
    else:
        options.parser(COMMANDS, ABOUT).parse_args(known)
    config = next((after for option, after in pairwise(known) if option == "--config"), None)
    assert config is None or config in SHIPPED or config.endswith(".yaml")
    if config in recipes.shipped():
        run._settings(run._parser(), config, changes)


def test_recipes_fit_their_signatures(tmp_path: Path) -> None:
    inline = [text for _, text in blocks("sh") for text in re.findall(r"\.yaml <<'END'\n(.*?)^END$", text, re.S | re.M)]
    shown = [text for _, text in blocks("yaml")] + inline
    assert len(shown) == 3
    for text in shown:
        path = tmp_path / "recipe.yaml"
        path.write_text(text.replace("selection.average.Average", "selection.hre.HRE"), encoding="utf-8")
        settings = run._settings(run._parser(), str(path), {})
        assert settings.task.init_args.model.init_args.hidden


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 4])
def test_the_model_of_the_tutorial_learns_with_any_seed(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (data,) = (text for page, text in blocks("python") if page == "tutorial.md" and "jsonl.write" in text)
    exec(compile(data, "tutorial.md", "exec"), {})
    (recipe,) = (
        re.search(r"> mine\.yaml <<'END'\n(.*?)^END$", text, re.S | re.M)
        for _, text in blocks("sh")
        if "> mine.yaml <<'END'" in text
    )
    assert recipe is not None
    Path("mine.yaml").write_text(recipe[1], encoding="utf-8")
    result = run.train("mine.yaml", {"seed": str(seed)}, out=Path("mine"))
    assert result["n"] == 2133
    assert result["metrics"]["hits@1/20"]["value"] > 0.95


def test_the_results_are_those_recorded() -> None:
    """Each line of the table of trained systems is a record's: hits@1 with its interval, MRR, processor seconds."""
    recorded = set()
    for file in records().glob("*/environment.json"):
        spent = json.loads(file.read_text(encoding="utf-8"))["cpu_seconds"]
        metrics = json.loads((file.parent / "metrics.json").read_text(encoding="utf-8"))["metrics"]
        if (file.parent / "replies.parquet").exists():  # of a system that writes
            continue
        hits, mrr = metrics["hits@1/20"], metrics["mrr/20"]["value"]
        value, low, high = (f"{hits[key]:.3f}".lstrip("0") for key in ("value", "low", "high"))
        recorded.add((f"{value} [{low}, {high}]", f"{mrr:.3f}".lstrip("0"), f"{spent:,.0f}"))
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    (table,) = re.findall(
        r"^\| system \| persona \| hits@1/20 \| MRR/20 \| CPU s .+\n((?:\|.+\n)+)", page, re.MULTILINE
    )
    lines = [[cell.strip() for cell in line.split("|")[3:6]] for line in table.splitlines()[1:]]
    told = [tuple(cells) for cells in lines if cells[1]]
    assert len(told) == 57
    for cells in told:
        assert cells in recorded, cells


def test_the_results_of_systems_that_write_are_those_recorded() -> None:
    """Each line is a record's: Per-Hits@1 and the average with its interval, Distinct-2, perplexity, processor
    seconds; with personas BLEU with its interval, Distinct-1 and -2, length, perplexity, processor seconds."""
    recorded, with_personas = set(), set()
    for file in records().glob("*/replies.parquet"):
        spent = json.loads((file.parent / "environment.json").read_text(encoding="utf-8"))["cpu_seconds"]
        metrics = json.loads((file.parent / "metrics.json").read_text(encoding="utf-8"))["metrics"]
        at = {name.partition("/")[0]: row for name, row in metrics.items() if not name.endswith("/reply")}
        if "per-hits-avg" not in at:
            bleu = tuple(100 * metrics["bleu-4/corpus"][key] for key in ("value", "low", "high"))
            shares = (100 * metrics[f"distinct-{n}/reply"]["value"] for n in (1, 2))
            others = (at["length"]["value"], at["perplexity"]["value"])
            numbers = (f"{number:.1f}" for number in (*shares, *others))
            with_personas.add((f"{bleu[0]:.2f} [{bleu[1]:.2f}, {bleu[2]:.2f}]", *numbers, f"{spent:,.0f}"))
            continue
        value, low, high = (f"{at['per-hits-avg'][key]:.3f}".lstrip("0") for key in ("value", "low", "high"))
        first, distinct = (f"{at[name]['value']:.3f}".lstrip("0") for name in ("per-hits@1", "distinct-2"))
        recorded.add((first, f"{value} [{low}, {high}]", distinct, f"{at['perplexity']['value']:.0f}", f"{spent:,.0f}"))
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| system \| Per-Hits@1/150 .+\n((?:\|.+\n)+)", page, re.MULTILINE)
    told = [tuple(cell.strip() for cell in line.split("|")[2:7]) for line in table.splitlines()[1:]]
    runs = [cells for cells in told if cells[-1]]
    assert len(runs) == 13
    assert set(runs) <= recorded
    (table,) = re.findall(r"^\| persona \| BLEU-4, % .+\n((?:\|.+\n)+)", page, re.MULTILINE)
    lines = [tuple(cell.strip() for cell in line.split("|")[2:8]) for line in table.splitlines()[1:]]
    assert len(lines) == 3
    assert set(lines) == with_personas


def test_links_resolve() -> None:
    links = [(page, link) for page, text in prose() for link in re.findall(r"\]\(([^)]+)\)", text)]
    relative = [(page, link) for page, link in links if not link.startswith("https://")]
    assert len(relative) >= 35
    for page, link in relative:
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), f"{page.name}: {link}"


def test_python_compiles() -> None:
    found = blocks("python")
    assert len(found) == 10
    for page, text in found:
        compile(text, page, "exec")


def test_every_form_is_read_as_shown(tmp_path: Path) -> None:
    shown = [(kind, text) for kind in ("jsonl", "parlai", "json", "csv") for _, text in blocks(kind)]
    expected = ["jsonl", "synthetic-persona-chat", "parlai", "huggingface", "", "synthetic-persona-chat"]
    assert len(shown) == len(expected)
    for (kind, text), name in zip(shown, expected, strict=True):
        if not name:  # a draw, which is no corpus
            continue
        path = tmp_path / ("corpus.txt" if kind == "parlai" else f"corpus.{kind}")
        path.write_text(text.replace("<tab>", "\t"), encoding="utf-8")
        assert form(path) == name
        dialogues = read(f"{path}:valid" if kind == "json" else path)
        assert any("iano" in fact for d in dialogues for speaker in d.speakers for fact in speaker.persona.facts)
        if name != "synthetic-persona-chat":
            assert offered(dialogues)[1].name == "official"
            assert len(examples(dialogues)) == {"jsonl": 2, "parlai": 2, "huggingface": 1}[name]


def test_no_example_is_a_corpus_sentence() -> None:
    path = Path(os.environ.get("PERSONAE_DATA", ""), "personachat", "valid_both_original.txt")
    if not path.is_file():
        pytest.skip("PERSONAE_DATA has no personachat/valid_both_original.txt")
    spoken = {re.sub(r"\W+", "", part) for part in re.split(r"[\t|\n]|persona:", path.read_text(encoding="utf-8"))}
    assert len(spoken) > 10_000
    texts = [text for kind in ("text", "sh", "jsonl", "parlai", "json", "csv", "python") for _, text in blocks(kind)]
    sentences = {part.strip(" '") for text in texts for part in re.split(r"[\n\"|┃│]|<tab>|persona:|' '", text)}
    keys = {sentence: re.sub(r"\W+", "", sentence.lower()) for sentence in sentences if len(sentence.split()) > 4}
    assert len(keys) > 50
    assert [sentence for sentence, key in keys.items() if key in spoken] == []
