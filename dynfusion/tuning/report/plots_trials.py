"""Figures of single trials: learning curves, paths through the space, the Pareto front, runs with fresh seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dynfusion.page.drawing import CARD, MARKERS, MUTED, SERIES, STYLE, TEXT, svg, thousands
from dynfusion.tuning.report.encoding import position
from dynfusion.tuning.report.wording import objective_names, shown

WIDTH = 4.8
LOOKS = {"finished": 0, "stopped": 1, "running": 2, "failed": 4}
"""Series of each state; the best trial is drawn thick in the text's colour."""
LOUD = 0.1
"""Share of the trials whose paths are drawn in colour."""
MOST_PATHS = 8
"""Settings that paths go through."""
Report = Mapping[str, Any]


def learning_curves(report: Report, objective: str) -> str:
    """An objective over the molecules seen, a line a trial; those that were stopped end with a mark."""
    states = {trial["id"]: trial["state"] for trial in report["trials"]}
    best = report["winner"] or report["best"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
        axes = figure.subplots()
        for name, points in report["curves"].items():
            number = LOOKS.get(states[name], 7)
            xs, ys = [point[0] for point in points], [point[1][objective] for point in points]
            look: dict[str, Any] = {"color": SERIES[number], "linewidth": 1.1, "alpha": 0.55}
            if name == best:
                look = {"color": TEXT, "linewidth": 2.6, "zorder": 10}
            axes.plot(xs, ys, **look)
            ended = states[name] != "finished"
            axes.plot(xs[-1:], ys[-1:], linestyle="none", marker=MARKERS[number], markersize=4.5, **_end(look, ended))
        axes.set_xlabel("molecules seen")
        axes.set_title(objective)
        axes.margins(x=0.02)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(5))
        axes.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(thousands))
        _zoom(axes, [point[1][objective] for points in report["curves"].values() for point in points])
        return svg(figure, f"curves-{objective}")


def _end(look: Mapping[str, Any], drawn: bool) -> dict[str, Any]:
    return {"color": look["color"], "alpha": 0.9 if drawn else 0.0, "zorder": 8}


def _zoom(axes: Axes, values: Sequence[float]) -> None:
    """Cuts off the lowest twentieth where it would squeeze all the rest into a corner."""
    ordered = sorted(values)
    low, middle, high = ordered[len(ordered) // 20], ordered[len(ordered) // 2], ordered[-1]
    if high > low and ordered[0] < low - 2 * (high - low) and middle > low:
        axes.set_ylim(bottom=low - 0.1 * (high - low))


def paths(report: Report, space: Mapping[str, Any]) -> str:
    """Parallel coordinates, top down: an axis a setting, a line a trial, the score last; the best tenth in colour.

    Axes are the most important settings. A setting that is not in force lies at "off", left of its axis.
    """
    known = [record["name"] for record in report["importance"]["settings"]]
    names = [*known, *(name for name in space if name not in known)][:MOST_PATHS]
    first = report["sweep"]["objectives"][0]
    trials = [t for t in report["trials"] if t["objectives"] and t["state"] in ("finished", "stopped", "running")]
    scores = [trial["objectives"][first["name"]] for trial in trials]
    low, high = min(scores), max(scores)
    ordered = sorted(range(len(trials)), key=lambda i: scores[i], reverse=first["direction"] == "max")
    loud = set(ordered[: max(1, round(LOUD * len(trials)))])
    off = {name for name in names if any(name not in trial["settings"] for trial in trials)}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.72 * (len(names) + 1) + 0.3), layout="constrained")
        axes = figure.subplots()
        for place in reversed(ordered):
            settings = trials[place]["settings"]
            xs = [position(settings[n], space[n]) if n in settings else -0.14 for n in names]
            xs.append((scores[place] - low) / (high - low) if high > low else 0.5)
            strong = place in loud
            look: dict[str, Any] = {"color": SERIES[0] if strong else MUTED, "alpha": 0.9 if strong else 0.22}
            axes.plot(xs, range(len(xs)), linewidth=1.8 if strong else 0.8, zorder=5 if strong else 2, **look)
        for row, name in enumerate([*names, first["name"]]):
            ends = (low, high) if row == len(names) else _ends(space[name])
            _axis(axes, row, name, ends, off=name in off)
        axes.set_xlim(-0.2, 1.03)
        axes.set_ylim(len(names) + 0.45, -0.6)
        axes.axis("off")
        return svg(figure, "paths")


