"""What a person sees while a command works: a progress bar on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

LINE_SECONDS = 10.0
Advance = Callable[[int, int], None]

console = Console(highlight=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`: as exact as an estimate is."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def progress(title: str, *, lines: bool = True) -> Iterator[Advance]:
    """A function (done, total) to call as often as wanted.

    A log gets a line every ten seconds, or none where the caller prints its own (`lines=False`), and one at the end.
    """
    started = time.monotonic()
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(title, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        yield _lines(title, started) if lines else _nothing
    console.print(f"{title}: done in {time.monotonic() - started:.1f} s")


class _Rate(ProgressColumn):
    """How many are done a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "")


def _lines(title: str, started: float) -> Advance:
    last = started

    def advance(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_SECONDS and done < total:
            last = time.monotonic()
            rate = done / max(last - started, 1e-9)
            left = f", {(total - done) / rate:.0f} s left" if rate else ""
            console.print(f"{title}: {done} of {total}, {rate:,.0f}/s{left}")
            sys.stdout.flush()

    return advance


def _nothing(done: int, total: int) -> None:
    """The caller prints lines of its own."""


def training_line(record: dict[str, Any], total_steps: int) -> str:
    """One record of a training run in one line."""
    attention = " ".join(f"{name} {share:.2f}" for name, share in record["attention"].items() if share is not None)
    return (
        f"step {record['step']}/{total_steps}  loss {record['loss']:.4f}  reconstruction "
        f"{_number(record['reconstruction'])}  alignment {_number(record['alignment'])}  hidden "
        f"{record['hidden_rate']:.2f}  attention {attention}  {record['rows_per_second']:,.0f} rows/s"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
