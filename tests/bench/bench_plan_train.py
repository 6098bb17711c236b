"""What `dynfusion plan train` expects of a training run beside what `dynfusion train` then does.

    python -m tests.bench.bench_plan_train [rows] [--seconds S] [--only NAME ...]

Each setting is planned and then trained on Ray with DeepSpeed, both as commands of their own, for about `seconds` of
steps. Measured are the median of rows a second over its records (all but the first, which has the start in it) and the
resident memory of the first worker. Where the processor has no instructions for bf16, that setting is left out unless
it is named. `deviation` is planned over measured less one. Nothing else should run: the plan
measures the machine too.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w
import torch

from dynfusion.training.engine import precision_note
from tests.bench.bench_step import DIMS, hardware
from tests.datasets import packed

ROOT = Path(__file__).parents[2]
RECORD_SECONDS = 2.0
SETTINGS: dict[str, dict[str, Any]] = {
    "small model, fp32, 512 rows, one worker": {
        "model": {"dim": 64, "gate_hidden": 32, "decoder_hidden": 64, "score_hidden": 16},
        "train": {"global_batch_rows": 512},
        "cluster": {"workers": 1},
    },
    "default model, bf16, 4096 rows, two workers": {
        "train": {"global_batch_rows": 4096},
        "engine": {"precision": "bf16"},
        "cluster": {"workers": 2},
    },
    "wide decoder, fp32, 1024 rows, two workers": {
        "model": {"decoder_hidden": 2048},
        "train": {"global_batch_rows": 1024},
        "cluster": {"workers": 2},
    },
    "default model, fp32, 1024 rows, one worker, ZeRO 2": {
        "train": {"global_batch_rows": 1024},
        "engine": {"zero_stage": 2},
        "cluster": {"workers": 1},
    },
}


def main(
    size: int = 32_768,
    *,
    seconds: float = 40.0,
    names: tuple[str, ...] | None = None,
    dims: Mapping[str, int] = DIMS,
) -> dict[str, Any]:
    """Plan and train every named setting on `size` packed rows; print one JSON line and return what it says."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = names or tuple(name for name, setting in SETTINGS.items() if not _slow_here(setting))
        uri = str(packed(folder, rows=size, dims=dims).uri)
        found = {name: compare(folder, uri, SETTINGS[name], seconds) for name in names}
    result = {
        "benchmark": "plan_train",
        "figures": {
            f"worst_{what}": max((abs(one["deviation"][what]) for one in found.values()), default=0.0)
            for what in ("rows_per_second", "memory_bytes")
        },
        "settings": found,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "hardware": hardware(torch.device("cpu")),
        "rows": size,
        "dims": list(dims.values()),
    }
    print(json.dumps(result), flush=True)
    return result


def _slow_here(setting: dict[str, Any]) -> bool:
    precision = setting.get("engine", {}).get("precision", "fp32")
    return bool(precision_note(precision, torch.device("cpu")))


def compare(folder: Path, uri: str, setting: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Planned and measured figures of one setting, and how far the former are from the latter."""
    once = plan(folder, uri, setting, epochs=1, record_steps=1)
    epochs = max(1, round(seconds / once["step_seconds"] / once["steps_per_epoch"]))
    record_steps = max(1, round(RECORD_SECONDS / once["step_seconds"]))
    planned = plan(folder, uri, setting, epochs, record_steps)
    records = train(folder)
    measured = {
        "rows_per_second": statistics.median(record["rows_per_second"] for record in records[1:] or records),
        "memory_bytes": max(record["memory_bytes"] for record in records),
    }
    expected = {name: planned[of] for name, of in (("rows_per_second",) * 2, ("memory_bytes", "memory_total_bytes"))}
    return {
        "planned": {**expected, "binds": planned["binds"], "ceilings": planned["ceilings"]},
        "measured": {**measured, "records": len(records), "steps": planned["steps"]},
        "deviation": {name: expected[name] / measured[name] - 1 for name in expected},
        "memory_parts": planned["memory_bytes"],
    }


def plan(folder: Path, uri: str, setting: dict[str, Any], epochs: int, record_steps: int) -> dict[str, Any]:
    """Write the run file and return what `plan train` says of it."""
    train = {**setting["train"], "epochs": epochs, "log_every_steps": record_steps, "checkpoint_every_steps": 10**9}
    cluster = {**setting["cluster"], "name": "planned", "storage": tempfile.mkdtemp(dir=folder)}
    run = {**setting, "data": {"uri": uri}, "train": train, "cluster": cluster}
    (folder / "run.toml").write_text(tomli_w.dumps(run))
    return json.loads(command("plan", "train", str(folder / "run.toml"), "--json"))


def train(folder: Path) -> list[dict[str, Any]]:
    """Train as the run file says; the records of its history."""
    command("train", str(folder / "run.toml"))
    histories = sorted(folder.glob("*/planned/history.jsonl"), key=os.path.getmtime)
    return [json.loads(line) for line in histories[-1].read_text().splitlines()]


def command(*words: str) -> str:
    """What a command prints. Raises CalledProcessError when it fails."""
    done = subprocess.run([sys.executable, "-m", "dynfusion", *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
    done.check_returncode()
    return done.stdout


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", nargs="?", type=int, default=32_768)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--only", nargs="+", choices=tuple(SETTINGS))
    given = parser.parse_args()
    main(given.rows, seconds=given.seconds, names=tuple(given.only or ()))
