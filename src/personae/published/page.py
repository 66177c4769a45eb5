"""How a table that was made again is shown: a page for someone who has not read the paper, and a picture."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from personae.published.plans import SPEED, UNITS, Plan

Rows = dict[str, dict[str, dict[str, dict[str, Any]]]]
"""By column without its metric, by system, by metric."""


_MEASURED = """In brackets are 95 % intervals: where the number would lie for other dialogues like these. *n* is the
number of replies; *trained on* says how the personas are worded, and how many times training went through how many
replies (0.5 ×: through half of them, once); *candidates*, where the 20 replies to choose from come from, and a digest
of them; *CPU s* are the processor seconds of training, *stopped*: a bound of time ended it before its recipe did, so
that the number would be another with more time; *a guess*: what is not above who guesses has learnt nothing."""

_SHARED = """*(shared)*: context and persona are read once for all candidates of a case, which then attend to them; the
paper's system reads them anew with each candidate, which takes longer."""

_TIMED = """In brackets are 95 % intervals, over batches. *n* is the number of cases that were timed, *batch* how many
are scored at once. A machine that is busy with other things gives lower numbers."""


def markdown(plan: Plan, content: dict[str, Any]) -> str:
    """The page. `content` is what `personae.reproduce` found: rows in the order of the plan's cells, and claims."""
    reasons = list(dict.fromkeys(row["why"] for row in content["rows"] if "why" in row))
    timed = any(cell.metric == SPEED for cell in plan.cells)
    parts = [
        f"# {plan.name}: {plan.title}",
        f"A table of: {plan.paper}. The first number of each pair is the paper's, the second was measured here.",
        "## What it asks",
        plan.asks,
        plan.words,
        "## What is compared with what",
        plan.stands_in,
        "" if timed else content["budget"]["effort"],
        plan.remarks,
        "![The paper's numbers and ours](table.svg)",
        "## The numbers",
        _TIMED if timed else _MEASURED,
        _SHARED if any(row.get("shared") for row in content["rows"]) else "",
        *(
            f"{f'### {_column(plan, group)}' if group else ''}\n\n{_table(plan, systems, reasons)}"
            for group, systems in _arranged(plan, content["rows"]).items()
        ),
        "\n".join(f"- {_mark(place)} not run: {reason}" for place, reason in enumerate(reasons)),
        _claims(plan, content["claims"]),
        f"## How this page was made\n\n```sh\n{content['command']}\n```",
        _making(content),
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip())


def _arranged(plan: Plan, rows: Sequence[dict[str, Any]]) -> Rows:
    arranged: Rows = {}
    for cell, row in zip(plan.cells, rows, strict=True):
        arranged.setdefault(cell.group, {}).setdefault(cell.system, {})[cell.metric] = row
    return arranged


def _table(plan: Plan, systems: dict[str, dict[str, dict[str, Any]]], reasons: list[str]) -> str:
    """One column group; what a number came about by stands on its line."""
    metrics = list(next(iter(systems.values())))
    training = ("trained on", "measured on", "candidates", "CPU s")
    about = ["n", "persona", "budget", *(("batch",) if SPEED in metrics else training)]
    names = [name for metric in metrics for name in (f"{_shown(metric)}, paper", f"{_shown(metric)}, here [95 %]")]
    lines = []
    for system, numbers in systems.items():
        cells = [cell for row in numbers.values() for cell in (_number(row["published"]), _ours(row, reasons))]
        row = next(iter(numbers.values()))
        made = [_about(row)[name] if "why" not in row else "" for name in about]
        lines.append((f"{system} (shared)" if row.get("shared") else system, *cells, *made))
    return grid((plan.rows_are, *names, *about), lines)


