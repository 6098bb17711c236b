"""Figures of the report as SVG text that takes its colours from the page, so that one file reads in light and dark.

Matplotlib draws with stand-in colours; they become CSS variables afterwards. The output has no date, no random ids and
no address of anything outside.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dynfusion.evaluation.representations.features import CONCAT_MEAN, CONCAT_RIDGE

STAND_INS = {
    "#0a0001": "--series-1",
    "#0a0002": "--series-2",
    "#0a0003": "--series-3",
    "#0a0004": "--series-4",
    "#0a0005": "--series-5",
    "#0a0006": "--series-6",
    "#0a0011": "--text",
    "#0a0012": "--muted",
    "#0a0013": "--grid",
}
COLOURS = {variable: colour for colour, variable in STAND_INS.items()}
TEXT, MUTED, GRID = COLOURS["--text"], COLOURS["--muted"], COLOURS["--grid"]
SERIES = [COLOURS[f"--series-{number}"] for number in range(1, 7)]
LINES = ["-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 1.5, 1.5, 1.5)), (0, (8, 2)), (0, (3, 3))]
MARKERS = ["o", "s", "^", "D", "v", "P"]
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dynfusion",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": TEXT,
    "axes.titlecolor": TEXT,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "text.color": TEXT,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": TEXT,
    "ytick.labelcolor": TEXT,
    "legend.frameon": False,
    "legend.fontsize": 9,
}
WORST_SHOWN = -1.0
"""Skills below it are drawn as an arrow at the edge, with their number."""
NOT_LOSS_TERMS = frozenset(
    {"step", "rows", "epoch", "learning_rate", "hidden_rate", "gradient_norm", "loss", "attention_entropy"}
)


def degradation(table: Mapping[str, Any], *, modalities: Sequence[str]) -> str:
    """ROC-AUC against the number of modalities absent, a line with intervals for every representation that has one."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 3.3), layout="constrained")
        axes = figure.subplots()
        columns = table["columns"][: len(modalities)]
        for number, row in enumerate(curve_rows(table, modalities)):
            shift = (number - 1) * 0.06
            _curve(axes, row, columns, number=number, shift=shift)
        best = best_single(table, modalities)
        if best is not None:
            axes.axhline(best["cells"][columns[0]]["value"], color=MUTED, linewidth=1.2, linestyle=(0, (1, 2)))
        axes.set_xticks(range(len(columns)), columns)
        axes.set_xlim(-0.3, len(columns) - 0.7)
        axes.set_ylabel("ROC-AUC")
        axes.grid(visible=False, axis="x")
        axes.set_title("Mean over tasks" if table["task"] is None else table["task"])
        return svg(figure, f"degradation-{table['task']}")


def curve_rows(table: Mapping[str, Any], modalities: Sequence[str]) -> list[Mapping[str, Any]]:
    """Rows drawn as curves, fused ones first: every representation but the single modalities."""
    rows = [row for row in table["rows"] if row["representation"] not in modalities]
    return sorted(
        rows,
        key=lambda row: (row["representation"] in (CONCAT_MEAN, CONCAT_RIDGE), row["representation"] == CONCAT_MEAN),
    )


def best_single(table: Mapping[str, Any], modalities: Sequence[str]) -> Mapping[str, Any] | None:
    """The row of the single modality with the best value where all are present."""
    rows = [row for row in table["rows"] if row["representation"] in modalities]
    first = table["columns"][0]
    known = [row for row in rows if row["cells"][first] and row["cells"][first]["value"] is not None]
    return max(known, key=lambda row: row["cells"][first]["value"], default=None)


def _curve(axes: Axes, row: Mapping[str, Any], columns: Sequence[str], *, number: int, shift: float) -> None:
    known = [(place, row["cells"][column]) for place, column in enumerate(columns)]
    known = [(place, cell) for place, cell in known if cell and cell["value"] is not None and cell["low"] is not None]
    values = [cell["value"] for _, cell in known]
    below = [max(cell["value"] - cell["low"], 0) for _, cell in known]
    above = [max(cell["high"] - cell["value"], 0) for _, cell in known]
    axes.errorbar(
        [place + shift for place, _ in known],
        values,
        yerr=[below, above],
        color=SERIES[number % len(SERIES)],
        marker=MARKERS[number % len(MARKERS)],
        linestyle=LINES[number % len(LINES)],
        markersize=6,
        linewidth=2,
        elinewidth=1.4,
        capsize=3,
    )


