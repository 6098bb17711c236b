"""The main job as a cluster's user runs it, on embeddings of real molecules: train, export, evaluate.

    python -m tests.bench.submit_pretrained POOL STORAGE TASK=PACKED[,TASK=PACKED] [NAME=VALUE ...]

Starts a head and a second node on this machine by `ray start`, submits jobs/train.py with jobs/runs/pretrained.toml by
`ray job submit`, waits for its end, submits jobs/evaluate.py the same way, and prints everything that the jobs said.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.clusters import TwoNodes, two_node_cluster

ROOT = Path(__file__).parents[2]


def main(pool: str, storage: str, tasks: str, *overrides: str) -> None:
    """Raises CalledProcessError when a job fails."""
    with two_node_cluster(head_cpus=1, second_cpus=1) as cluster:
        training = ["jobs/runs/pretrained.toml", f"data.uri={pool}", f"cluster.storage={storage}"]
        submit(cluster, ["jobs/train.py", *training, *overrides])
        model, out = f"{storage}/pretrained/model", f"{storage}/pretrained/report"
        submit(cluster, ["jobs/evaluate.py", "--model", model, "--tasks", tasks, "--out", out])
        checkpoint = sorted(Path(storage, "pretrained").glob("checkpoint-*"))[-1]
        exported = ["export", "--checkpoint", str(checkpoint), "--out", f"{storage}/exported"]
        subprocess.run([sys.executable, "-m", "dynfusion", *exported], check=True, cwd=ROOT)


def submit(cluster: TwoNodes, entrypoint: Sequence[str]) -> None:
    """One job, its log on this terminal."""
    command = ["ray", "job", "submit", "--address", cluster.dashboard, "--working-dir", ".", "--", "python"]
    print("$", *command, *entrypoint, flush=True)
    started = time.monotonic()
    subprocess.run([*command, *entrypoint], env=cluster.environment, cwd=ROOT, check=True)
    print(f"# {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