def _about(row: dict[str, Any]) -> dict[str, str]:
    draw = row["measured"]["candidates"]
    trained = f"{row['wording']}, {row['epochs']:g} × {row['replies']:,} replies" if "replies" in row else "nothing"
    return {
        "n": f"{row['n']:,}",
        "batch": str(row["batch"]),
        "persona": row["persona"],
        "budget": row["budget"],
        "trained on": trained,
        "measured on": Path(row["measured"]["path"]).name,
        "candidates": f"{draw['name']} `{draw['sha256'][:12]}`" if draw else "",
        "CPU s": f"{row['cpu_seconds']:,.0f}{', stopped' if row['stopped'] else ''}" if "replies" in row else "",
    }


def _ours(row: dict[str, Any], reasons: list[str]) -> str:
    if "why" in row:
        return _mark(reasons.index(row["why"]))
    return f"**{row['ours']:.1f}**{_bounds(row)}{', a guess' if row['guessed'] else ''}"


def _claims(plan: Plan, claims: Sequence[dict[str, Any]]) -> str:
    if not claims:
        return ""
    named = [f"{_row(plan, claim['better'])} over {_row(plan, claim['worse'])}" for claim in claims]
    lines = [
        (
            claim["column"],
            name,
            f"{claim['published']:+.1f}",
            f"{claim['ours']:+.1f}{_bounds(claim)}",
            f"{claim['found']}{', over a guess' if claim['guessed'] and claim['found'] == 'yes' else ''}",
            f"{p_value(claim['p'])} ({claim['test']})",
            " and ".join("none" if spent is None else f"{spent:,.0f}" for spent in claim["cpu_seconds"]),
        )
        for claim, name in zip(claims, named, strict=True)
        if "why" not in claim
    ]
    absent: dict[str, list[str]] = {}
    for claim, name in zip(claims, named, strict=True):
        if "why" in claim:
            absent.setdefault(name, []).append(claim["column"])
    unseen = "\n".join(f"- {name}{_within(places)}" for name, places in absent.items())
    columns = ("column", "ordering", "lead, paper", "lead, here [95 %]", "found here", "p", "CPU s")
    parts = [
        "## What the paper finds in it, and what is found here",
        f"""Each line is an ordering that the paper sees, and the lead of the first over the second. *Yes*: ours lead
too, and the interval leaves 0 out, as it would once in forty times without any difference; *not shown*: 0 is within
it; *no, the reverse*: the second leads, and 0 is out. Orderings looked at: {len(lines)}. *p* is of a test as papers
print it, which takes replies of one dialogue as independent, so that it is somewhat too small. Neither says how the
same systems would do with other seeds. *CPU s*: the processor seconds of their training.

{grid(columns, lines)}"""
        if lines
        else "",
        f"Not looked at, since one of the two was not run:\n\n{unseen}" if unseen else "",
    ]
    return "\n\n".join(filter(None, parts))


def _within(columns: Sequence[str]) -> str:
    return f", in {', '.join(columns)}"


def _row(plan: Plan, name: str) -> str:
    """What a row is called where it stands alone."""
    return name if plan.rows_are == "system" else f"{plan.rows_are} {name}"


def _column(plan: Plan, group: str) -> str:
    """What a column group is called where it stands alone."""
    return f"{plan.columns_are} {group}".strip()


def _making(content: dict[str, Any]) -> str:
    budget, rows = content["budget"], [row for row in content["rows"] if "why" not in row]
    trained = [row for row in rows if "replies" in row]
    files = {row["wording"]: ", ".join(f"`{file}`" for file in row["trained"]) for row in trained}
    seeds = sorted({row["seed"] for row in trained})
    runs = list(dict.fromkeys(row["run"] for row in trained))
    bounds = {row["run"]: row["bound"] for row in trained if row["bound"]}
    stopped = list(dict.fromkeys(row["run"] for row in trained if row["stopped"]))
    longer = {row["run"]: row["cpu_seconds"] for row in trained if row["budget"] != budget["name"]}
    said = [f"- Budget `{budget['name']}`: {budget['about']}."]
    if runs:
        said.append(f"- Runs: {_code(runs)}, each for the steps or epochs of its recipe, unless a bound ended it.")
        for bound in dict.fromkeys(bounds.values()):
            under = [run for run in bounds if bounds[run] == bound]
            said.append(f"- Bound of {bound} (days, hours, minutes, seconds): {_code(under)}.")
        said.append(f"- Ended by a bound: {_code(stopped) or 'none'}.")
        said += [f"- `{run}` was trained by hand, {spent:,.0f} processor seconds." for run, spent in longer.items()]
        said.append(
            f"- Seeds: {', '.join(map(str, seeds))}; one run a number. An interval tells of other dialogues only."
        )
    said += [f"- Trained on, with {wording} personas: {named}." for wording, named in files.items()]
    for one in {str(row["environment"]): row["environment"] for row in rows}.values():
        said.append("- Made with " + ", ".join(f"{name} {value}" for name, value in one.items()) + ".")
    return "\n".join(said)


