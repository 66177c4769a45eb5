"""The picture of an explanation: where the words of a reply look, as in figure 3 of DIM (Gu et al., EMNLP 2019,
https://arxiv.org/abs/1908.05859), and what each persona line does to its score. One set of axes, in inches from the top
left, is filled from the top down.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import wrap

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from personae import diagram
from personae.console import plain
from personae.types import Attention, Effect, Explained

WIDTH, MARGIN, CELL = 11.0, 0.25, 0.19  # of the page, around it, and of a word's square
LETTER = 0.07  # about the width of one
COLOURS = {"self": "#1d4ed8", "partner": "#b45309", "both": "0.3"}
OWNERS = {"self": "replier", "partner": "partner"}
LOOKED_AT = {
    "context": "the context",
    "self": "the persona of the replier",
    "partner": "the persona of the partner",
    "both": "both personas",
}
MAP, SPEAKS_FOR, AGAINST = "Blues", "#0f766e", "#be123c"


def save(path: Path, explained: Explained, speakers: Sequence[str], *, unit: str, about: str) -> None:
    """Writes the picture of a candidate as SVG, its words as text. `speakers` are those of the context's utterances,
    "self" or "partner", `unit` is what the effects are changes of, and `about` is said below the reply."""
    with matplotlib.rc_context({"text.parse_math": False, "font.size": 8}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph|Matplotlib currently does not support")  # whoever shows it has fonts
        diagram.write(path, draw(explained, speakers, unit=unit, about=about))


def draw(explained: Explained, speakers: Sequence[str], *, unit: str, about: str) -> Figure:
    """The picture; arguments as in `save`."""
    figure = Figure()
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    y = MARGIN
    for line in wrap(_shown(explained.text, 240), 95) or [""]:
        axes.text(MARGIN, y, line, size=11, weight="bold", va="top")
        y += 0.2
    axes.text(MARGIN, y + 0.03, about, color="0.35", va="top")
    y += 0.4
    letters = iter("abcd")
    for panel in explained.attention:
        title = f"({next(letters)}) attention of the reply's words to {LOOKED_AT[panel.to]}"
        y = _attention(axes, y, panel, title, speakers[-len(panel.sentences) :] if panel.to == "context" else ())
    if explained.effects:
        y = _effects(axes, y, explained.effects, f"({next(letters)}) what each persona line does", unit)
    figure.set_size_inches(WIDTH, y)
    axes.set(xlim=(0, WIDTH), ylim=(y, 0))
    return figure


def _attention(axes: Axes, y: float, panel: Attention, title: str, speakers: Sequence[str]) -> float:
    """Draws from `y` on, and gives where it ends."""
    most = max(max(row) for row in panel.weights)
    axes.text(MARGIN, y, title, weight="bold", va="top")
    _scale(axes, y, most)
    left = MARGIN + max(len(_shown(word, 20)) for word in panel.words) * LETTER + 0.1
    rows = len(panel.words)
    y += 0.3
    for strip in _strips(panel, left):
        deepest = 0.0
        top = y + 0.2
        for x, number, start, end in strip:
            whose, right = speakers[number] if speakers else panel.to, x + (end - start) * CELL
            mark = OWNERS[whose] if speakers else f"line {number + 1}"
            axes.text(x, y + 0.1, mark, color=COLOURS[whose], va="bottom", size=7)
            axes.plot([x, right], [y + 0.14, y + 0.14], color=COLOURS[whose], linewidth=1.5, solid_capstyle="butt")
            axes.pcolormesh(
                [x + place * CELL for place in range(end - start + 1)],
                [top + place * CELL for place in range(rows + 1)],
                [row[start:end] for row in panel.weights],
                cmap=MAP,
                vmin=0,
                vmax=most,
                edgecolors="white",
                linewidth=0.5,
            )
            words = [word for sentence in panel.sentences for word in sentence][start:end]
            for place, word in enumerate(words):
                word = _shown(word, 20)
                deepest = max(deepest, len(word) * LETTER)
                middle = x + (place + 0.5) * CELL
                axes.text(middle, top + rows * CELL + 0.05, word, rotation=90, ha="center", va="top")
        for place, word in enumerate(panel.words):
            axes.text(left - 0.06, top + (place + 0.5) * CELL, _shown(word, 20), ha="right", va="center")
        y = top + rows * CELL + deepest + 0.2
    return y + 0.15


def _strips(panel: Attention, left: float) -> Iterator[list[tuple[float, int, int, int]]]:
    """What stands side by side: each sentence, or the part of it that there is room for, with its left edge, its number
    and the places of its first word and the one after its last."""
    room = int((WIDTH - MARGIN - left) / CELL)
    strip: list[tuple[float, int, int, int]] = []
    x, start = left, 0
    for number, sentence in enumerate(panel.sentences):
        for begin in range(0, len(sentence), room):
            words = min(room, len(sentence) - begin)
            if strip and x + words * CELL > WIDTH - MARGIN:
                yield strip
                strip, x = [], left
            strip.append((x, number, start, start + words))
            x += max(words * CELL, 0.45) + 0.12  # wide enough for the mark above it
            start += words
    yield strip


def _scale(axes: Axes, y: float, most: float) -> None:
    """The colour bar, beside the title."""
    x, steps, high = 5.6, 50, 0.12
    edges = [x + place * 1.6 / steps for place in range(steps + 1)]
    axes.pcolormesh(edges, [y, y + high], [[place / steps for place in range(steps)]], cmap=MAP, vmin=0, vmax=1)
    axes.text(x - 0.05, y + high / 2, "0", ha="right", va="center", size=7)
    axes.text(x + 1.65, y + high / 2, f"{most:.2f}", va="center", size=7)


def _effects(axes: Axes, y: float, effects: Sequence[Effect], title: str, unit: str) -> float:
    """Draws from `y` on, and gives where it ends."""
    axes.text(MARGIN, y, title, weight="bold", va="top")
    middle, half, bars = 7.2, 1.1, WIDTH - MARGIN - 1.6
    axes.text(middle, y, f"change of the {unit} without it", ha="center", va="top")
    axes.text(middle - 0.05, y + 0.2, "speaks for the reply", color=SPEAKS_FOR, ha="right", va="top", size=7)
    axes.text(middle + 0.05, y + 0.2, "against it", color=AGAINST, va="top", size=7)
    if effects[0].weight is not None:
        axes.text(bars, y, "attention of the fusion", va="top")
    y += 0.3
    most = max(0.01, *(abs(effect.change or 0.0) for effect in effects))  # less is rounding
    begin, ticks = y, MaxNLocator(4, steps=[1, 2, 5, 10], symmetric=True).tick_values(-most, most)
    for place, effect in enumerate(effects):
        if place == 0 or effect.whose != effects[place - 1].whose:
            axes.text(MARGIN, y, f"about the {OWNERS[effect.whose]}", color=COLOURS[effect.whose], va="top", size=7)
            y, number = y + 0.18, 0
        number += 1
        parts = wrap(_shown(effect.line, 150), 75) or [""]
        high = 0.16 * len(parts)
        axes.text(MARGIN + 0.1, y, str(number), ha="right", va="top")
        for row, part in enumerate(parts):
            axes.text(MARGIN + 0.2, y + 0.16 * row, part, va="top")
        _bar(axes, middle, y + high / 2, (effect.change or 0.0) / ticks[-1] * half, changed(effect.change))
        if effect.weight is not None:
            axes.barh(y + high / 2, effect.weight * 1.2, 0.12, left=bars, color=matplotlib.colormaps[MAP](0.8))
            axes.text(bars + effect.weight * 1.2 + 0.05, y + high / 2, f"{effect.weight:.2f}", va="center", size=7)
        y += high + 0.08
    axes.plot([middle, middle], [begin + 0.12, y], color="0.4", linewidth=0.8)
    axes.plot([middle - half, middle + half], [y, y], color="0.4", linewidth=0.8)
    for tick in ticks:
        x = middle + tick / ticks[-1] * half
        axes.plot([x, x], [y, y + 0.04], color="0.4", linewidth=0.8)
        axes.text(x, y + 0.07, f"{tick:+zg}" if tick else "0", ha="center", va="top", size=7)
    return y + 0.2 + MARGIN


def changed(change: float | None) -> str:
    """What is said of a line's effect."""
    return "not read" if change is None else f"{change:+z.3f}"


def _bar(axes: Axes, x: float, y: float, width: float, label: str) -> None:
    """To the left where the score falls without the line, else to the right."""
    side = -1 if width < 0 else 1
    axes.barh(y, width, 0.12, left=x, color=SPEAKS_FOR if width < 0 else AGAINST)
    axes.text(x + width + side * 0.05, y, label, ha="right" if width < 0 else "left", va="center", size=7)


def _shown(text: str, most: int) -> str:
    """A text on one line, at most so long, without what no XML may hold."""
    line = re.sub("[\ufffe\uffff]", "\ufffd", plain(" ".join(text.split())))
    return line if len(line) <= most else f"{line[: most - 1]}…"
