"""How a table or figure of systems that write replies is shown: a page for someone who has not read the paper, and a
picture."""

import io
from collections.abc import Sequence
from typing import Any

from personae.published.page import draw_panel, grid, p_value
from personae.published.written import Written

_MEASURED = """The first number of each pair is the paper's, the second was measured here, in brackets with a 95 %
interval: where it would lie for other users like these. A dash: the paper has no number."""

_COMPARED = """Each line is a difference of two rows on the same replies. *Yes*: it has the sign that the paper's has,
and its interval leaves 0 out, as it would once in forty times without any difference; *not shown*: 0 is within it; *no,
the reverse*: 0 is out, on the other side. *p* is of the test that the paper makes, Wilcoxon's signed-rank test for
Per-Hits and the paired t-test for the rest; it takes replies of one user as independent, so that it is somewhat too
small, but for numbers of all replies together, where it is of users. Neither says how the same systems would do with
other seeds."""

_RUNS = """The runs. *CPU s* are the processor seconds of their training, and of that of a run that they need."""

_STYLE = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple")


def markdown(plan: Written, content: dict[str, Any]) -> str:
    """The page. `content` is what `personae.written_tables` found."""
    parts = [
        f"# {plan.name}: {plan.title}",
        f"{'A figure' if plan.panels or plan.scorers else 'A table'} of: {plan.paper}.",
        "## What it asks",
        plan.asks,
        plan.words,
        "## What is compared with what",
        plan.stands_in,
        _corpus(content["corpus"]),
        content["budget"]["effort"],
        plan.remarks,
        "![The paper's numbers and ours](table.svg)",
        "## The numbers",
        _scored(content["scorers"]) if plan.scorers else _MEASURED,
        _numbers(plan, content["rows"]),
        _points([*content["points"], *content["ceiling"]])
        if plan.scorers
        else _beside(content["chance"], content["real"]),
        _ratio(content.get("ratio")),
        _pairs(content.get("pairs", [])),
        _cases(content.get("cases", [])),
        f"## How this page was made\n\n```sh\n{content['command']}\n```",
        _making(plan, content),
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip())


def _corpus(counts: dict[str, Any]) -> str:
    if not counts:
        return ""
    answers = ", ".join(f"{number:,} {name}" for name, number in counts["answers"].items())
    return (
        f"The corpus that stands in has {counts['users']:,} users, {counts['questions']:,} questions and so many "
        f"answers in its splits: {answers}. Of the table of users and questions {counts['filled']:,} cells are filled, "
        f"{100 * counts['density']:.3f} %."
    )


def _numbers(plan: Written, rows: Sequence[dict[str, Any]]) -> str:
    labels = list(dict.fromkeys(row["column"] for row in rows))
    hits = [label for label in labels if label.startswith("per-hits")]
    others = [label for label in labels if label not in hits]
    reasons = list(dict.fromkeys(row["why"] for row in rows if "why" in row))
    systems: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        systems.setdefault(row["system"], {})[row["column"]] = row
    tables = []
    for some in filter(None, (others, hits)):
        columns = ("row", *(f"{label}, {unit}" if (unit := _unit(rows, label)) else label for label in some), "n")
        lines = [
            (
                plan.label(system),
                *(_cell(numbers[label], reasons) for label in some),
                _n([numbers[label] for label in some]),
            )
            for system, numbers in systems.items()
        ]
        tables.append(grid(columns, lines))
    return "\n\n".join([*tables, "\n".join(f"- ({place}) none: {why}" for place, why in enumerate(reasons, 1))])


def _unit(rows: Sequence[dict[str, Any]], label: str) -> str:
    return next(str(row["unit"]) for row in rows if row["column"] == label)


def _cell(row: dict[str, Any], reasons: Sequence[str]) -> str:
    paper = "-" if row["published"] is None else f"{row['published']:g}"
    ours = (
        f"({reasons.index(row['why']) + 1})" if "why" in row else f"**{row['ours']:.{row['places']}f}**{_bounds(row)}"
    )
    return f"{paper} / {ours}"


def _n(rows: Sequence[dict[str, Any]]) -> str:
    return next((f"{row['n']:,}" for row in rows if row["n"] is not None), "-")


def _bounds(row: dict[str, Any], places: int = 2) -> str:
    if row["low"] is None:
        return ""
    return f" [{row['low']:.{places}f}, {'∞' if row['high'] is None else format(row['high'], f'.{places}f')}]"


