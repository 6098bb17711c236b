"""Where a run can be watched: history.jsonl and TensorBoard in its own folder always, MLflow and W&B when asked for.

    driver: records of rank 0 --> Tracker --> <run>/history.jsonl, <run>/tensorboard/events...
                                      \\----> MLflow, W&B

Every step once: what lies in the folder is written anew from the history of the checkpoint that a run continues from,
and steps that are done again after a failure, equal but for their timing, are not written again.
"""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from tensorboardX import SummaryWriter

from dynfusion.training.checks import SCORE, VALIDATION
from dynfusion.training.config import TrackingSettings
from dynfusion.training.loop import Record
from dynfusion.training.storage import LocalStorage, Storage

HISTORY = "history.jsonl"
TENSORBOARD = "tensorboard"
_UPLOAD_SECONDS = 30.0
_CHECK_STEP = f"{VALIDATION}/step"
Scalars: TypeAlias = dict[str, float]


@runtime_checkable
class Sink(Protocol):
    """One of the places that records go to."""

    def write(self, made: Record) -> None:
        """Add a record."""

    def close(self) -> None:
        """Leave everything readable."""


class Tracker:
    """Sends every record to every sink once, in the order of steps."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self.sinks = sinks
        self.last_steps = {False: 0, True: 0}

    def record(self, made: Record) -> None:
        """Write what training recorded, or what a check found; each kind has its own steps."""
        kind = VALIDATION in made
        if made["step"] <= self.last_steps[kind]:
            return
        self.last_steps[kind] = made["step"]
        for sink in self.sinks:
            sink.write(made)


@contextmanager
def tracker(storage: Storage, settings: TrackingSettings, history: Sequence[Record]) -> Iterator[Tracker]:
    """A tracker of the run in `storage`, which has come as far as `history` says; its sinks are closed at the end.

    Raises ValueError when a tracker is asked for that is not installed.
    """
    with ExitStack() as stack:
        made = Tracker([stack.enter_context(closing(sink)) for sink in _sinks(storage, settings)])
        for record in history:
            made.record(record)
        yield made


def _sinks(storage: Storage, settings: TrackingSettings) -> Iterator[Sink]:
    if settings.mlflow is not None:
        yield MLflow(settings.mlflow, storage.address)
    if settings.wandb is not None:
        yield WandB(settings.wandb, storage.address)
    yield RunFolder(storage)


class RunFolder:
    """`history.jsonl` and TensorBoard's events in the run's folder; in a bucket they are renewed every half minute."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.is_local = isinstance(storage, LocalStorage)
        self.folder = Path(storage.address if self.is_local else tempfile.mkdtemp(prefix="dynfusion-tracking-"))
        self.uploaded = time.monotonic()
        storage.remove(TENSORBOARD)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lines = (self.folder / HISTORY).open("w", encoding="utf-8")
        self.board = SummaryWriter(str(self.folder / TENSORBOARD))

    def write(self, made: Record) -> None:
        self.lines.write(json.dumps(made) + "\n")
        for name, value in scalars(made).items():
            self.board.add_scalar(name, value, made["step"])
        self.lines.flush()
        if not self.is_local and time.monotonic() - self.uploaded > _UPLOAD_SECONDS:
            self._upload()

    def close(self) -> None:
        self.lines.close()
        self.board.close()
        if not self.is_local:
            self._upload()
            shutil.rmtree(self.folder)

    def _upload(self) -> None:
        self.board.flush()
        self.storage.put(self.folder, "", last=HISTORY)
        self.uploaded = time.monotonic()


class MLflow:
    """One MLflow run for each run folder, found again by its tag."""

    TAG = "dynfusion.run"

    def __init__(self, uri: str, address: str) -> None:
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise ValueError(_missing("mlflow")) from error
        self.client = MlflowClient(uri)
        experiment = self.client.get_experiment_by_name("dynfusion")
        number = experiment.experiment_id if experiment else self.client.create_experiment("dynfusion")
        found = self.client.search_runs([number], f"tags.`{self.TAG}` = '{address}'")
        name = address.rpartition("/")[2]
        run = found[0] if found else self.client.create_run(number, tags={self.TAG: address}, run_name=name)
        self.run = run.info.run_id
        self.last_steps = {False: self._last("loss"), True: self._last(f"{VALIDATION}/{SCORE}")}

    def _last(self, name: str) -> int:
        return max((metric.step for metric in self.client.get_metric_history(self.run, name)), default=0)

    def write(self, made: Record) -> None:
        if made["step"] > self.last_steps[VALIDATION in made]:
            for name, value in scalars(made).items():
                self.client.log_metric(self.run, name, value, step=made["step"])

    def close(self) -> None:
        self.client.set_terminated(self.run)


class WandB:
    """One W&B run for each run folder, its id the folder's hash."""

    def __init__(self, project: str, address: str) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ValueError(_missing("wandb")) from error
        number = hashlib.sha256(address.encode()).hexdigest()[:16]
        self.run = wandb.init(project=project, id=number, name=address.rpartition("/")[2], resume="allow")
        self.last_step = self.run.step

    def write(self, made: Record) -> None:
        if VALIDATION in made:  # comes behind later steps, which W&B refuses, so its step is a number like others
            if made["step"] > self.run.summary.get(_CHECK_STEP, 0):
                self.run.log({**scalars(made), _CHECK_STEP: made["step"]})
        elif made["step"] > self.last_step:
            self.run.log(scalars(made), step=made["step"])

    def close(self) -> None:
        self.run.finish()


def scalars(made: Record) -> Scalars:
    """The numbers of a record by name, those of a modality as `attention/morgan`; what has no data is left out."""
    found: Scalars = {}
    for name, value in made.items():
        parts: dict[str, Any] = (
            {f"{name}/{m}": v for m, v in value.items()} if isinstance(value, dict) else {name: value}
        )
        found |= {part: float(number) for part, number in parts.items() if isinstance(number, int | float)}
    return found


def _missing(package: str) -> str:
    return f"setting tracking.{package}: {package} is not installed here, pip install 'dynfusion[tracking]' brings it"
