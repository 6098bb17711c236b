"""Figures of what settings do: importance, response to one, response to the two most important."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dynfusion.page.drawing import LINES, MARKERS, MUTED, SERIES, STYLE, TEXT, svg
from dynfusion.tuning.records import Distribution
from dynfusion.tuning.report.encoding import is_choice, on_log_scale
from dynfusion.tuning.report.wording import shown

WIDTH = 4.8
LEVELS = 6
Record = Mapping[str, Any]
Space = Mapping[str, Distribution]


def importance(records: Sequence[Record]) -> str:
    """A bar with its interval for every setting; those that cannot be told from nothing are pale."""
    known = [record for record in records if record["value"] is not None]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.36 * len(known) + 0.95), layout="constrained")
        axes = figure.subplots()
        for row, record in enumerate(known):
            sure = record["low"] is not None and record["low"] > 0
            axes.barh([row], [max(0.0, record["value"])], height=0.55, color=SERIES[0], alpha=1 if sure else 0.3)
            if record["low"] is not None:
                axes.plot([record["low"], record["high"]], [row, row], color=TEXT, linewidth=1.4)
        axes.axvline(0, color=TEXT, linewidth=1)
        axes.set_yticks(range(len(known)), [record["name"] for record in known], fontsize=9)
        axes.set_ylim(len(known) - 0.4, -0.6)
        axes.set_xlabel("share of the score's variance", loc="right")
        axes.grid(visible=False, axis="y")
        return svg(figure, "importance")


def slice_of(response: Record, space: Space, *, objective: str) -> str:
    """The score over one setting: a mark a trial, the forest's mean prediction as a line."""
    name = response["names"][0]
    distribution = space[name]
    grid, points = response["grid"][0], response["points"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
        axes = figure.subplots()
        xs = _places(axes, [point[0] for point in points], distribution, axis="x")
        axes.plot(
            xs, [point[-1] for point in points], color=MUTED, marker="o", markersize=4, linestyle="none", alpha=0.6
        )
        line = "none" if is_choice(distribution) else "-"
        look: dict[str, Any] = {"color": SERIES[0], "linewidth": 2.2, "linestyle": line}
        marker = "D" if is_choice(distribution) else None
        axes.plot(_places(axes, grid, distribution, axis="x"), response["score"], marker=marker, markersize=8, **look)
        axes.set_xlabel(name)
        axes.set_ylabel(objective)
        return svg(figure, f"slice-{name}")


def surface(response: Record, space: Space, *, objective: str) -> str:
    """The forest's mean prediction over two settings: contours, or a line a choice where one of them is a choice."""
    names = list(response["names"])
    grid, score = list(response["grid"]), np.array(response["score"])
    places = [[point[number] for point in response["points"]] for number in (0, 1)]
    if is_choice(space[names[0]]):
        names, grid, places = names[::-1], grid[::-1], places[::-1]
        score = score.T
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.5), layout="constrained")
        axes = figure.subplots()
        across = _places(axes, grid[0], space[names[0]], axis="x")
        axes.set_xlabel(names[0])
        if is_choice(space[names[1]]):
            for number, choice in enumerate(grid[1]):
                look: dict[str, Any] = {"color": SERIES[number % 8], "linestyle": LINES[number % 8], "linewidth": 2}
                axes.plot(
                    across, score[:, number], label=shown(choice), marker=MARKERS[number % 8], markersize=4, **look
                )
            axes.set_ylabel(objective)
            figure.legend(loc="outside lower center", ncols=3, title=names[1])
            return svg(figure, "surface")
        _contours(axes, across, _places(axes, grid[1], space[names[1]], axis="y"), score.T)
        axes.plot(*places, color=TEXT, marker="o", markersize=3, linestyle="none", alpha=0.55)
        axes.set_ylabel(names[1])
        axes.grid(visible=False)
        return svg(figure, "surface")


def _contours(axes: Axes, xs: Sequence[float], ys: Sequence[float], score: Any) -> None:
    """One colour, the stronger the higher, with the values written on the lines between."""
    levels = mpl.ticker.MaxNLocator(LEVELS).tick_values(score.min(), score.max())
    shades = [(SERIES[0], 0.08 + 0.72 * number / max(1, len(levels) - 2)) for number in range(len(levels) - 1)]
    axes.contourf(xs, ys, score, levels=levels, colors=shades)
    lines = axes.contour(xs, ys, score, levels=levels, colors=[MUTED], linewidths=0.6)
    axes.clabel(lines, fontsize=7.5, colors=[TEXT])


def _places(axes: Axes, values: Sequence[Any], distribution: Distribution, *, axis: str) -> list[float]:
    """Values as places on an axis, which is made logarithmic or named by choices where it must be."""
    one = axes.xaxis if axis == "x" else axes.yaxis
    if distribution.choices is not None:
        one.set_ticks(range(len(distribution.choices)), [shown(choice) for choice in distribution.choices])
        return [float(distribution.choices.index(value)) for value in values]
    if on_log_scale(distribution):
        (axes.set_xscale if axis == "x" else axes.set_yscale)("log")
    return [float(value) for value in values]