def _beside(chance: dict[str, float], real: dict[str, dict[str, Any]]) -> str:
    """The least and the most of Per-Hits."""
    name = next((name for name in chance if name.startswith("per-hits-avg")), None)
    if name is None or name not in real:
        return ""
    most = {end: None if real[name][end] is None else 100 * real[name][end] for end in ("value", "low", "high")}
    return (
        f"Of all replies, among {name.partition('/')[2]} users, who guesses has an average Per-Hits of "
        f"{100 * chance[name]:.2f} %, and the real replies have {most['value']:.2f} %{_bounds(most)}: what lies "
        "between is what there is to win."
    )


def _ratio(told: dict[str, Any] | None) -> str:
    if told is None:
        return ""
    pair = f"{told['better']} has {told['published']:.1f} times the {told['column']} of {told['worse']} in the paper"
    if "why" in told:
        return f"{pair}; not known here ({told['why']})."
    return f"{pair}, and **{told['ours']:.1f}** times{_bounds(told, 1)} here (bootstrap over users, n {told['n']:,})."


def _pairs(pairs: Sequence[dict[str, Any]]) -> str:
    if not pairs:
        return ""
    lines = [
        (
            f"{row['better']} less {row['worse']}",
            row["column"],
            "-" if row["published"] is None else f"{row['published']:+.2f}",
            f"{row['ours']:+.2f}{_bounds(row)}",
            row["found"] or "-",
            f"{p_value(row['p'])} ({row['test']})",
        )
        for row in pairs
        if "why" not in row
    ]
    absent: dict[str, list[str]] = {}
    for row in pairs:
        if "why" in row:
            absent.setdefault(f"{row['better']} less {row['worse']}: {row['why']}", []).append(row["column"])
    columns = ("rows", "column", "paper", "here [95 %]", "found here", "p")
    unseen = "\n".join(f"- {what} ({', '.join(labels)})" for what, labels in absent.items())
    parts = ["## One row against another", f"{_COMPARED}\n\n{grid(columns, lines)}" if lines else "", unseen]
    return "\n\n".join(filter(None, parts))


def _cases(cases: Sequence[dict[str, Any]]) -> str:
    if not cases:
        return ""
    parts = ["## What they write", "Cases that were drawn by lot, not chosen."]
    for number, case in enumerate(cases, 1):
        said = [("*said*", text) for text in case["context"]]
        known = [(f"*{whose} persona*", text) for whose in ("self", "partner") for text in case[whose]]
        lines = [*known, *said, ("**real reply**", case["real"])]
        lines += [(f"**{system}**", text) for system, text in case["replies"].items()]
        parts.append(grid((f"case {number}", f"`{case['id']}`"), [(what, _escaped(text)) for what, text in lines]))
    return "\n\n".join(parts)


def _escaped(text: str) -> str:
    """As a cell of a table holds it."""
    return text.translate({ord(mark): f"\\{mark}" for mark in "|*_`<\\"})


def _scored(about: dict[str, Any]) -> str:
    if not about:
        return ""
    return (
        f"Both scorers rank the same {about['users']} users on the same {about['n']:,} replies of each system; who "
        f"guesses is right k times in {about['users']}. The transformer is {about['lm']}. In brackets stands a 95 % "
        "interval: where r would lie for replies to other users like these, by the same systems and scorers. It is a "
        "jackknife's: all points are found anew without the replies to one user at a time, so that it does not take "
        "the points of one system as independent."
    )


def _points(points: Sequence[dict[str, Any]]) -> str:
    systems: dict[str, list[dict[str, Any]]] = {}
    for point in points:
        systems.setdefault(point["system"], []).append(point)
    lines = [
        (system, *(f"{point['ngram']:.2f} / {point['lm']:.2f}" for point in some)) for system, some in systems.items()
    ]
    if not lines:
        return ""
    heads = ("Per-Hits@k, %: trigrams / transformer", *(f"k = {k}" for k in range(1, len(lines[0]))))
    return grid(heads, lines)


def _making(plan: Written, content: dict[str, Any]) -> str:
    budget = content["budget"]
    rows = {row["run"]: row for row in content.get("runs", content["rows"]) if "run" in row}
    lines = [
        (
            f"`{name}`",
            plan.label(row["system"]),
            str(row["seed"]),
            f"{row['epochs']:g} × {row['replies']:,} replies",
            f"{row['cpu_seconds']:,.0f}",
            "a bound of time" if row["stopped"] else "its recipe",
            row["budget"],
        )
        for name, row in rows.items()
    ]
    said = [f"- Budget `{budget['name']}`: {budget['about']}, each for {budget['minutes']} minutes at most."]
    for one in {str(row["environment"]): row["environment"] for row in rows.values()}.values():
        said.append("- Made with " + ", ".join(f"{name} {value}" for name, value in one.items()) + ".")
    columns = ("run", "first row", "seed", "trained on", "CPU s", "ended by", "budget")
    runs = f"{_RUNS}\n\n{grid(columns, lines)}" if lines else ""
    return "\n\n".join(filter(None, (runs, "\n".join(said))))


