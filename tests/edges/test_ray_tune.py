"""Sweeps on real Ray Tune and Ray Train, of trials that take a second: their records, their end, and being killed."""

import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from dynfusion.run_settings import read_run
from dynfusion.training.storage import LocalStorage
from dynfusion.tuning.records import DEFAULT, Trial, read_curves, read_finals, read_sweep, read_trials
from dynfusion.tuning.samples import random_sample
from tests.clusters import TwoNodes, two_node_cluster
from tests.datasets import packed
from tests.training.cases import MODEL

STEPS, BATCH = 12, 128
END_SECONDS = 180.0
"""For a command whose cluster is lost: Ray looks for a head for a minute, and once more at its end."""
RUN = """
[data]
uri = "{uri}"
[model]
{model}
[masking]
ramp_share = 0.2
[train]
epochs = 3
global_batch_rows = 128
log_every_steps = 2
checkpoint_every_steps = 3
gradient_clipping = 0.0
[engine]
kind = "torch"
[cluster]
storage = "{storage}"
workers = 1
"""
GOOD = '["loss.alignment"]\nloguniform = [0.005, 0.5]\n\n["train.learning_rate"]\nloguniform = [1e-4, 3e-2]\n'
SOME_FAIL = '["loss.alignment"]\nloguniform = [0.005, 0.5]\n\n["train.learning_rate"]\nchoice = [0.01, 1e30]\n'


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return packed(tmp_path_factory.mktemp("data"), rows=700, holdout=0.2).uri


def command(folder: Path, uri: str, space: str, *options: str, model: str = "") -> list[str]:
    """`dynfusion tune` of a space over the run, both written into the folder."""
    widths = model or "".join(f"{name} = {getattr(MODEL, name)}\n" for name in ("dim", "gate_hidden", "decoder_hidden"))
    (folder / "run.toml").write_text(RUN.format(uri=uri, storage=folder / "runs", model=widths))
    (folder / "space.toml").write_text(space)
    files = [str(folder / "space.toml"), "--run", str(folder / "run.toml"), "--name", "sweep"]
    return [sys.executable, "-m", "dynfusion", "tune", *files, *options]


def done(command: list[str], cluster: TwoNodes | None = None) -> str:
    """Its output, once it has succeeded."""
    environment = cluster.environment if cluster else {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    made = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert made.returncode == 0, made.stdout + made.stderr
    return made.stdout


def trials(folder: Path) -> tuple[Trial, ...]:
    return read_trials(LocalStorage(folder / "runs" / "sweep"))


@pytest.mark.slow
def test_a_sweep_leaves_its_records_its_report_and_a_run_file_of_its_winner(uri: str, tmp_path: Path) -> None:
    said = done(command(tmp_path, uri, SOME_FAIL, "--samples", "4", "--seed", "1", "--top-k", "1", "--seeds", "2"))
    storage = LocalStorage(tmp_path / "runs" / "sweep")
    sweep, found = read_sweep(storage), read_trials(storage)
    assert [trial.settings for trial in found] == [random_sample(sweep.space, 1, number) for number in range(4)]
    wild = {trial.id for trial in found if trial.settings["train.learning_rate"] == 1e30}
    assert 0 < len(wild) < 4
    for trial in found:
        assert trial.attempts == 1
        assert trial.total_samples == STEPS * BATCH
        if trial.id in wild:
            assert trial.state == "failed"
            assert trial.reason is not None
            assert trial.reason.startswith("training stopped at step ")
            continue
        assert (trial.state, trial.step, trial.samples_seen) == ("finished", STEPS, STEPS * BATCH)
        points = read_curves(storage)[trial.id]
        assert [point.step for point in points] == [3, 6, 9, 12]
        assert points[-1].objectives == trial.objectives
        checks = json.loads((storage.folder / trial.run / f"validation/checkpoint-{STEPS:08d}-001.json").read_text())
        assert trial.objectives == {"score": checks["metrics"]["over_ridge"]}
        assert (storage.folder / trial.run / "model" / "model.safetensors").exists()
        assert not list((storage.folder / trial.run).glob("checkpoint-*"))
        assert trial.seconds > 0
    finals = read_finals(storage)
    assert finals is not None
    assert finals.complete
    assert [(entry.label == DEFAULT, [run.seed for run in entry.seeds]) for entry in finals.entries] == [
        (False, [1001, 1002]),
        (True, [1001, 1002]),
    ]
    assert finals.entries[0].label not in wild
    best = read_run(storage.folder / "best.toml")
    for name, value in finals.entries[0].settings.items():
        part, leaf = name.split(".")
        assert getattr(getattr(best, part), leaf) == value
    assert tomllib.loads((storage.folder / "best.toml").read_text())["cluster"]["name"] == "sweep-best"
    assert (storage.folder / "report.html").exists()
    assert f"report: {storage.folder}/report.html" in said
    assert "4 of 4 done" in said
    assert all(f"trial {name}  FAILED: training stopped at step" in said for name in wild)


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoNodes]:
    with two_node_cluster(head_cpus=1, second_cpus=1) as made:
        yield made


