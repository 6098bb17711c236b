"""The commands of the RayJobs, word for word, on a two-node cluster with a token: from a bucket to a report.

What Kubernetes adds is made here: the ConfigMap's names in every node's environment, the image's folder as the nodes'
working folder, and the operator's request to the job server. Sizes are smaller, in the settings that are made for it.
"""

import io
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
import tomli_w
import yaml
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from dynfusion.edges.s3_storage import load_model, open_storage
from dynfusion.encoders.embedded_data import load
from tests.clusters import ROOT, TwoNodes, two_node_cluster
from tests.s3 import make_bucket, put
from tests.training.cases import MASKING, MODEL

pytestmark = pytest.mark.slow

FOLDER = ROOT / "cluster" / "kuberay"
STAGES = ("embed", "pack", "train", "tune", "evaluate")
MODALITIES = {"smiles": 24, "selfies": 16, "graph": 20}
BUCKET = "work"
JOB_SECONDS = 900.0
SMALL_RUN = {
    "model": MODEL.model_dump(),
    "masking": MASKING.model_dump(),
    "train": {"global_batch_rows": 64, "log_every_steps": 2, "checkpoint_every_steps": 6},
}
SIZES = {
    "DYNFUSION_STORE": f"s3://{BUCKET}/dynfusion",
    "DYNFUSION_EMBEDDINGS": f"s3://{BUCKET}/embeddings",
    "DYNFUSION_HOLDOUT": "0.1",
    "DYNFUSION_RUN": "pool",
    "DYNFUSION_WORKERS": "2",
    "DYNFUSION_GPUS": "false",
    "DYNFUSION_SETTINGS": "train.epochs=3 validation.rows=64",
    "DYNFUSION_TUNE_OPTIONS": "--samples 2 --top-k 1 --seeds 1 --at-once 1",
    "DYNFUSION_TRIAL_SETTINGS": "cluster.workers=1 train.epochs=3 validation.rows=64",
    "DYNFUSION_TASK": "solubility",
    "DYNFUSION_LABELS": "y",
    "DYNFUSION_EVALUATE_OPTIONS": "--workers 2 --quick evaluation.probe.inverse_penalties=[0.1]",
}


def manifests(kind: str) -> dict[str, dict]:
    """Documents of this kind below cluster/kuberay, by name."""
    documents = [made for path in sorted(FOLDER.rglob("*.yaml")) for made in yaml.safe_load_all(path.read_text())]
    return {made["metadata"]["name"]: made for made in documents if made and made.get("kind") == kind}


def entrypoints() -> dict[str, str]:
    """The command of each RayJob by name, in the order in which they follow from each other."""
    found = {name: made["spec"]["entrypoint"] for name, made in manifests("RayJob").items() if "spec" in made}
    stages = {name: re.search(r"jobs/(\w+)\.py|dynfusion (\w+)", command) for name, command in found.items()}
    order = {name: STAGES.index(stage.group(1) or stage.group(2)) for name, stage in stages.items() if stage}
    return {name: found[name] for name in sorted(found, key=order.__getitem__)}


def settings() -> dict[str, str]:
    """What the ConfigMaps put into the environment, as they stand."""
    return {name: value for made in manifests("ConfigMap").values() for name, value in made["data"].items()}


def test_there_is_a_job_for_every_step_from_pack_to_report() -> None:
    commands = " ".join(entrypoints().values())
    assert all(f"jobs/{verb}.py" in commands for verb in ("pack", "train", "tune", "evaluate")), commands
    assert set(SIZES) <= set(settings()), "a setting that is made small here is none of the ConfigMap's"


def embedding_files(smiles: list[str], prefix: str, seed: int) -> dict[str, bytes]:
    """Folders as `embed` writes them, one a modality, that share latent factors; some rows are absent."""
    draw = np.random.default_rng(seed)
    factors = draw.normal(size=(len(smiles), 5))
    files = {}
    for number, (name, dim) in enumerate(MODALITIES.items()):
        mixing = np.random.default_rng(number).normal(size=(5, dim))
        values = factors @ mixing + 0.3 * draw.normal(size=(len(smiles), dim))
        values[draw.random(len(smiles)) < 0.1] = np.nan
        content = io.BytesIO()
        np.save(content, values.astype(np.float16))
        files[f"{prefix}/{name}/embeddings.npy"] = content.getvalue()
        files[f"{prefix}/{name}/ids.txt"] = "".join(f"m{row}\n" for row in range(len(smiles))).encode()
    return files


