"""What a page is made of: sections of text, tables, figures and folded parts; HTML and Markdown render the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

UNKNOWN = "–"
Tone = Literal["", "best", "ahead", "behind", "level"]


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str
    small: tuple[str, ...] = ()
    """Lines below it: its interval."""
    mark: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class Row:
    """A line of a table: its heading, then its cells."""

    name: str
    cells: tuple[Cell, ...]
    ours: bool = False


@dataclass(frozen=True)
class Group:
    """Some rows under a common heading; "" for none."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """Headings across; the first is that of the rows' names."""

    columns: tuple[str, ...]
    groups: tuple[Group, ...]
    notes: tuple[str, ...] = ()
    words: bool = False
    """Whether cells are words (left) and not numbers (right)."""


@dataclass(frozen=True)
class Figures:
    """SVG plots, each with what it shows for those who cannot see it; a legend of (number of the series, name)."""

    plots: tuple[tuple[str, str], ...]
    legend: tuple[tuple[int, str], ...] = ()
    solid: bool = False
    """Whether the lines of the legend are never dashed."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    note: bool = False


@dataclass(frozen=True)
class Terms:
    """Names and what they mean, or settings and their values."""

    entries: tuple[tuple[str, str], ...]
    code: bool = False


@dataclass(frozen=True)
class Fold:
    """What is read only when opened."""

    title: str
    blocks: tuple[Any, ...]


Block = Text | Table | Figures | Terms | Fold


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading; `name` is its anchor, `short` what the list of contents calls it."""

    name: str
    title: str
    blocks: tuple[Block, ...]
    short: str


def kind(block: Block) -> str:
    """Name of the macro that renders it."""
    return type(block).__name__.lower()


def number(value: float | None, digits: int = 3) -> str:
    """Rounded; a dash for what is not known."""
    return UNKNOWN if value is None else _minus(f"{value:.{digits}f}")


def signed(value: float | None, digits: int = 3) -> str:
    """Rounded, with its sign."""
    return UNKNOWN if value is None else _minus(f"{value:+.{digits}f}")


def span(low: float | None, high: float | None, *, digits: int = 3, sign: bool = False) -> str:
    """An interval, `0.801–0.884`, or `+0.010 to +0.031`; "" where it is not known."""
    if low is None or high is None:
        return ""
    if sign or low < 0:
        return f"{signed(low, digits)} to {signed(high, digits)}"
    return f"{number(low, digits)}–{number(high, digits)}"


def plain(value: float | None, digits: int = 3) -> Cell:
    """A number alone."""
    return Cell(number(value, digits))


def with_interval(record: Mapping[str, Any] | None, key: str = "value", *, digits: int = 3) -> Cell:
    """A number with its interval below; `low` and `high`, or those of a named key."""
    if record is None or record.get(key) is None:
        return Cell(UNKNOWN)
    names = ("low", "high") if key in ("value", "shapley") else (f"{key}_low", f"{key}_high")
    interval = span(record.get(names[0]), record.get(names[1]), digits=digits)
    return Cell(number(record[key], digits), (interval,) if interval else ())


def one_group(rows: Sequence[Row]) -> tuple[Group, ...]:
    """Rows without a heading."""
    return (Group("", tuple(rows)),)


def _minus(text: str) -> str:
    return text.replace("-", "−")