def _ends(distribution: Any) -> tuple[Any, Any]:
    choices = distribution.choices
    return (choices[0], choices[-1]) if choices else (distribution.low, distribution.high)


def _axis(axes: Axes, row: int, name: str, ends: tuple[Any, Any], *, off: bool) -> None:
    axes.plot([0, 1], [row, row], color=TEXT, linewidth=1.1, zorder=6)
    look: dict[str, Any] = {"textcoords": "offset points", "zorder": 7}
    look["bbox"] = {"facecolor": CARD, "edgecolor": "none", "alpha": 0.85, "pad": 0.8}
    axes.annotate(name, (0.5, row), (0, 5), ha="center", fontsize=9.5, **look)
    for x, value, side in ((0, ends[0], "left"), (1, ends[1], "right")):
        axes.annotate(shown(value), (x, row), (0, -11), ha=side, fontsize=8.5, color=MUTED, **look)
    if off:
        axes.plot([-0.14], [row], color=TEXT, marker="|", markersize=7)
        axes.annotate("off", (-0.14, row), (0, -11), ha="center", fontsize=8.5, color=MUTED, **look)


def pareto(report: Report, pair: tuple[str, str]) -> str:
    """Two objectives of every finished trial; the front is joined."""
    front = set(report["front"])
    finished = [trial for trial in report["trials"] if trial["state"] == "finished" and trial["objectives"]]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
        axes = figure.subplots()
        for on_front, number, size in ((False, 7, 4.5), (True, 0, 7.0)):
            mine = [t["objectives"] for t in finished if (t["id"] in front) == on_front]
            places = sorted((one[pair[0]], one[pair[1]]) for one in mine)
            xs, ys = [x for x, _ in places], [y for _, y in places]
            dash = "-" if on_front and len(objective_names(report)) == 2 else "none"
            look: dict[str, Any] = {"color": SERIES[number], "marker": MARKERS[number if on_front else 0]}
            axes.plot(xs, ys, linestyle=dash, linewidth=1.2, markersize=size, alpha=1 if on_front else 0.6, **look)
        axes.set_xlabel(pair[0])
        axes.set_ylabel(pair[1])
        return svg(figure, f"pareto-{pair[0]}-{pair[1]}")


def fresh_seeds(report: Report, objective: str) -> str:
    """Every run with a fresh seed as a mark, the mean with its interval, the score in the sweep as a ring."""
    records = report["finals"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.42 * len(records) + 0.95), layout="constrained")
        axes = figure.subplots()
        for row, record in enumerate(records):
            number = 1 if record["label"] == "default" else 0
            found, colour = record["objectives"][objective], SERIES[number]
            if found["low"] is not None:
                axes.plot([found["low"], found["high"]], [row, row], color=colour, linewidth=1.6)
            axes.plot([found["value"]], [row], color=colour, marker=MARKERS[number], markersize=7)
            seeds = [seed[objective] for seed in record["seeds"]]
            axes.plot(seeds, [row + 0.22] * len(seeds), color=colour, marker="|", markersize=8, linestyle="none")
            if record["sweep"] is not None:
                ring: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": MUTED, "markeredgewidth": 1.4}
                axes.plot([record["sweep"][objective]], [row], marker="o", markersize=8, **ring)
        axes.set_yticks(range(len(records)), [record["label"] for record in records])
        axes.set_ylim(len(records) - 0.4, -0.6)
        axes.set_xlabel(objective)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(5))
        return svg(figure, f"fresh-{objective}")
