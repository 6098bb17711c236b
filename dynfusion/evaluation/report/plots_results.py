"""Figures of the results: what is lost, curves over what is hidden, reconstruction, attention."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dynfusion.page.drawing import LINES, MARKERS, MUTED, SERIES, STYLE, TEXT, svg

WIDTH = 4.8
SHIFT = 0.12
BANDED = 3
"""Lines with a band; those of more would cover each other, their intervals are in the tables."""
WORST_SHOWN = -1.0
"""Skills below it are drawn as an arrow at the edge, with their number."""
COSINES = {"cosine": "raw", "centred_cosine": "centred"}
SKILLS = {"skill_mean": "over the mean", "skill_ridge": "over ridge", "skill_knn": "over kNN"}
Records = Sequence[Mapping[str, Any]]


def drops(records: Records, *, title: str, series: Mapping[str, int]) -> str:
    """Relative drop and, beside it, the chance-corrected one: a line with its interval for every representation."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.3 * len(records) + 1.15), layout="constrained")
        both = figure.subplots(1, 2, sharey=True)
        for axes, key, name in zip(
            both,
            ("relative_drop", "chance_corrected_drop"),
            ("% of the metric", "% of what is above chance"),
            strict=True,
        ):
            for line, record in enumerate(records):
                _mark(axes, record, key, float(line), series.get(record["representation"], 0))
            axes.axvline(0, color=TEXT, linewidth=1)
            axes.set_xlabel(name, fontsize=9)
            axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(4))
            axes.grid(visible=False, axis="y")
        both[0].set_yticks(range(len(records)), [record["representation"] for record in records], fontsize=9)
        both[0].set_ylim(len(records) - 0.5, -0.5)
        figure.suptitle(title, x=0.02, ha="left", fontsize=11, fontweight="bold", color=TEXT)
        return svg(figure, f"drop-{title}")


