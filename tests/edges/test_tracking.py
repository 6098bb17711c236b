"""What a run leaves for its watchers: every step once, whatever happened in between."""

import json
import resource
import signal
import socket
import struct
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from dynfusion.edges.s3_storage import open_storage
from dynfusion.edges.tracking import Tracker, tracker
from dynfusion.edges.tracking_sinks import MLflow, scalars
from dynfusion.training.config import TrackingSettings
from tests.s3 import make_bucket


def made(step: int, loss: float = 1.0) -> dict[str, Any]:
    return {"step": step, "loss": loss, "sparsity": None, "attention": {"a": 0.25, "b": None}, "rows_per_second": 10.5}


def events(folder: Path) -> list[tuple[str, int, float]]:
    """(name, step, value) of all event files below a folder: frames of length, its checksum, content, checksum."""
    found = []
    for path in sorted(folder.rglob("events*")):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            content = content[16 + length :]
    return found


def lines(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.decode().splitlines()]


def test_a_resumed_run_has_every_step_once(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    with tracker(storage, TrackingSettings(), [], print) as first:
        for step in (2, 4, 6):  # killed at 6, after a checkpoint at 4
            first.record(made(step))
    with tracker(storage, TrackingSettings(), [made(2), made(4)], print) as second:
        for step in (6, 8, 4, 6, 8, 10):  # and a worker group that started again in between
            second.record(made(step, loss=step / 2))
    assert [record["step"] for record in lines(storage.read("history.jsonl"))] == [2, 4, 6, 8, 10]
    losses = [(step, value) for name, step, value in events(tmp_path / "tensorboard") if name == "loss"]
    assert losses == [(2, 1.0), (4, 1.0), (6, 3.0), (8, 4.0), (10, 5.0)]
    assert {name for name, _, _ in events(tmp_path)} == {"step", "loss", "attention/a", "rows_per_second"}


def test_a_record_that_was_lost_on_its_way_is_written_when_it_comes_at_the_end(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    with tracker(storage, TrackingSettings(), [], print) as tracked:
        for step in (2, 6, 2, 4, 6):
            tracked.record(made(step))
    assert [record["step"] for record in lines(storage.read("history.jsonl"))] == [2, 6, 4]


def test_checks_have_steps_of_their_own(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    checked = {"step": 2, "validation": {"score": 0.5}}
    with tracker(storage, TrackingSettings(), [made(2), made(4), checked], print) as tracked:
        for record in (made(4), checked, made(6), {**checked, "step": 4}):
            tracked.record(record)
    assert [record["step"] for record in lines(storage.read("history.jsonl"))] == [2, 4, 2, 6, 4]
    scores = [(step, value) for name, step, value in events(tmp_path / "tensorboard") if name == "validation/score"]
    assert scores == [(2, 0.5), (4, 0.5)]


def test_in_a_bucket_the_same_files_are_there_at_the_end(s3: str, tmp_path: Path) -> None:
    make_bucket(s3, "tracking")
    storage = open_storage(f"s3://tracking/run?endpoint_override={s3}")
    for history in ([], [made(2)]):
        with tracker(storage, TrackingSettings(), history, print) as tracked:
            tracked.record(made(2))
            tracked.record(made(4))
    assert [record["step"] for record in lines(storage.read("history.jsonl"))] == [2, 4]
    with storage.local("tensorboard") as folder:
        assert [step for name, step, _ in events(folder) if name == "loss"] == [2, 4]


def test_a_tracker_that_is_not_installed_is_named_with_its_cure(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    settings = TrackingSettings(mlflow=str(tmp_path))
    with (
        pytest.raises(ValueError, match=r"setting tracking\.mlflow: mlflow is not installed here"),
        tracker(open_storage(str(tmp_path)), settings, [], print),
    ):
        raise AssertionError


def test_mlflow_gets_every_step_once(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="the extra `tracking` is not installed")
    from mlflow import MlflowClient

    settings = TrackingSettings(mlflow=f"sqlite:///{tmp_path}/mlflow.db")
    for history in ([], [made(2)]):
        with tracker(open_storage(str(tmp_path / "run")), settings, history, print) as tracked:
            for step in (4, 6):
                tracked.record(made(step))
    client = MlflowClient(settings.mlflow)
    (run,) = client.search_runs([client.get_experiment_by_name("dynfusion").experiment_id])
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "loss")] == [4, 6]
    assert run.info.status == "FINISHED"


def test_mlflow_shows_a_run_that_failed_as_failed_and_one_that_goes_on_as_running(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="the extra `tracking` is not installed")
    from mlflow import MlflowClient

    settings = TrackingSettings(mlflow=f"sqlite:///{tmp_path}/mlflow.db")
    client = MlflowClient(settings.mlflow)

    def status() -> str:
        (run,) = client.search_runs([client.get_experiment_by_name("dynfusion").experiment_id])
        return run.info.status

    def drive(error: BaseException) -> None:
        with tracker(open_storage(str(tmp_path / "run")), settings, [], print):
            assert status() == "RUNNING"
            raise error

    for error, expected in ((RuntimeError(), "FAILED"), (KeyboardInterrupt(), "KILLED")):
        with pytest.raises(type(error)):
            drive(error)
        assert status() == expected


def test_names_of_a_record_are_flat() -> None:
    assert scalars(made(3)) == {"step": 3.0, "loss": 1.0, "attention/a": 0.25, "rows_per_second": 10.5}


class Sometimes:
    """A place for records that fails when it is told to."""

    name = "tracking.sometimes"

    def __init__(self, *failing: int) -> None:
        self.failing = list(failing)
        self.steps: list[int] = []
        self.ended: list[str] = []

    def open(self) -> None:
        """Always ready."""

    def write(self, made: dict[str, Any]) -> None:
        if made["step"] in self.failing:
            self.failing.remove(made["step"])
            raise ConnectionError("503 Service Unavailable")
        self.steps.append(made["step"])

    def close(self, ended: str) -> None:
        self.ended.append(ended)
        raise TimeoutError("no answer")


@pytest.mark.parametrize(
    ("error", "ended", "status"),
    [
        (None, "finished", "FINISHED"),
        (RuntimeError("training failed"), "failed", "FAILED"),
        (KeyboardInterrupt(), "interrupted", "KILLED"),
    ],
)
def test_who_tracks_a_run_is_told_how_it_ended(
    error: BaseException | None, ended: str, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = Sometimes()
    monkeypatch.setattr("dynfusion.edges.tracking._sinks", lambda *_: iter([sink]))
    storage = open_storage(str(tmp_path))
    expected = nullcontext() if error is None else pytest.raises(type(error))
    with expected, tracker(storage, TrackingSettings(), [], lambda text: None):
        if error is not None:
            raise error
    assert sink.ended == [ended]
    assert MLflow.STATUS[ended] == status


def test_a_sink_that_fails_is_said_once_and_gets_what_it_lacks_with_the_next_record(tmp_path: Path) -> None:
    said: list[str] = []
    first, last = Sometimes(4, 8), Sometimes()
    tracked = Tracker([first, last], said.append)
    tracked.open()
    for step in (2, 4):
        tracked.record(made(step))
    assert (first.steps, last.steps) == ([2], [2, 4])
    for step in (4, 6, 8, 10):
        tracked.record(made(step))
    tracked.close()
    assert first.steps == last.steps == [2, 4, 6, 8, 10]
    assert said == [
        "tracking.sometimes failed, training goes on and it is tried again: ConnectionError: 503 Service Unavailable",
        *["tracking.sometimes failed at its end: TimeoutError: no answer"] * 2,
    ]


def test_a_sink_that_never_came_back_is_said_to_lack_records() -> None:
    said: list[str] = []
    tracked = Tracker([Sometimes(*[4] * 9)], said.append)
    for step in (2, 4, 6):
        tracked.record(made(step))
    tracked.close()
    assert said[1] == "tracking.sometimes lacks the last 2 of 3 records"


def test_a_sink_that_takes_long_to_fail_is_left_alone_for_longer(monkeypatch: Any) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    class Slow(Sometimes):
        tries = 0

        def write(self, made: dict[str, Any]) -> None:
            self.tries += 1
            now[0] += 10.0
            raise TimeoutError

    slow = Slow()
    tracked = Tracker([slow], print)
    for step in range(1, 400):
        tracked.record(made(step))
        now[0] += 1.0
    assert slow.tries <= 5


def test_a_full_disk_leaves_whole_lines_and_events_once_there_is_room_again(tmp_path: Path) -> None:
    said: list[str] = []
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with tracker(open_storage(str(tmp_path)), TrackingSettings(), [made(1)], said.append) as tracked:
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
        try:
            for step in (2, 3):
                tracked.record(made(step))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
    assert [line.partition(" failed, ")[0] for line in said] == ["history.jsonl", "tensorboard"]
    assert [record["step"] for record in lines((tmp_path / "history.jsonl").read_bytes())] == [1, 2, 3]
    assert [step for name, step, _ in events(tmp_path) if name == "loss"] == [1, 2, 3]


def test_a_server_that_does_not_answer_ends_no_run(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="the extra `tracking` is not installed")
    said: list[str] = []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        settings = TrackingSettings(mlflow=f"http://127.0.0.1:{taken.getsockname()[1]}")
        with tracker(open_storage(str(tmp_path)), settings, [], said.append) as tracked:
            tracked.record(made(2))
            assert [record["step"] for record in lines((tmp_path / "history.jsonl").read_bytes())] == [2]
    assert len(said) == 2
    assert said[0].startswith("tracking.mlflow failed, training goes on and it is tried again: ")
    assert said[1] == "tracking.mlflow lacks the last 1 of 1 records"
