"""Where a run can be watched: history.jsonl and TensorBoard in its own folder always, MLflow and W&B when asked for.

    driver: records of rank 0 --> Tracker --> <run>/history.jsonl, <run>/tensorboard/events...
                                      \\----> MLflow, W&B

Every step once: what lies in the folder is written anew from the history of the checkpoint that a run continues from,
and steps that are done again after a failure, equal but for their timing, are not written again.

Watching ends no run: a place that fails is named once, and gets what it lacks with a later record.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, runtime_checkable

from dynfusion.edges.tracking_sinks import TENSORBOARD, Bucket, Ended, History, MLflow, TensorBoard, WandB, missing
from dynfusion.training.checks import VALIDATION
from dynfusion.training.config import TrackingSettings
from dynfusion.training.loop import Record
from dynfusion.training.scratch import new_scratch_folder
from dynfusion.training.storage import LocalStorage, Storage

_PAUSE_AFTER_FAILURE, _LONGEST_PAUSE_SECONDS = 10.0, 300.0
"""How long a place that failed is left alone, in durations of the attempt that failed, and at most."""


@runtime_checkable
class Sink(Protocol):
    """One of the places that records go to. What it raises is said, and tried again later."""

    name: str
    """What a person calls it."""

    def open(self) -> None:
        """Called before the first record, and again when it has failed."""

    def write(self, made: Record) -> None:
        """Add a record, whole or not at all."""

    def close(self, ended: Ended) -> None:
        """Leave everything readable, and how the run ended where that can be said."""


@dataclass
class _Delivery:
    """How far one sink has come in the records of a run."""

    sink: Sink
    say: Callable[[str], None]
    is_open: bool = False
    written: int = 0
    has_failed: bool = False
    not_before: float = -math.inf

    def send(self, records: Sequence[Record]) -> None:
        """Write what the sink lacks, unless it failed a moment ago."""
        started = time.monotonic()
        if started < self.not_before:
            return
        try:
            if not self.is_open:
                self.sink.open()
                self.is_open = True
            while self.written < len(records):
                self.sink.write(records[self.written])
                self.written += 1
        except Exception as error:  # other people's servers and disks: whatever it is, it ends no run
            now = time.monotonic()
            self.not_before = now + min(_PAUSE_AFTER_FAILURE * (now - started), _LONGEST_PAUSE_SECONDS)
            if not self.has_failed:
                self.say(f"{self.sink.name} failed, training goes on and it is tried again: {_line(error)}")
            self.has_failed = True

    def close(self, records: Sequence[Record], ended: Ended) -> None:
        """A last attempt."""
        self.not_before = -math.inf
        self.send(records)
        lacking = len(records) - self.written
        if lacking:
            self.say(f"{self.sink.name} lacks the last {lacking} of {len(records)} records")
        try:
            if self.is_open:
                self.sink.close(ended)
        except Exception as error:
            self.say(f"{self.sink.name} failed at its end: {_line(error)}")


class Tracker:
    """Sends every record to every sink once, as they come: one that was lost on its way comes late."""

    def __init__(self, sinks: Sequence[Sink], say: Callable[[str], None]) -> None:
        self.deliveries = [_Delivery(sink, say) for sink in sinks]
        self.records: list[Record] = []
        self.seen: set[tuple[bool, int]] = set()

    def open(self) -> None:
        """Make every sink ready."""
        for delivery in self.deliveries:
            delivery.send([])

    def record(self, made: Record) -> None:
        """Write what training recorded, or what a check found; each kind has its own steps."""
        which = (VALIDATION in made, made["step"])
        if which in self.seen:
            return
        self.seen.add(which)
        self.records.append(made)
        for delivery in self.deliveries:
            delivery.send(self.records)

    def close(self, ended: Ended = "finished") -> None:
        """Leave every sink readable."""
        for delivery in self.deliveries:
            delivery.close(self.records, ended)


@contextmanager
def tracker(
    storage: Storage, settings: TrackingSettings, history: Sequence[Record], say: Callable[[str], None]
) -> Iterator[Tracker]:
    """A tracker of the run in `storage`, which has come as far as `history` says; its sinks are closed at the end.

    Raises ValueError when a tracker is asked for that is not installed; a sink that fails later is named through `say`.
    """
    made = Tracker(list(_sinks(storage, settings)), say)
    ended: Ended = "interrupted"
    try:
        made.open()
        for record in history:
            made.record(record)
        yield made
        ended = "finished"
    except Exception:
        ended = "failed"
        raise
    finally:
        made.close(ended)


def require_trackers(settings: TrackingSettings) -> None:
    """Raises ValueError when a tracker is asked for that is not installed."""
    for library, asked in (("mlflow", settings.mlflow), ("wandb", settings.wandb)):
        if asked is not None and find_spec(library) is None:
            raise ValueError(missing(library))


def _sinks(storage: Storage, settings: TrackingSettings) -> Iterator[Sink]:
    """The run's own folder first."""
    others: list[Sink] = []
    if settings.mlflow is not None:
        others.append(MLflow(settings.mlflow, storage.address))
    if settings.wandb is not None:
        others.append(WandB(settings.wandb, storage.address))
    storage.remove(TENSORBOARD)
    is_local = isinstance(storage, LocalStorage)
    folder = Path(storage.address) if is_local else new_scratch_folder("tracking")
    yield History(folder)
    yield TensorBoard(folder)
    if not is_local:
        yield Bucket(storage, folder)
    yield from others


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
