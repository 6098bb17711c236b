"""Figures as SVG text that takes its colours from the page, so that one file reads in light and dark.

Matplotlib draws with stand-in colours; they become CSS variables afterwards. The output has no date, no random ids and
no address of anything outside.
"""

import io
import re
from typing import Any

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
    "#0a0014": "--card",
}
COLOURS = {variable: colour for colour, variable in STAND_INS.items()}
TEXT, MUTED, GRID, CARD = (COLOURS[name] for name in ("--text", "--muted", "--grid", "--card"))
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


def thousands(value: float, _position: int = 0) -> str:
    """A count as a tick says it: `20 k`, `1.5 M`."""
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