def picture(plan: Plan, content: dict[str, Any]) -> bytes:
    """An SVG: a panel a column, a line a system, the paper's numbers hollow and ours filled, with their intervals."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    arranged = _arranged(plan, content["rows"])
    systems = list(dict.fromkeys(cell.system for cell in plan.cells))
    metrics = list(dict.fromkeys(cell.metric for cell in plan.cells))
    size = (2.4 + 2.6 * len(arranged), 0.9 + len(metrics) * (0.7 + 0.26 * len(systems)))
    with mpl.rc_context({"svg.hashsalt": plan.name, "font.size": 9}):
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(len(metrics), len(arranged), sharex="row", sharey=True, squeeze=False)
        for metric, line in zip(metrics, panels, strict=True):
            for (group, rows), panel in zip(arranged.items(), line, strict=True):
                where = "on its graphics card" if metric == SPEED else "on its data"
                draw_panel(panel, [rows[system][metric] for system in systems], f"the paper, {where}")
                panel.set_title(_column(plan, group), fontsize=9)
                panel.set_xlabel(f"{_shown(metric)}, %" if UNITS[metric] == "%" else metric)
                panel.set_yticks(range(len(systems)), [_row(plan, system) for system in systems])
                panel.set_ylim(len(systems) - 0.5, -0.5)
                panel.set(**({"xscale": "log"} if metric == SPEED else {"xlim": (0, 100)}))
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(2, len(arranged)), frameon=False)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return drawn.getvalue()


def draw_panel(panel: Any, rows: Sequence[dict[str, Any]], theirs: str) -> None:
    """Both numbers of each system; what was not run has only the paper's, which `theirs` says what they are."""
    panel.grid(color="0.92")
    panel.set_axisbelow(True)
    panel.tick_params(axis="y", length=0)
    panel.spines[["top", "right", "left"]].set_visible(False)
    paper = [(row["published"], place) for place, row in enumerate(rows) if row["published"] is not None]
    ours = [(row, place) for place, row in enumerate(rows) if row["ours"] is not None]
    panel.plot(*_transposed(paper), "o", color="0.35", fillstyle="none", label=theirs)
    for row, place in ours:
        ends = [row["ours"] if row[end] is None else row[end] for end in ("low", "high")]
        panel.plot(ends, (place, place), color="tab:blue", linewidth=2)
    points = [(row["ours"], place) for row, place in ours]
    panel.plot(
        *_transposed(points), "o", color="tab:blue", markersize=4, label="here, with 95 % interval; none: not run"
    )


def _transposed(points: Sequence[tuple[float, int]]) -> tuple[list[float], list[int]]:
    return [x for x, _ in points], [y for _, y in points]


def grid(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *lines))


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _mark(place: int) -> str:
    return f"({ascii_lowercase[place]})"


def _shown(metric: str) -> str:
    return "MRR" if metric == "mrr" else metric


def _number(value: float | None) -> str:
    return "-" if value is None else str(value)


def _bounds(row: dict[str, Any]) -> str:
    return "" if row["low"] is None else f" [{row['low']:.1f}, {row['high']:.1f}]"


def p_value(value: float | None) -> str:
    """A p-value, as short as it can be."""
    return "-" if value is None else f"{value:.2g}" if value else "< 1e-300"
