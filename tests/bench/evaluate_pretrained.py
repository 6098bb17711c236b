"""The standard report on embeddings of real molecules: three training runs, one without each part, six labelled sets.

    python -m tests.bench.evaluate_pretrained POOL STORAGE TASK=PACKED[,TASK=PACKED] [NAME=VALUE ...]

Trains jobs/runs/pretrained.toml on the packed POOL with three seeds, once without each loss term and once with a
masking ramp, by `dynfusion train`; then `dynfusion evaluate` writes STORAGE/standard/report.md and its siblings. What
is finished in STORAGE stays, so that the same command continues. `NAME=VALUE` are settings of every training.
"""

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUN = "jobs/runs/pretrained.toml"
SEEDS = (0, 1, 2)
ABLATIONS = {
    "no-alignment": "loss.alignment=0",
    "no-diversity": "loss.diversity=0",
    "no-entropy": "loss.entropy=0",
    "no-sparsity": "loss.sparsity=0",
    "no-reconstruction": "loss.reconstruction=0",
    "ramp": "masking.schedule=linear",
}


def main(pool: str, storage: str, tasks: str, *overrides: str) -> None:
    """Raises CalledProcessError when a command fails."""
    for seed in SEEDS:
        train(pool, storage, f"seed-{seed}", f"train.seed={seed}", *overrides)
    for name, change in ABLATIONS.items():
        train(pool, storage, name, change, *overrides)
    models = ",".join(f"{storage}/seed-{seed}/model" for seed in SEEDS)
    ablations = [part for name in ABLATIONS for part in ("--ablation", f"{name}={storage}/{name}/model")]
    run("evaluate", "--model", f"pretrained={models}", *ablations, "--tasks", tasks, "--out", f"{storage}/standard")


def train(pool: str, storage: str, name: str, *changes: str) -> None:
    """One run of the run file, or nothing where it is finished."""
    run("train", RUN, f"data.uri={pool}", f"cluster.storage={storage}", f"cluster.name={name}", *changes)


def run(*arguments: str) -> None:
    """One command as a user types it, its output on this terminal."""
    print("$ dynfusion", *arguments, flush=True)
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "dynfusion", *arguments], cwd=ROOT, check=True)
    print(f"# {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