def curves(
    records: Records, *, x: str, label: str, metric: str, title: str, name: str, series: Mapping[str, int]
) -> str:
    """A value over a rate, with its band, a line for every representation; records have `line`, which is drawn."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.1), layout="constrained")
        axes = figure.subplots()
        for line, number in series.items():
            known = sorted((r for r in records if r["line"] == line and r["value"] is not None), key=lambda r: r[x])
            _band(axes, known, [record[x] for record in known], number)
        axes.set_xlabel(label)
        axes.set_ylabel(metric)
        axes.set_title(title)
        axes.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=0, symbol=" %"))
        axes.margins(x=0.03)
        return svg(figure, name)


def _band(axes: Axes, known: Records, places: Sequence[float], number: int) -> None:
    if not known:
        return
    look: dict[str, Any] = {"color": SERIES[number % len(SERIES)], "zorder": 20 - number}
    banded = (
        []
        if number >= BANDED
        else [(x, record) for x, record in zip(places, known, strict=True) if record["low"] is not None]
    )
    lows, highs = [record["low"] for _, record in banded], [record["high"] for _, record in banded]
    axes.fill_between([x for x, _ in banded], lows, highs, alpha=0.12, linewidth=0, color=look["color"])
    marker, dash = MARKERS[number % len(MARKERS)], LINES[number % len(LINES)]
    axes.plot(places, [r["value"] for r in known], marker=marker, linestyle=dash, markersize=4.5, linewidth=1.8, **look)


def by_target(records: Records, *, metric: str, title: str, name: str, series: Mapping[str, int]) -> str:
    """A value with its interval for every modality that is hit, a mark for every representation."""
    targets = list(dict.fromkeys(record["target"] for record in records))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.1), layout="constrained")
        axes = figure.subplots()
        for place, (line, number) in enumerate(series.items()):
            for record in records:
                if record["line"] == line and record["value"] is not None:
                    x = targets.index(record["target"]) + (place - (len(series) - 1) / 2) * SHIFT
                    _upright(axes, record, x, number)
        axes.set_xticks(range(len(targets)), targets)
        axes.set_xlim(-0.5, len(targets) - 0.5)
        axes.set_ylabel(metric)
        axes.set_title(title)
        axes.grid(visible=False, axis="x")
        return svg(figure, name)


def _upright(axes: Axes, record: Mapping[str, Any], x: float, number: int) -> None:
    colour = SERIES[number % len(SERIES)]
    if record["low"] is not None:
        axes.plot([x, x], [record["low"], record["high"]], color=colour, linewidth=1.5)
    axes.plot(
        [x], [record["value"]], color=colour, marker=MARKERS[number % len(MARKERS)], markersize=5, linestyle="none"
    )


def cosines(records: Records, *, title: str) -> str:
    """Raw beside centred cosine of reconstructions, a line for every target and visible subset."""
    return _lying(records, COSINES, title=title, label="cosine (1 = perfect)", name="cosine")


def skills(records: Records, *, title: str) -> str:
    """Skill over the mean, ridge and the nearest pool rows, a line for every target and visible subset."""
    return _lying(records, SKILLS, title=title, label="skill (0 = level, 1 = perfect)", name="skill")


def _lying(records: Records, keys: Mapping[str, str], *, title: str, label: str, name: str) -> str:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.42 * len(records) + 1.4), layout="constrained")
        axes = figure.subplots()
        for number, key in enumerate(keys):
            for line, record in enumerate(records):
                _mark(axes, record, key, line + (number - (len(keys) - 1) / 2) * 0.24, number, cut=True)
        labels = [f"{record['target']}\nfrom {' + '.join(record['visible'])}" for record in records]
        axes.set_yticks(range(len(records)), labels, fontsize=8.5, linespacing=1.1)
        axes.set_ylim(len(records) - 0.5, -0.5)
        axes.axvline(0, color=TEXT, linewidth=1)
        axes.set_xlim(min(0.0, max(axes.get_xlim()[0], WORST_SHOWN)), 1.02)
        axes.set_xlabel(label)
        axes.grid(visible=False, axis="y")
        axes.set_title(title)
        looks = zip(SERIES, MARKERS, keys, strict=False)
        lines = [Line2D([], [], color=colour, marker=shape, linestyle="none") for colour, shape, _ in looks]
        figure.legend(lines, list(keys.values()), loc="outside lower center", ncols=3, handletextpad=0.3)
        return svg(figure, f"{name}-{title}")


def _mark(axes: Axes, record: Mapping[str, Any], key: str, height: float, number: int, *, cut: bool = False) -> None:
    """A value and, where known, its interval, lying."""
    value, low, high = record.get(key), record.get(f"{key}_low"), record.get(f"{key}_high")
    if value is None:
        return
    colour = SERIES[number % len(SERIES)]
    if cut and value < WORST_SHOWN:
        axes.plot([WORST_SHOWN], [height], color=colour, marker="<", markersize=6, clip_on=False)
        text = f"{value:.2f}".replace("-", "−")
        axes.annotate(text, (WORST_SHOWN, height), (7, 0), textcoords="offset points", va="center", fontsize=8)
        return
    if low is not None and high is not None:
        axes.plot([low, high], [height, height], color=colour, linewidth=1.6)
    axes.plot([value], [height], color=colour, marker=MARKERS[number % len(MARKERS)], markersize=5.5, linestyle="none")


def attention(rows: Sequence[tuple[str, Mapping[str, float | None]]], modalities: Sequence[str]) -> str:
    """Mean attention of every modality by task, all present; the dashed line is equal shares."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.5 * len(rows) + 1.1), layout="constrained")
        axes = figure.subplots()
        height = 0.8 / len(modalities)
        for number, modality in enumerate(modalities):
            places = [line - 0.4 + (number + 0.5) * height for line in range(len(rows))]
            widths = [weights.get(modality) or 0.0 for _, weights in rows]
            axes.barh(places, widths, height=height * 0.9, color=SERIES[number % len(SERIES)])
        axes.axvline(1 / len(modalities), color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.set_yticks(range(len(rows)), [task for task, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel("mean attention")
        axes.grid(visible=False, axis="y")
        return svg(figure, "attention-by-task")