def reconstruction(records: Sequence[Mapping[str, Any]], *, title: str) -> str:
    """Skill over the mean and over ridge regression, one line for every target and visible subset."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 0.42 * len(records) + 1.3), layout="constrained")
        axes = figure.subplots()
        for number, (name, offset) in enumerate((("skill_mean", -0.14), ("skill_ridge", 0.14))):
            for line, record in enumerate(records):
                _interval_mark(axes, record, name, line + offset, number)
        axes.axvline(0, color=TEXT, linewidth=1.2)
        labels = [f"{record['target']}\nfrom {' + '.join(record['visible'])}" for record in records]
        axes.set_yticks(range(len(records)), labels, fontsize=8, linespacing=1.15)
        axes.invert_yaxis()
        axes.set_xlim(max(axes.get_xlim()[0], WORST_SHOWN), 1.0)
        axes.set_xlabel("skill (0 = level with the rival, 1 = perfect)")
        axes.grid(visible=False, axis="y")
        axes.set_title(title)
        return svg(figure, f"reconstruction-{title}")


def _interval_mark(axes: Axes, record: Mapping[str, Any], name: str, height: float, number: int) -> None:
    value, low, high = record[name], record[f"{name}_low"], record[f"{name}_high"]
    if value is None or low is None:
        return
    if value < WORST_SHOWN:
        axes.plot([WORST_SHOWN], [height], color=SERIES[number], marker="<", markersize=7, clip_on=False)
        axes.annotate(
            f"{value:.2f}", (WORST_SHOWN, height), (7, 0), textcoords="offset points", va="center", fontsize=8
        )
        return
    axes.plot([low, high], [height, height], color=SERIES[number], linewidth=1.6)
    axes.plot([value], [height], color=SERIES[number], marker=MARKERS[number], markersize=6, linestyle="none")


def training_curves(history: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(name, SVG) of every curve that the history has something for: loss, its terms, attention, gates, hidden rate."""
    if len(history) < 2:
        return []
    terms = [name for name, value in history[-1].items() if name not in NOT_LOSS_TERMS and not isinstance(value, dict)]
    panels: list[tuple[str, dict[str, list[Any]]]] = [
        ("Loss", {"loss": [record.get("loss") for record in history]}),
        ("Loss terms", {name: [record.get(name) for record in history] for name in terms}),
        *((title, _by_modality(history, key)) for title, key in BY_MODALITY),
        ("Hidden rate", {"hidden rate": [record.get("hidden_rate") for record in history]}),
    ]
    rows = [record["rows"] for record in history]
    drawn = []
    for title, lines in panels:
        known = {name: values for name, values in lines.items() if any(value is not None for value in values)}
        if known:
            drawn.append((title, _lines(title, rows, known)))
    return drawn


BY_MODALITY = (
    ("Attention share", "attention"),
    ("Gate mean", "gate"),
    ("Error of hidden cells (1 = mean)", "residual"),
)


def _by_modality(history: Sequence[Mapping[str, Any]], key: str) -> dict[str, list[Any]]:
    names = list(dict.fromkeys(name for record in history for name in record.get(key) or {}))
    return {name: [(record.get(key) or {}).get(name) for record in history] for name in names}


def _lines(title: str, rows: Sequence[int], lines: Mapping[str, Sequence[Any]]) -> str:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 3.0), layout="constrained")
        axes = figure.subplots()
        for number, (name, values) in enumerate(lines.items()):
            known = [(row, value) for row, value in zip(rows, values, strict=True) if value is not None]
            axes.plot(
                [row for row, _ in known],
                [value for _, value in known],
                color=SERIES[number % len(SERIES)],
                linestyle=LINES[number % len(LINES)],
                linewidth=1.8,
                label=name,
            )
        smallest = min(value for values in lines.values() for value in values if value is not None)
        if title == "Loss terms" and smallest > 0:
            axes.set_yscale("log")
        axes.set_xlabel("molecules seen")
        axes.set_title(title)
        axes.margins(x=0.01)
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(5))
        axes.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(_thousands))
        if len(lines) > 1:
            figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
        return svg(figure, f"training-{title}")


def _thousands(value: float, _position: int) -> str:
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def svg(figure: Figure, name: str) -> str:
    """The figure as inline SVG without size, metadata or outside addresses; ids start with `name`."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" role="img">', text, count=1)
    text = text.replace("xlink:href", "href")
    prefix = re.sub(r"[^A-Za-z0-9]+", "-", name)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
    text = re.sub(r"font: (?:(bold) )?([\d.]+)px [^;\"]+", _font, text)
    for colour, variable in STAND_INS.items():
        text = text.replace(colour, f"var({variable})")
    return re.sub(r"\n\s*", "\n", text).strip()


def _font(found: re.Match[str]) -> str:
    return f"font-family: inherit; font-size: {found[2]}px" + ("; font-weight: 650" if found[1] else "")
