"""Figures of the report as SVG text that takes its colours from the page, so that one file reads in light and dark.

Matplotlib draws with stand-in colours; they become CSS variables afterwards. The output has no date, no random ids and
no address of anything outside.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

STAND_INS = {
    "#0a0001": "--series-1",
    "#0a0002": "--series-2",
    "#0a0003": "--series-3",
    "#0a0004": "--series-4",
    "#0a0005": "--series-5",
    "#0a0006": "--series-6",
    "#0a0007": "--series-7",
    "#0a0008": "--series-8",
    "#0a0011": "--text",
    "#0a0012": "--muted",
    "#0a0013": "--grid",
}
COLOURS = {variable: colour for colour, variable in STAND_INS.items()}
TEXT, MUTED, GRID = COLOURS["--text"], COLOURS["--muted"], COLOURS["--grid"]
SERIES = [COLOURS[f"--series-{number}"] for number in range(1, 9)]
LINES = ["-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 1.5, 1.5, 1.5)), (0, (8, 2)), (0, (3, 3)), (0, (7, 1)), (0, (2, 3))]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
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
NOT_LOSS_TERMS = frozenset(
    {"step", "rows", "epoch", "learning_rate", "hidden_rate", "gradient_norm", "loss", "attention_entropy"}
)


def training_curves(history: Sequence[Mapping[str, Any]], *, model: str) -> list[tuple[str, str]]:
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
            drawn.append((title, _lines(title, rows, known, name=f"training-{model}-{title}")))
    return drawn


BY_MODALITY = (
    ("Attention share", "attention"),
    ("Gate mean", "gate"),
    ("Error of hidden cells (1 = mean)", "residual"),
)


def _by_modality(history: Sequence[Mapping[str, Any]], key: str) -> dict[str, list[Any]]:
    names = list(dict.fromkeys(name for record in history for name in record.get(key) or {}))
    return {name: [(record.get(key) or {}).get(name) for record in history] for name in names}


def _lines(title: str, rows: Sequence[int], lines: Mapping[str, Sequence[Any]], *, name: str) -> str:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 3.0), layout="constrained")
        axes = figure.subplots()
        for number, (line, values) in enumerate(lines.items()):
            known = [(row, value) for row, value in zip(rows, values, strict=True) if value is not None]
            axes.plot(
                [row for row, _ in known],
                [value for _, value in known],
                color=SERIES[number % len(SERIES)],
                linestyle=LINES[number % len(LINES)],
                linewidth=1.8,
                label=line,
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
        return svg(figure, name)


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
