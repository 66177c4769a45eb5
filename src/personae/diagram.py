"""The reliability diagram of a calibrated model: how often its most likely answer is right, by how likely it is."""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from personae.data import lines
from personae.metrics.calibration import Bin, expected_error

COLOUR = "#1d4ed8"


def save(path: Path, bins: Sequence[Bin]) -> None:
    """Writes the diagram as SVG. A circle is a bin, the larger the more cases it has."""
    figure = Figure(figsize=(4.2, 4.2), layout="constrained")
    axes = figure.add_subplot(aspect="equal", xlim=(0, 1), ylim=(0, 1))
    axes.plot((0, 1), (0, 1), color="0.6", linewidth=1, linestyle="--")
    there = [one for one in bins if one.count]
    most = max((one.count for one in there), default=1)
    probabilities, right = [one.probability for one in there], [one.right for one in there]
    axes.plot(probabilities, right, color=COLOUR, linewidth=1)
    sizes = [20 + 180 * math.sqrt(one.count / most) for one in there]
    axes.scatter(probabilities, right, s=sizes, color=COLOUR, alpha=0.5, linewidths=0)
    count = sum(one.count for one in there)
    axes.set(
        xlabel="probability of the most likely answer",
        ylabel="how often it is right",
        title=f"expected calibration error {expected_error(bins):.3f}, {count:,} cases",
    )
    write(path, figure)


def write(path: Path, figure: Figure) -> None:
    """Writes a figure as SVG, its words as text, the same whenever it is written."""
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "personae"}), lines.whole(path) as file:
        figure.savefig(file, format="svg", metadata={"Date": None})
