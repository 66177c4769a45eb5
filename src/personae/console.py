"""What commands print: tables and JSON on standard output, with control characters made visible, and progress."""

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.pretty import pretty_repr
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from personae.types import Ranked

TESTS = {"mcnemar": "McNemar", "wilcoxon": "Wilcoxon", "t_test": "t"}


def plain(text: str) -> str:
    """A text without what would steer a terminal: control characters but line feeds, and halves of surrogate pairs, are
    written as escapes."""
    return re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", lambda found: ascii(found[0])[1:-1], text)


def counted(count: int, what: str) -> str:
    """So many of something."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "", right: Sequence[str] = ()) -> None:
    """Prints a table; nothing in its texts is read as markup. `right` are the columns that are aligned there."""
    made = Table(title=Text(plain(title)) if title else None)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left")
    for row in rows:
        made.add_row(*(Text(plain(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else 160).print(made)


def metrics(result: dict[str, Any]) -> None:
    """Prints what an evaluation measured."""
    data = result["data"]
    measured = f"{result['model']} on {data['path'] or data['split']}"
    title = ", ".join([measured, *_drawn(data["candidates"]), f"persona {result['persona']}"])
    rows = [(name, f"{row['value']:.4f}", _interval(row), str(row["n"])) for name, row in result["metrics"].items()]
    table(("metric", "value", "95 % interval", "examples"), rows, title=title)
    if real := result.get("real"):
        print("of the real replies:", ", ".join(f"{name} {_valued(row)}" for name, row in real.items()))
    if chance := result.get("chance"):
        print("by chance:", ", ".join(f"{name} {value:.4f}" for name, value in chance.items()))
    if calibration := result.get("calibration"):
        cases = sum(part["count"] for part in calibration["bins"])
        of = f"of {cases} cases, half of them without a right answer"
        print(f"expected calibration error {calibration['ece']:.4f}, {of}")
    if paper := result.get("published"):
        print(f"published: {paper['row']}, {paper['column']} {paper['value']} on {paper['dataset']}")


def ranking(ranked: Sequence[Ranked], scale: str, *, facts: bool) -> None:
    """Prints candidates, best first, with what they have of scores, probabilities and, where asked for, `facts`."""
    likely = bool(ranked) and ranked[0].probability is not None
    columns = (
        "rank",
        scale,
        *(["probability"] if likely else []),
        "reply",
        *(["persona moved it", "weighed most"] if facts else []),
    )
    rows = [
        (
            str(place),
            f"{one.score:.3f}",
            *([f"{one.probability:.3f}"] if one.probability is not None else []),
            one.text,
            *([f"{one.moved or 0.0:+.2f}", one.fact or "-"] if facts else []),
        )
        for place, one in enumerate(ranked, 1)
    ]
    table(columns, rows)


def comparison(result: dict[str, Any], what: str) -> None:
    """Prints how two results compare."""
    rows = []
    for name, row in result["metrics"].items():
        name_of_test = next(test for test in TESTS if test in row)
        test = row[name_of_test]["p"]
        difference = row["difference"]
        cells = (
            name,
            f"{row['a']['value']:.4f}",
            f"{row['b']['value']:.4f}",
            f"{difference['value']:+.4f} {_interval(difference)}",
            "-" if difference["p"] is None else f"{difference['p']:.4f}",
            "-"
            if test is None
            else f"{test:.2g} ({TESTS[name_of_test]})"
            if test
            else f"< 1e-300 ({TESTS[name_of_test]})",
        )
        rows.append(cells)
    columns = ("metric", "A", "B", "A - B [95 %]", "p, bootstrap", "p, test")
    whose = "user" if "users" in result else "dialogue"
    groups = counted(result[f"{whose}s"], whose)
    title = ", ".join([what, f"{counted(result['n'], 'example')} of {groups}", *_drawn(result["candidates"])])
    table(columns, rows, title=title, right=columns[1:])
    for side, of in result["of"].items():
        print(f"{side.upper()}: persona {of['persona']}, {plain(of['path'] or of['split'] or 'no file')}")


def reproduction(result: dict[str, Any]) -> None:
    """Prints the numbers of a paper's table that there are ours of, and why there are no others."""
    made = [row for row in result["rows"] if "why" not in row]
    rows = [
        (
            row["system"],
            row["column"],
            "-" if row["published"] is None else str(row["published"]),
            f"{row['ours']:.{row.get('places', 1)}f}",
            _interval(row, places=row.get("places", 1)),
            str(row["n"]),
        )
        for row in made
    ]
    table(("system", "column", "paper", "here", "95 % interval", "n"), rows, right=("paper", "here", "n"))
    for why, count in Counter(row["why"] for row in result["rows"] if "why" in row).items():
        print(f"{count} not run: {why}")


