"""A run of 400 steps on two workers, which takes some twenty seconds once it has begun, and what it must end with."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from dynfusion.fusion.model import ModelSettings
from dynfusion.run_settings import RunSettings
from dynfusion.settings import build, to_toml
from tests.training.cases import MASKING, MODEL

TRAIN = {"epochs": 80, "global_batch_rows": 128, "log_every_steps": 5, "checkpoint_every_steps": 40}
STEPS = 400
Disturb = Callable[[int, subprocess.Popen[str]], None]


def run_file(
    uri: str, folder: Path, *, model: ModelSettings = MODEL, data: Mapping[str, object] | None = None, **cluster: object
) -> Path:
    """The run's file in a folder, which is its storage too unless `storage` says otherwise."""
    settings = {
        "data": {"uri": uri, **(data or {})},
        "model": model.model_dump(),
        "masking": MASKING.model_dump(),
        "train": TRAIN,
        "cluster": {"name": "run", "storage": str(folder), "workers": 2, "resize_seconds": 2.0, **cluster},
    }
    path = folder / "run.toml"
    path.write_text(to_toml(build(RunSettings, settings)))
    return path


def nothing(step: int, driver: subprocess.Popen[str]) -> None:
    """Leave it alone."""


def train(
    path: Path,
    environment: Mapping[str, str],
    disturb: Disturb = nothing,
    heard: Callable[[str], None] = lambda line: None,
    *,
    before: tuple[str, ...] = (),
) -> tuple[int, str]:
    """(exit code, output) of the command; `disturb` gets every step that it prints, `heard` every line.

    `before` is put before the command, such as the namespace that it is to run in.
    """
    command = [*before, sys.executable, "-m", "dynfusion", "train", str(path)]
    lines = []
    with subprocess.Popen(
        command, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            lines.append(line)
            heard(line)
            found = re.match(r"step (\d+)/", line)
            if found:
                disturb(int(found.group(1)), driver)
    return driver.returncode, "".join(lines)


def once(moment: int, act: Callable[[subprocess.Popen[str]], None]) -> tuple[Disturb, list[int]]:
    """What acts at the first printed step from `moment` on; and the step, once it has acted."""
    done: list[int] = []

    def disturb(step: int, driver: subprocess.Popen[str]) -> None:
        if step >= moment and not done:
            done.append(step)
            act(driver)

    return disturb, done


def weights(folder: Path) -> bytes:
    """The finished model of the run in this storage."""
    return (folder / "run" / "model" / "model.safetensors").read_bytes()


def require_whole(folder: Path, expected: bytes) -> None:
    """The run ended with these weights, bit for bit, and has each of its records once."""
    assert weights(folder) == expected
    lines = (folder / "run" / "history.jsonl").read_text().splitlines()
    steps = Counter(record["step"] for record in map(json.loads, lines) if "loss" in record)
    every = TRAIN["log_every_steps"]
    assert steps == Counter(range(every, STEPS + 1, every))
