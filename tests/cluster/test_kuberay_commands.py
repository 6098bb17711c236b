"""The jobs' commands: as the head's shell reads them, with the settings that are beside them and with others."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dynfusion.cli import JOBS as VERBS
from dynfusion.cli import _parse
from dynfusion.run_settings import RunSettings, read_run
from dynfusion.tuning.search import read_search, tune_options
from tests.cluster.manifests import APPLIED, JOBS, KUBERAY, QUEUED, ROOT, one, settings, volumes
from tests.cluster.schemas import CRD_FOLDERS

ENTRYPOINTS = {job: one(job, "RayJob")["spec"]["entrypoint"] for job in JOBS}
VARIABLES = {job: set(re.findall(r"\$\{(\w+)", line)) for job, line in ENTRYPOINTS.items()}
REQUIRED = [(job, name) for job, line in ENTRYPOINTS.items() for name in re.findall(r"\$\{(\w+):\?\}", line)]
SMALL = {
    "DYNFUSION_STORE": "s3://bucket/small",
    "DYNFUSION_RUN": "small",
    "DYNFUSION_RUN_FILE": "jobs/runs/demo.toml",
    "DYNFUSION_WORKERS": "2",
    "DYNFUSION_GPUS": "false",
    "DYNFUSION_SETTINGS": "train.epochs=1 train.global_batch_rows=64",
    "DYNFUSION_TUNE_OPTIONS": "--samples 2 --at-once 1 --top-k 0",
    "DYNFUSION_TRIAL_SETTINGS": "cluster.workers=1 train.epochs=1 train.global_batch_rows=64",
    "DYNFUSION_EVALUATE_OPTIONS": "--quick --workers 2",
}
"""What makes a run of minutes of the same commands."""


@dataclass(frozen=True)
class Command:
    """A job's command once a shell has read it: the verb, its arguments by name, and the environment it is given."""

    verb: str
    given: dict[str, Any]
    environment: dict[str, str]

    @property
    def run(self) -> RunSettings:
        """The settings tree of a training."""
        return read_run(ROOT / self.given["run"], self.given["overrides"])