def picture(plan: Written, content: dict[str, Any]) -> bytes:
    """An SVG: of a table a panel a column, of a figure what the paper draws."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": plan.name, "font.size": 9}):
        if plan.scorers is not None:
            figure = Figure(figsize=(5.2, 4.8), layout="constrained")
            _scatter(figure, content)
        elif plan.panels:
            figure = Figure(figsize=(5.2 * len(plan.panels), 4.4), layout="constrained")
            _curves(figure, plan, content)
        else:
            labels = [column.label for column in plan.columns]
            across = min(len(labels), 6)
            down = -(-len(labels) // across)
            size = (1.8 + 2.1 * across, 0.9 + down * (0.7 + 0.24 * len(plan.lines)))
            figure = Figure(figsize=size, layout="constrained")
            _panels(figure, plan, content, down, across)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return drawn.getvalue()


def _panels(figure: Any, plan: Written, content: dict[str, Any], down: int, across: int) -> None:
    systems = [plan.label(line.system) for line in plan.lines]
    panels = figure.subplots(down, across, sharey=True, squeeze=False).flat
    for column, panel in zip(plan.columns, panels, strict=False):
        rows = [row for row in content["rows"] if row["column"] == column.label]
        draw_panel(panel, rows, "the paper, on its data")
        panel.set_title(f"{column.label}, {column.unit}" if column.unit else column.label, fontsize=9)
        panel.set_yticks(range(len(systems)), systems)
        panel.set_ylim(len(systems) - 0.5, -0.5)
    for panel in list(panels):  # those that are left over
        panel.set_axis_off()
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=2, frameon=False)


def _curves(figure: Any, plan: Written, content: dict[str, Any]) -> None:
    drawn = figure.subplots(1, len(plan.panels), sharey=True, squeeze=False)[0]
    numbers = {(row["system"], row["column"]): row for row in content["rows"]}
    for axis, panel in zip(plan.panels, drawn, strict=True):
        lines = [line for line in plan.lines if line.panel == axis]
        for column, colour in zip(plan.columns, (*_STYLE, "black"), strict=False):
            rows = [(line.place, numbers[line.system, column.label]) for line in lines]
            there = [(place, row) for place, row in rows if row["ours"] is not None]
            mean = colour == "black"
            places, values = [place for place, _ in there], [row["ours"] for _, row in there]
            panel.plot(places, values, "o-", color=colour, markersize=3, linewidth=2 if mean else 1, label=column.label)
            if mean and there:
                low, high = (
                    [row["ours"] if row[end] is None else row[end] for _, row in there] for end in ("low", "high")
                )
                panel.fill_between(places, low, high, color=colour, alpha=0.12, linewidth=0)
        for name, value in content["chance"].items():
            if name.startswith("per-hits-avg"):
                panel.axhline(100 * value, color="0.5", linestyle="--", linewidth=1, label="average by chance")
        panel.set(xlabel=axis, xticks=[line.place for line in lines])
        panel.grid(color="0.92")
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    drawn[0].set_ylabel("Per-Hits@k, %; the band is the average's 95 % interval")
    drawn[0].set_ylim(bottom=0)
    handles, names = drawn[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=4, frameon=False)


def _scatter(figure: Any, content: dict[str, Any]) -> None:
    panel = figure.add_subplot()
    for k, colour in enumerate(_STYLE, 1):
        some = [point for point in content["points"] if point["k"] == k]
        panel.scatter([one["ngram"] for one in some], [one["lm"] for one in some], s=22, color=colour, label=f"k = {k}")
    told = content["rows"][0]
    ours = "not known" if told["ours"] is None else f"{told['ours']:.3f}{_bounds(told, 3)}"
    panel.set_title(f"Pearson's r here {ours}, in the paper {told['published']}", fontsize=9)
    panel.set(xlabel="Per-Hits@k by trigram models, %", ylabel="Per-Hits@k by adapters of a transformer, %")
    panel.grid(color="0.92")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False)