RAYS_OWN = "_AutoscalingCoordinatorActor"
"""One for each cluster, from the first Ray Train run to the cluster's end."""
LASTING = (RAYS_OWN, "IDLE", "DashboardAgent", "RuntimeEnvAgent")


def left_on(cluster: TwoNodes) -> tuple[Counter[str], Counter[str]]:
    """What is alive on a cluster: actors by class, placement groups by state."""
    actors = cluster.ask("/api/v0/actors?limit=10000")["data"]["result"]["result"]
    groups = cluster.ask("/api/v0/placement_groups?limit=10000")["data"]["result"]["result"]
    alive = Counter(
        actor["class_name"] for actor in actors if actor["state"] != "DEAD" and actor["class_name"] != RAYS_OWN
    )
    return alive, Counter(group["state"] for group in groups if group["state"] != "REMOVED")


@pytest.mark.slow
def test_asha_stops_trials_and_leaves_no_worker_actor_or_placement_group(
    uri: str, tmp_path: Path, cluster: TwoNodes
) -> None:
    options = ("--scheduler", "asha", "--samples", "8", "--reduction", "2", "--top-k", "0")
    done(command(tmp_path, uri, GOOD, *options), cluster)
    found = trials(tmp_path)
    assert {trial.state for trial in found} == {"finished", "stopped"}
    for trial in found:
        assert (trial.samples_seen == trial.total_samples) == (trial.state == "finished")
        assert not list((tmp_path / "runs" / "sweep" / trial.run).glob("checkpoint-*"))
    assert left_on(cluster) == (Counter(), Counter())
    titles = titles_of(cluster).values()
    assert not [title for title in titles if not any(name in title for name in LASTING)]


def titles_of(cluster: TwoNodes) -> dict[int, str]:
    """What Ray's Python processes on both nodes say that they do, by process id."""
    found = [*cluster.head.processes(), *cluster.second.processes()]
    titles = {process.pid: " ".join(process.cmdline()) for process in found if process.is_running()}
    return {pid: title for pid, title in titles.items() if title.startswith("ray::")}


@pytest.mark.slow
def test_a_sweep_whose_trial_head_and_driver_are_killed_has_the_trials_of_one_that_was_not(
    uri: str, tmp_path: Path, cluster: TwoNodes
) -> None:
    seed = secrets.randbits(32)
    draw = random.Random(seed)
    print(f"moments drawn by random.Random({seed})")
    slow = "dim = 512\ngate_hidden = 32\ndecoder_hidden = 1024\n"  # a trial outlives the kill that is meant for it
    order = command(tmp_path, uri, GOOD, "--samples", "4", "--top-k", "0", "train.epochs=12", model=slow)
    with two_node_cluster(head_cpus=1, second_cpus=1, env={"RAY_gcs_rpc_server_reconnect_timeout_s": "5"}) as lost:
        kill_trial_and_head(order, lost, draw)
    kept = kept_of_running(tmp_path)
    kill_driver(order, cluster, draw)
    kept_again = kept_of_running(tmp_path)
    done(order, cluster)
    space = read_sweep(LocalStorage(tmp_path / "runs" / "sweep")).space
    found = trials(tmp_path)
    assert [(trial.id, trial.settings) for trial in found] == [
        (f"{n:04d}", random_sample(space, 0, n)) for n in range(4)
    ]
    assert all(trial.state == "finished" for trial in found)
    for before in (kept, kept_again):
        runs = tmp_path / "runs" / "sweep" / "runs"
        later = [(step, made) for name, made in before.items() for step in steps_after(runs / name, attempt=made[1])]
        assert later
        assert all(step > made[0] for step, made in later)
    assert left_on(cluster) == (Counter(), Counter())


def kill_trial_and_head(order: list[str], cluster: TwoNodes, draw: random.Random) -> None:
    """Lose a trial's process, and some time after it has another one all of the head; the command ends in error."""
    first, second = (draw.randrange(6) for _ in range(2))
    checks, done, at = 0, list[str](), 0.0
    with subprocess.Popen(order, stdout=subprocess.PIPE, text=True, env=cluster.environment) as driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            checks += line.startswith("trial ") and "%" in line
            if not done and checks > first:
                os.kill(trial_process(cluster), signal.SIGKILL)
                done.append("trial")
            elif done == ["trial"] and "attempt 2" in line:
                done.append("attempt")
                checks = 0
            elif done == ["trial", "attempt"] and checks > second:
                for process in cluster.head.processes():
                    with suppress(psutil.NoSuchProcess):  # it has gone with another one
                        process.kill()
                done.append("head")
                at = time.monotonic()
    assert done == ["trial", "attempt", "head"]
    assert driver.returncode not in (0, None)
    assert time.monotonic() - at < END_SECONDS
    print(f"killed a trial after {first} checks, the head {second} later; {time.monotonic() - at:.0f} s to the end")