def upload(endpoint: str) -> None:
    """The bucket with a pool's embeddings, and a labelled set of real molecules with its table."""
    make_bucket(endpoint, BUCKET)
    files = embedding_files(["C"] * 500, "embeddings/pool", 1)
    task = load().tasks["freesolv"]
    smiles, labels, split = [*task.smiles][:160], task.labels.ravel()[:160], [*task.split][:160]
    files |= embedding_files(smiles, "embeddings/solubility", 2)
    rows = [f"m{n},{smiles[n]},{split[n]},{int(labels[n])}\n" for n in range(len(smiles))]
    files["embeddings/solubility/table.csv"] = ("id,smiles,split,y\n" + "".join(rows)).encode()
    for name, content in files.items():
        put(endpoint, f"/{BUCKET}/{name}", content)


@dataclass(frozen=True)
class World:
    """A cluster with the ConfigMap in its environment, and where its jobs leave things."""

    cluster: TwoNodes
    work: Path


@pytest.fixture(scope="module")
def world(s3: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("rayjob")
    upload(s3)
    (folder / "small.toml").write_text(tomli_w.dumps(SMALL_RUN))
    here = {
        "DYNFUSION_RUN_FILE": str(folder / "small.toml"),
        "DYNFUSION_WORK": str(folder / "work"),
        "DYNFUSION_CACHE": str(folder / "cache"),
        "AWS_ENDPOINT_URL_S3": s3,
    }
    (folder / "work").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)  # the nodes' working folder, as the image's is in a pod
        patch.setenv("AWS_ENDPOINT_URL_S3", s3)
        with two_node_cluster(head_cpus=0, second_cpus=4, env={**settings(), **SIZES, **here}) as cluster:
            yield World(cluster, folder / "work")


def client(cluster: TwoNodes, token: str | None) -> JobSubmissionClient:
    """Of the job server, with this token whatever this process's own environment says."""
    return JobSubmissionClient(cluster.dashboard, headers={"Authorization": f"Bearer {token}"} if token else None)


def run(cluster: TwoNodes, name: str, command: str) -> str:
    """The log of a job that has succeeded; the command is sent as the operator sends it."""
    server = client(cluster, cluster.token)
    job = server.submit_job(entrypoint=command, submission_id=name)
    deadline = time.monotonic() + JOB_SECONDS
    while not (status := server.get_job_status(job)).is_terminal():
        assert time.monotonic() < deadline, server.get_job_logs(job)
        time.sleep(0.5)
    assert status == JobStatus.SUCCEEDED, f"{name}: {server.get_job_info(job).message}\n{server.get_job_logs(job)}"
    return server.get_job_logs(job)


def test_the_commands_go_from_embeddings_in_a_bucket_to_a_model_a_sweep_and_a_report(world: World) -> None:
    commands = entrypoints()
    logs = {name: run(world.cluster, name, command) for name, command in commands.items()}
    assert set(logs) == set(manifests("RayJob"))

    store = SIZES["DYNFUSION_STORE"]
    model = load_model(f"{store}/runs/pool/model")
    assert set(model.dims.items()) == set(MODALITIES.items())
    sweep = open_storage(f"{store}/runs/pool-sweep")
    assert {"sweep.json", "finals.json", "best.toml", "report.html", "trials"} <= set(sweep.names())
    report = world.work / "reports" / "pool"
    assert (report / "report.html").stat().st_size > 10_000
    assert "fused" in (report / "report.md").read_text()

    again = {name: run(world.cluster, f"{name}-2", command) for name, command in commands.items() if "train" in command}
    assert all("is already finished" in log for log in again.values()), again


@pytest.mark.parametrize("token", [None, "0" * 32])
def test_the_job_server_lets_nobody_in_without_the_token(token: str | None, world: World) -> None:
    with pytest.raises(AuthenticationError, match=r"(?i)authent|token|unauthorized|forbidden"):
        client(world.cluster, token).submit_job(entrypoint="touch /tmp/somebody-was-here")
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    asked = Request(f"{world.cluster.dashboard}/api/jobs/", b'{"entrypoint": "true"}', headers, method="POST")
    with pytest.raises(HTTPError) as refusal:
        urlopen(asked, timeout=10)
    assert refusal.value.code in (401, 403)
    refusal.value.close()


@pytest.mark.parametrize(
    "variables", [{}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 32}], ids=["none", "wrong"]
)
def test_the_gcs_lets_nobody_in_without_the_token(variables: dict[str, str], world: World, tmp_path: Path) -> None:
    own = {name: value for name, value in world.cluster.environment.items() if not name.startswith("RAY_")}
    driver = [sys.executable, "-c", f"import ray; ray.init({world.cluster.address!r}); print('inside')"]
    home = {"HOME": str(tmp_path)}  # without a token in ~/.ray
    done = subprocess.run(
        driver, env={**own, **home, **variables}, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode != 0
    assert "inside" not in done.stdout
    assert re.search(r"(?i)authent|token|unauthorized", done.stderr), done.stderr[-2000:]
