"""Everything that pack, train and evaluate write on a cluster of two nodes, searched for keys of S3 and Ray's token."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynfusion.edges.s3_storage import open_storage
from tests.clusters import TwoNodes, two_node_cluster
from tests.datasets import write_folders
from tests.edges import test_remote_train as remote_train
from tests.s3 import make_bucket
from tests.security.canary import SECRET_KEY, SESSION_TOKEN, environment, leaks, leaks_below

JOBS = Path(__file__).parents[2] / "jobs"
RUN = remote_train.RUN.format(uri="s3://canary-runs/set", storage="s3://canary-runs/runs")


@pytest.fixture
def cluster(s3: str) -> Iterator[TwoNodes]:
    """Nodes and clients with canaries as keys of the S3 server."""
    with two_node_cluster(head_cpus=2, second_cpus=2, env={**environment(), "AWS_ENDPOINT_URL_S3": s3}) as started:
        yield started


def working_folder(folder: Path) -> Path:
    """The jobs, a run file, vectors of a pool, and those of a labelled task."""
    folder.mkdir()
    shutil.copytree(JOBS, folder / "jobs", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "one.toml").write_text(RUN)
    for name, rows in (("pool", 400), ("task", 150)):
        write_folders(folder / name, rows=rows)
    rows = "".join(f"m{n},{(n * 7) % 3 % 2},{'test' if n % 3 == 0 else 'train'}\n" for n in range(150))
    (folder / "labels.csv").write_text(f"id,y,split\n{rows}")
    return folder


def say(cluster: TwoNodes, folder: Path, *words: str) -> str:
    """What a command says, to both streams; it must succeed."""
    command = [sys.executable, "-m", "dynfusion", *words]
    done = subprocess.run(
        command, cwd=folder, env=cluster.environment, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def modalities(name: str) -> list[str]:
    return [word for part in "abc" for word in ("--modality", f"{part}={name}/{part}")]


@pytest.mark.slow
def test_submitted_jobs_leave_no_secret_anywhere(cluster: TwoNodes, s3: str, tmp_path: Path) -> None:
    secrets = {"secret key": SECRET_KEY, "session token": SESSION_TOKEN, "Ray's token": cluster.token}
    make_bucket(s3, "canary-runs")
    folder, address = working_folder(tmp_path / "work"), ("--address", cluster.dashboard)
    report = ("--out", str(tmp_path / "report"), "--quick")
    model = ("--model", "s3://canary-runs/runs/one/model")
    said = [
        say(cluster, folder, "pack", *modalities("pool"), "--out", "s3://canary-runs/set"),
        say(
            *(cluster, folder, "pack", *modalities("task"), "--table", "labels.csv", "--labels", "y"),
            *("--split-column", "split", "--out", "s3://canary-runs/task"),
        ),
        say(cluster, folder, "submit", "train", "one.toml", *address),
        say(cluster, folder, "submit", "evaluate", *model, "--tasks", "t=s3://canary-runs/task", *report, *address),
    ]
    assert (tmp_path / "report" / "report.html").is_file()
    bucket = open_storage(f"s3://canary-runs?endpoint_override={s3}")
    names = bucket.sizes("")
    assert {"runs/one/model/model.safetensors", "runs/one/history.jsonl"} <= names.keys()
    jobs = cluster.ask("/api/jobs/")
    assert {job["status"] for job in jobs} == {"SUCCEEDED"}
    assert {name for job in jobs for name in job["runtime_env"]} <= {"working_dir", "_ray_commit"}
    assert list(cluster.folder.rglob("job-driver-*.log")), "the session's logs are below the cluster's folder"
    assert not leaks("\n".join(said).encode(), secrets)
    assert not leaks(json.dumps(jobs).encode(), secrets)
    assert not {name: found for name in names if (found := leaks(bucket.read(name), secrets))}
    assert not leaks_below(cluster.folder, secrets)
    assert not leaks_below(tmp_path, secrets)