def kill_driver(order: list[str], cluster: TwoNodes, draw: random.Random) -> None:
    """Kill the command some checks after its start."""
    left = draw.randrange(6)
    with subprocess.Popen(order, stdout=subprocess.PIPE, text=True, env=cluster.environment) as driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            left -= line.startswith("trial ") and "%" in line
            if left < 0:
                driver.kill()
    assert driver.returncode == -signal.SIGKILL


def kept_of_running(folder: Path) -> dict[str, tuple[int, int]]:
    """(step, attempt) of the last whole checkpoint of every trial under way that has one, by its id."""
    running = [trial.id for trial in trials(folder) if trial.state == "running"]
    found = {name: last_whole(folder / "runs" / "sweep" / "runs" / name) for name in running}
    assert any(found.values())
    return {name: checkpoint for name, checkpoint in found.items() if checkpoint is not None}


def trial_process(cluster: TwoNodes) -> int:
    """Process id of a trial's own process, by the name that `tune.with_resources` gives it."""
    found = titles_of(cluster)
    return next((pid for pid, title in found.items() if "ResourceTrainable" in title), 0) or pytest.fail(
        f"of {found}, none"
    )


def last_whole(run: Path) -> tuple[int, int] | None:
    """(step, attempt) of the last checkpoint of a run that has its list of files."""
    return max((numbers(path) for path in run.glob("checkpoint-*") if list(path.glob("files-*"))), default=None)


def steps_after(run: Path, *, attempt: int) -> list[int]:
    """The steps at which later attempts at a run were checked."""
    return [step for step, made_by in map(numbers, run.glob("validation/*.json")) if made_by > attempt]


def numbers(checkpoint: Path) -> tuple[int, int]:
    _, step, attempt = checkpoint.stem.split("-")
    return int(step), int(attempt)


@pytest.mark.slow
def test_an_asha_sweep_killed_at_a_check_that_may_end_a_trial_and_among_its_fresh_seeds_goes_on(
    uri: str, tmp_path: Path, cluster: TwoNodes
) -> None:
    options = ("--scheduler", "asha", "--samples", "6", "--reduction", "2", "--top-k", "1", "--seeds", "2")
    order = command(tmp_path, uri, GOOD, *options)
    kill_driver_at(order, cluster, "trial 0000  ", "%")  # it waits for a verdict
    kept = kept_of_running(tmp_path)
    kill_driver_at(order, cluster, "run ", "")
    before = read_finals(LocalStorage(tmp_path / "runs" / "sweep"))
    done(order, cluster)
    found = trials(tmp_path)
    assert [trial.id for trial in found] == [f"{n:04d}" for n in range(6)]
    assert {trial.state for trial in found} == {"finished", "stopped"}
    for trial in found:
        assert (trial.samples_seen == trial.total_samples) == (trial.state == "finished")
        assert not list((tmp_path / "runs" / "sweep" / trial.run).glob("checkpoint-*"))
    for name, (step, attempt) in kept.items():
        assert all(later > step for later in steps_after(tmp_path / "runs" / "sweep" / "runs" / name, attempt=attempt))
    finals = read_finals(LocalStorage(tmp_path / "runs" / "sweep"))
    assert finals is not None
    assert finals.complete
    assert [[run.seed for run in entry.seeds] for entry in finals.entries] == [[1001, 1002], [1001, 1002]]
    assert before is not None
    kept_runs = [(entry.label, run) for entry in before.entries for run in entry.seeds]
    all_runs = [(entry.label, run) for entry in finals.entries for run in entry.seeds]
    assert all(run in all_runs for run in kept_runs)
    assert left_on(cluster) == (Counter(), Counter())


def kill_driver_at(order: list[str], cluster: TwoNodes, beginning: str, part: str) -> None:
    """Kill the command at the first line that begins so and has this part."""
    with subprocess.Popen(order, stdout=subprocess.PIPE, text=True, env=cluster.environment) as driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            if line.startswith(beginning) and part in line:
                driver.kill()
    assert driver.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_finished_sweep_is_extended_and_another_one_is_refused(uri: str, tmp_path: Path, cluster: TwoNodes) -> None:
    done(command(tmp_path, uri, GOOD, "--samples", "1", "--top-k", "0"), cluster)
    [first] = trials(tmp_path)
    done(command(tmp_path, uri, GOOD, "--samples", "2", "--top-k", "0"), cluster)
    assert trials(tmp_path)[0] == first
    assert [trial.state for trial in trials(tmp_path)] == ["finished", "finished"]
    other = subprocess.run(
        command(tmp_path, uri, GOOD, "--samples", "2", "--seed", "5"),
        capture_output=True,
        text=True,
        env=cluster.environment,
    )
    assert other.returncode == 1
    assert "belongs to another sweep, seed was 0 and is now 5" in other.stderr
