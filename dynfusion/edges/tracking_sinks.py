"""The places that records go to: files in the run's folder, a bucket's copy of them, MLflow, W&B. See tracking.py."""

import hashlib
import json
import os
import shutil
import struct
import time
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from dynfusion.training.checks import SCORE, VALIDATION
from dynfusion.training.loop import Record
from dynfusion.training.storage import Storage

HISTORY = "history.jsonl"
TENSORBOARD = "tensorboard"
_UPLOAD_SECONDS = 30.0
_CHECK_STEP = f"{VALIDATION}/step"
Scalars: TypeAlias = dict[str, float]
Ended: TypeAlias = Literal["finished", "failed", "interrupted"]
"""How a run ended, as far as this driver saw it."""


class _Frames:
    """A file that grows by whole pieces: one that did not fit on the disk leaves nothing behind."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("wb", buffering=0)
        self.end = 0

    def add(self, piece: bytes) -> None:
        self.file.truncate(self.end)
        self.file.seek(self.end)
        left = piece
        while left:
            left = left[self.file.write(left) :]
        self.end += len(piece)


class History:
    """`history.jsonl` in a local folder, a line for each record."""

    name = HISTORY

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self) -> None:
        self.lines = _Frames(self.folder / HISTORY)

    def write(self, made: Record) -> None:
        self.lines.add((json.dumps(made) + "\n").encode())

    def close(self, ended: Ended) -> None:
        self.lines.file.close()


class TensorBoard:
    """TensorBoard's events in a local folder: length, its checksum, event, checksum for each record.

    Not tensorboardX's own writer: its thread ends at the first full disk, and whoever writes then waits for ever.
    """

    name = TENSORBOARD

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self) -> None:
        now = time.time()
        self.events = _Frames(self.folder / TENSORBOARD / f"events.out.tfevents.{int(now)}.dynfusion")
        self._add(Event(wall_time=now, file_version="brain.Event:2"))

    def write(self, made: Record) -> None:
        values = [part for name, number in scalars(made).items() for part in summary.scalar(name, number).value]
        self._add(Event(wall_time=time.time(), step=made["step"], summary=summary.Summary(value=values)))

    def _add(self, event: Any) -> None:
        content = event.SerializeToString()
        length = struct.pack("<Q", len(content))
        checks = [struct.pack("<I", masked_crc32c(part)) for part in (length, content)]
        self.events.add(length + checks[0] + content + checks[1])

    def close(self, ended: Ended) -> None:
        self.events.file.close()


class Bucket:
    """A copy of the local folder in the run's bucket, renewed every half minute and at the end."""

    def __init__(self, storage: Storage, folder: Path) -> None:
        self.storage, self.folder = storage, folder
        self.name = f"{HISTORY} in {storage.address}"
        self.uploaded = time.monotonic()

    def open(self) -> None:
        """Nothing: the first copy is made with a record."""

    def write(self, made: Record) -> None:
        if time.monotonic() - self.uploaded > _UPLOAD_SECONDS:
            self._upload()

    def close(self, ended: Ended) -> None:
        try:
            self._upload()
        finally:
            shutil.rmtree(self.folder)

    def _upload(self) -> None:
        self.storage.put(self.folder, "", last=HISTORY)
        self.uploaded = time.monotonic()


class MLflow:
    """One MLflow run for each run folder, found again by its tag."""

    TAG = "dynfusion.run"
    STATUS: ClassVar[dict[Ended, str]] = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
    name = "tracking.mlflow"

    def __init__(self, uri: str, address: str) -> None:
        try:
            import mlflow as _  # noqa: F401
        except ImportError as error:
            raise ValueError(missing("mlflow")) from error
        # A server that does not answer is asked again with a later record; MLflow's own patience is minutes a request.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        self.uri, self.address = uri, address
        self.is_known = False
        """What the server has: not after a request that it did not answer."""

    def open(self) -> None:
        from mlflow import MlflowClient

        self.client = MlflowClient(self.uri)
        experiment = self.client.get_experiment_by_name("dynfusion")
        number = experiment.experiment_id if experiment else self.client.create_experiment("dynfusion")
        found = self.client.search_runs([number], f"tags.`{self.TAG}` = '{self.address}'")
        name = self.address.rpartition("/")[2]
        run = found[0] if found else self.client.create_run(number, tags={self.TAG: self.address}, run_name=name)
        self.run = run.info.run_id
        self.client.update_run(self.run, status="RUNNING")
        self.last_steps = {False: self._last("loss"), True: self._last(f"{VALIDATION}/{SCORE}")}
        self.is_known = True

    def _last(self, name: str) -> int:
        return max((metric.step for metric in self.client.get_metric_history(self.run, name)), default=0)

    def write(self, made: Record) -> None:
        from mlflow.entities import Metric

        if not self.is_known:
            self.open()
        if made["step"] > self.last_steps[VALIDATION in made]:
            self.is_known, now = False, int(1000 * time.time())
            self.client.log_batch(self.run, [Metric(*pair, now, made["step"]) for pair in scalars(made).items()])
            self.is_known = True

    def close(self, ended: Ended) -> None:
        self.client.set_terminated(self.run, self.STATUS[ended])


class WandB:
    """One W&B run for each run folder, its id the folder's hash."""

    name = "tracking.wandb"

    def __init__(self, project: str, address: str) -> None:
        try:
            import wandb as _  # noqa: F401
        except ImportError as error:
            raise ValueError(missing("wandb")) from error
        os.environ.setdefault(
            "WANDB_FINISH_TIMEOUT", "60"
        )  # else a run that is done would wait for ever for its server
        self.project, self.address = project, address

    def open(self) -> None:
        import wandb

        number = hashlib.sha256(self.address.encode()).hexdigest()[:16]
        name = self.address.rpartition("/")[2]
        self.run = wandb.init(project=self.project, id=number, name=name, resume="allow")
        self.last_step = self.run.step

    def write(self, made: Record) -> None:
        if VALIDATION in made:  # comes behind later steps, which W&B refuses, so its step is a number like others
            if made["step"] > self.run.summary.get(_CHECK_STEP, 0):
                self.run.log({**scalars(made), _CHECK_STEP: made["step"]})
        elif made["step"] > self.last_step:
            self.run.log(scalars(made), step=made["step"])

    def close(self, ended: Ended) -> None:
        self.run.finish(exit_code=0 if ended == "finished" else 1)


def scalars(made: Record) -> Scalars:
    """The numbers of a record by name, those of a modality as `attention/morgan`; what has no data is left out."""
    found: Scalars = {}
    for name, value in made.items():
        parts: dict[str, Any] = (
            {f"{name}/{m}": v for m, v in value.items()} if isinstance(value, dict) else {name: value}
        )
        found |= {part: float(number) for part, number in parts.items() if isinstance(number, int | float)}
    return found


def missing(package: str) -> str:
    return f"setting tracking.{package}: {package} is not installed here, pip install 'dynfusion[tracking]' brings it"
