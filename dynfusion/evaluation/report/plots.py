"""Figures of training: loss, its terms, attention, gates and hidden rate over the molecules seen."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from dynfusion.page.drawing import LINES, SERIES, STYLE, svg, thousands

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
        axes.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(thousands))
        if len(lines) > 1:
            figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
        return svg(figure, name)