def per_hits(result: dict[str, Any]) -> None:
    """Prints Per-Hits@k of responses beside chance and, where there is one, the ceiling."""
    real = result["real"]
    rows = [
        (name, _valued(row), f"{result['chance'][name]:.4f}", *([_valued(real[name])] if real else []))
        for name, row in result["metrics"].items()
    ]
    columns = ("metric", "responses [95 %]", "chance", *(["ceiling [95 %]"] if real else []))
    counts = f"{counted(result['n'], 'response')}, {counted(result['users'], 'user')}, scorer {result['scorer']}"
    table(columns, rows, title=f"{result['responses']}: {counts}", right=columns[1:])
    print("ceiling:", result["ceiling"])
    for what, count in result["remarks"].items():
        print(f"{count} {what}")


def cold(result: dict[str, Any]) -> None:
    """Prints how well a model writes as new users, by how many of their messages it knows."""
    steps, real, chance = result["curve"], result["real"], result["chance"]
    starts = ("per-hits@1/", "per-hits-avg/", "perplexity/")
    names = [name for name in sorted(steps[0]["metrics"]) if name.startswith(starts)]
    rows = [
        (str(step["messages"]), *(_valued(step["metrics"][name]) for name in names), f"{step['seconds']:.2f}")
        for step in steps
    ]
    rows += [("real replies", *(_valued(real[name]) if name in real else "-" for name in names), "-")]
    rows += [("chance", *(f"{chance[name]:.4f}" if name in chance else "-" for name in names), "-")]
    columns = ("messages", *(f"{name} [95 %]" for name in names), "seconds a user")
    title = f"{result['model']}: {result['n']} replies as {result['users']} new users"
    table(columns, rows, title=title, right=columns)


def models(found: Sequence[dict[str, Any]]) -> None:
    """Prints the models: what each does, its paper, and its recipes with what these reached. Lines are as long as they
    must be, so that a terminal breaks them, and a name can be copied."""
    for model in found:
        needs = {} if model["trained"] else {model["name"]: "needs no training"}
        print(f"{model['name']}\n  {model['summary']}\n  {model['paper']}")
        if model["shipped"]:
            print(f"    {model['name'].replace('_', '-')}, comes with its weights")
        for name in needs or model["recipes"]:
            about = model["results"].get(name)
            reached = [] if about is None else [_reached(about)]
            print("   ", ", ".join([name, *filter(None, [needs.get(name)]), *reached]))
        print()


def _reached(about: dict[str, Any]) -> str:
    row = about["metrics"]["hits@1/20"]
    return f"hits@1/20 {row['value']:.3f} {_interval(row, places=3)} on {about['data']['path']}, n {row['n']:,}"


def facts(content: Any) -> None:
    """Prints nested facts, one a line."""
    print(pretty_repr(content, expand_all=True))


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, where that is a terminal; of a `total` that may not be known."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        place = bar.add_task(what, total=total)
        yield lambda done: bar.advance(place, done)


def as_json(content: Any) -> None:
    """Prints one JSON object on one line; in ASCII where standard output cannot hold more."""
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(re.sub("[\ud800-\udfff]", lambda half: ascii(half[0])[1:-1], json.dumps(content, ensure_ascii=not unicode)))


def _drawn(draw: dict[str, str] | None) -> list[str]:
    return [f"candidates {draw['name']} ({draw['sha256'][:12]})"] if draw else []


def _valued(row: dict[str, Any]) -> str:
    return f"{row['value']:.4f} {_interval(row)}"


def _interval(row: dict[str, Any], *, places: int = 4) -> str:
    return "-" if row["low"] is None else f"[{row['low']:.{places}f}, {row['high']:.{places}f}]"