def shell(job: str, folder: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A job's command as the head's shell runs it, with a `python` that only says what it was called with."""
    python = folder / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "${TMPDIR-unset}" "${RAY_ADDRESS-unset}" "$@"\n')
    python.chmod(0o755)
    environment = {"PATH": f"{folder}:{os.defpath}", "RAY_ADDRESS": "head:6379", **variables}
    command = ["sh", "-c", ENTRYPOINTS[job]]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder, timeout=10)


def read(job: str, folder: Path, variables: dict[str, str]) -> Command:
    """The command of a job, as the command line reads it."""
    done = shell(job, folder, variables)
    assert done.returncode == 0, done.stderr
    scratch, address, script, *words = done.stdout.splitlines()
    assert Path(script).parent == Path("jobs")
    assert (ROOT / script).is_file()
    verb = Path(script).stem
    assert verb in VERBS
    return Command(verb, _parse(verb, words), {"TMPDIR": scratch, "RAY_ADDRESS": address})


@pytest.mark.parametrize("job", JOBS)
def test_a_command_is_one_line_of_variables_that_the_settings_have(job: str) -> None:
    assert "\n" not in ENTRYPOINTS[job]
    assert not re.search(r"[;&|`<>]|\$\(", ENTRYPOINTS[job])
    assert VARIABLES[job] <= settings().keys()
    assert "$" not in re.sub(r"\$\{\w+(:\?)?\}", "", ENTRYPOINTS[job])


def test_every_setting_is_used() -> None:
    used = set().union(*VARIABLES.values())
    assert {name for name in settings() if name.startswith("DYNFUSION_")} == used


def test_the_readme_applies_what_is_there_and_names_no_other_variable() -> None:
    text = (KUBERAY / "README.md").read_text()
    assert set(re.findall(r"apply -k cluster/kuberay/(\S+?)`? ", text.replace("\n", " "))) <= set(APPLIED)
    assert {*re.findall(r"-k cluster/kuberay/([\w-]+)", text)} >= {"base", "cluster", "reports", *JOBS}
    assert {*re.findall(r"DYNFUSION_\w+", text)} <= {*settings(), CRD_FOLDERS}


@pytest.mark.parametrize(("job", "name"), REQUIRED)
def test_a_variable_that_is_missing_ends_the_command_with_its_name(job: str, name: str, tmp_path: Path) -> None:
    done = shell(job, tmp_path, {key: value for key, value in settings().items() if key != name})
    assert done.returncode != 0
    assert name in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("variables", [{}, SMALL], ids=["as they are", "small"])
def test_the_training_is_the_run_of_the_settings(variables: dict[str, str], tmp_path: Path) -> None:
    chosen = settings() | variables
    command = read("train", tmp_path, chosen)
    assert command.verb == "train"
    run = command.run
    assert run.data.uri == f"{chosen['DYNFUSION_STORE']}/packed/pool"
    assert run.data.cache_dir == chosen["DYNFUSION_CACHE"]
    assert (run.cluster.storage, run.cluster.name) == (f"{chosen['DYNFUSION_STORE']}/runs", chosen["DYNFUSION_RUN"])
    assert run.cluster.workers == ((2, 2) if variables else (2, 8))
    assert run.cluster.gpus == (not variables)
    assert run.train.epochs == (1 if variables else 3)


@pytest.mark.parametrize("variables", [{}, SMALL], ids=["as they are", "small"])
def test_the_sweep_is_around_the_same_run(variables: dict[str, str], tmp_path: Path) -> None:
    chosen = settings() | variables
    command = read("tune", tmp_path, chosen)
    given = command.given
    search = read_search(ROOT / given["space"], ROOT / given["run"], given["overrides"], tune_options(given))
    assert search.run.data.uri == f"{chosen['DYNFUSION_STORE']}/packed/pool"
    assert search.run.cluster.storage == f"{chosen['DYNFUSION_STORE']}/runs"
    assert search.run.cluster.workers == (1, 1)
    assert search.run.train.epochs == 1
    assert search.settings.name == f"{chosen['DYNFUSION_RUN']}-sweep"
    assert (search.settings.samples, search.settings.at_once) == ((2, 1) if variables else (32, 8))


@pytest.mark.parametrize(("job", "data"), [("pack", "pool"), ("pack-task", "bbbp")])
def test_a_pack_is_made_where_a_retry_finds_it(job: str, data: str, tmp_path: Path) -> None:
    command = read(job, tmp_path, settings())
    embeddings, given = settings()["DYNFUSION_EMBEDDINGS"], command.given
    assert command.environment == {"TMPDIR": settings()["DYNFUSION_WORK"], "RAY_ADDRESS": "unset"}
    assert given["modality"] == [f"{name}={embeddings}/{data}/{name}" for name in ("smiles", "selfies", "graph")]
    assert given["out"] == f"{settings()['DYNFUSION_STORE']}/packed/{data}"
    assert given["table"] == (None if job == "pack" else f"{embeddings}/bbbp/table.csv")
    assert kept(job) == settings()["DYNFUSION_WORK"]


def test_the_evaluation_is_of_the_trained_run_on_the_packed_task(tmp_path: Path) -> None:
    given = read("evaluate", tmp_path, settings()).given
    store, work = settings()["DYNFUSION_STORE"], settings()["DYNFUSION_WORK"]
    assert given["model"] == [f"{store}/runs/{settings()['DYNFUSION_RUN']}/model"]
    assert given["tasks"] == f"bbbp={store}/packed/bbbp"
    assert given["out"] == Path(work) / "reports" / settings()["DYNFUSION_RUN"]
    assert kept("evaluate") == work
    assert read("evaluate", tmp_path, settings() | SMALL).given["quick"] is True


def kept(job: str) -> str:
    """The folder of a job's head that outlives the cluster."""
    head = one(job, "RayJob")["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    claim = {"claimName": one("base", "PersistentVolumeClaim")["metadata"]["name"]}
    (path,) = (path for path, volume in volumes(head).items() if volume.get("persistentVolumeClaim") == claim)
    return path


@pytest.mark.parametrize("job", [*JOBS, *QUEUED])
def test_a_job_ends_in_bounded_time_and_is_tried_again_on_a_cluster_of_its_own(job: str) -> None:
    spec = one(job, "RayJob")["spec"]
    assert spec["submissionMode"] == "HTTPMode"  # others have the submitter's shell expand the command's variables
    assert 0 < spec["activeDeadlineSeconds"] <= 7 * 86_400
    assert 1 <= spec["backoffLimit"] <= 10
    assert spec["shutdownAfterJobFinishes"] is True
    assert not {"runtimeEnvYAML", "clusterSelector"} & spec.keys()


@pytest.mark.parametrize("job", JOBS)
def test_a_queued_job_is_the_same_job_with_a_cluster_of_fixed_size(job: str) -> None:
    plain, queued = one(job, "RayJob"), one(f"overlays/kueue/{job}", "RayJob")
    queue = one("overlays/kueue", "LocalQueue")["metadata"]["name"]
    assert queued["metadata"] == plain["metadata"] | {"labels": {"kueue.x-k8s.io/queue-name": queue}}
    assert {**queued["spec"], "rayClusterSpec": None} == {**plain["spec"], "rayClusterSpec": None}
    cluster = queued["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is False
    replicas = {group["groupName"]: group["replicas"] for group in cluster["workerGroupSpecs"]}
    expected = {"pack": (0, 0), "pack-task": (0, 0), "train": (8, 0), "tune": (8, 0), "evaluate": (0, 4)}
    assert (replicas["gpu"], replicas["cpu"]) == expected[job]
