"""`cluster/slurm.sh` on this machine, with Slurm's own commands replaced (`slurm_site`) and everything else real."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.cluster.slurm_site import SCRIPT, Job, Site, left_by, own_processes, run_file, two_machines
from tests.training.cases import MODEL

apart = pytest.mark.skipif(not own_processes(), reason="no process namespaces here: the job would end other Rays")


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


@apart
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and ip")
@pytest.mark.slow
def test_two_machines_with_addresses_of_their_own_train_together(jobs: list[Job]) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="slurm-") as folder, two_machines(Path(folder)) as machines:
        site = Site(Path(folder))
        jobs.append(site.start(76, "train", run_file(site), inside=machines.inside, **machines.environment))
        assert jobs[0].code() == 0, jobs[0].text
        assert "2 nodes, head 10.213.0.1:" in jobs[0].text
        assert (site.folder / "runs" / "run" / "model" / "model.safetensors").exists()
        jobs[0].kill()
