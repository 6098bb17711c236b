"""`cluster/slurm.sh` on this machine: `srun` runs its command here, `scontrol` notes what it is asked."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from dynfusion.fusion.model import ModelSettings
from dynfusion.run_settings import RunSettings
from dynfusion.settings import build, to_toml
from tests.datasets import packed
from tests.training.cases import MASKING, MODEL

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "cluster" / "slurm.sh"
NAMESPACE = ["unshare", "--user", "--map-current-user", "--pid", "--fork", "--kill-child", "--mount-proc"]

SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/usr/bin/env bash
echo "$@" >>"$SCONTROL_LOG"
"""


def own_processes() -> bool:
    """Whether a job sees its own processes only: what it starts ends every Ray that it sees."""
    try:
        return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


apart = pytest.mark.skipif(not own_processes(), reason="no process namespaces here: the job would end other Rays")


@dataclass
class Site:
    """What a job finds: Slurm's commands, a home, a folder for runs."""

    folder: Path

    def __post_init__(self) -> None:
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            command = self.folder / "bin" / name
            command.parent.mkdir(exist_ok=True)
            command.write_text(text)
            command.chmod(0o755)
        (self.folder / "home").mkdir()

    @property
    def asked(self) -> list[str]:
        """What `scontrol` was asked."""
        log = self.folder / "scontrol.log"
        return log.read_text().splitlines() if log.exists() else []

    def environment(self, job: int) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
        paths = [str(self.folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
        slurm = {"SLURM_JOB_ID": str(job), "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "here"}
        return {
            **own,
            **slurm,
            "PATH": os.pathsep.join(paths),
            "PYTHONPATH": str(ROOT),
            "HOME": str(self.folder / "home"),
            "SCONTROL_LOG": str(self.folder / "scontrol.log"),
            "SLURM_CPUS_PER_TASK": "2",
            "DYNFUSION_CACHE": str(self.folder / "cache"),
            "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5",
        }

    def start(self, job: int, *words: str, **env: str) -> "Job":
        log = self.folder / f"job-{job}-{len(list(self.folder.glob('job-*')))}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                ["bash", str(SCRIPT), *words],
                env={**self.environment(job), **env},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Job(job, process, log)


@dataclass
class Job:
    """A batch script that runs."""

    number: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def says(self, pattern: str, seconds: float = 150) -> re.Match[str]:
        until(lambda: re.search(pattern, self.text) or self.process.poll() is not None, seconds)
        found = re.search(pattern, self.text)
        assert found, self.text
        return found

    def code(self, seconds: float = 240) -> int:
        return self.process.wait(seconds)

    def kill(self) -> None:
        if self.process.poll() is None:
            for process in psutil.Process(self.process.pid).children(recursive=True):
                process.kill()
            self.process.kill()
            self.process.wait()
        for left in left_by(self.number):
            shutil.rmtree(left)


def left_by(job: int) -> list[Path]:
    """Folders on the node's disk."""
    return [*Path(tempfile.gettempdir()).glob(f"dynfusion-{os.getuid()}-{job}*")]


def until(true: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def jobs() -> Iterator[list[Job]]:
    """Jobs to end whatever becomes of the test."""
    started: list[Job] = []
    yield started
    for job in started:
        job.kill()


def run_file(site: Site, *, epochs: int = 4, model: ModelSettings = MODEL) -> str:
    settings = {
        "data": {"uri": packed(site.folder / "data").uri},
        "model": model.model_dump(),
        "masking": MASKING.model_dump(),
        "train": {"epochs": epochs, "global_batch_rows": 128, "log_every_steps": 5, "checkpoint_every_steps": 10_000},
        "cluster": {"name": "run", "storage": str(site.folder / "runs"), "workers": 2},
    }
    path = site.folder / "run.toml"
    path.write_text(to_toml(build(RunSettings, settings)))
    return str(path)


def test_a_verb_that_does_not_exist_and_a_shell_without_slurm_are_refused(site: Site) -> None:
    assert site.start(1, "trian").code() == 2
    alone = site.environment(1)
    del alone["SLURM_JOB_ID"]
    done = subprocess.run(
        ["bash", str(SCRIPT), "train", "x.toml"], env=alone, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "found no Slurm job; start it with sbatch" in done.stderr


def test_slurm_reads_the_options_that_a_continued_run_needs() -> None:
    lines = SCRIPT.read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    options = [line.split()[1] for line in lines[:first] if line.startswith("#SBATCH ")]
    assert {"--signal=B:USR1@300", "--requeue", "--open-mode=append", "--ntasks-per-node=1"} <= set(options)
    assert not [line for line in lines[first:] if line.startswith("#SBATCH")], "Slurm does not read these"


@apart
@pytest.mark.slow
def test_two_jobs_on_one_node_run_to_their_ends_and_leave_nothing(site: Site, jobs: list[Job]) -> None:
    path = run_file(site)
    jobs += [site.start(job, "train", path, f"cluster.name=run{job}", "cluster.workers=1") for job in (71, 72)]
    assert [job.code() for job in jobs] == [0, 0], "\n".join(job.text for job in jobs)
    for job in (71, 72):
        assert (site.folder / "runs" / f"run{job}" / "model" / "model.safetensors").exists()
    assert not [*(site.folder / "home" / ".cache" / "dynfusion").iterdir()]
    assert not [*left_by(71), *left_by(72)]
    assert site.asked == []


@apart
@pytest.mark.slow
def test_the_code_of_the_command_is_the_jobs(site: Site, jobs: list[Job]) -> None:
    jobs.append(site.start(73, "train", "not-there.toml"))
    assert jobs[0].code() == 1
    assert "not-there.toml" in jobs[0].text


@apart
@pytest.mark.slow
def test_a_ray_that_does_not_start_fails_the_job_though_symmetric_run_ends_with_0(site: Site, jobs: list[Job]) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 20000 + 74 * 3))
        taken.listen()
        jobs.append(site.start(74, "train", run_file(site)))
        assert jobs[0].code() == 1
    assert "Failed to start Ray" in jobs[0].text
    assert "Ray did not start on all 1 nodes" in jobs[0].text
    assert not (site.folder / "runs").exists()


@apart
@pytest.mark.slow
def test_before_its_time_is_up_a_job_saves_and_is_queued_again_and_continues(site: Site, jobs: list[Job]) -> None:
    path = run_file(site, epochs=400, model=MODEL.model_copy(update={"dim": 512}))
    jobs.append(site.start(75, "train", path, DYNFUSION_SAVE_SECONDS="15"))
    jobs[0].says(r"step 20/")
    jobs[0].process.send_signal(signal.SIGUSR1)
    saved = jobs[0].says(r"is being taken away: saving step (\d+)").group(1)
    assert jobs[0].code() == 143, jobs[0].text
    assert site.asked == ["requeue 75"]
    assert not (site.folder / "runs" / "run" / "lease.json").exists()

    jobs.append(site.start(75, "train", path, SLURM_RESTART_COUNT="1"))
    jobs[1].says(rf"continuing from .*/checkpoint-{int(saved):08d}-001 at step {saved}")
