"""The demo as a newcomer runs it: twice into two empty folders, the same numbers to the last digit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dynfusion.verbs.demo import demo_settings


def test_the_demo_runs_the_run_file_that_jobs_show(tmp_path: Path) -> None:
    shown = Path(__file__).parents[2] / "jobs" / "runs" / "demo.toml"
    settings = demo_settings(tmp_path)
    assert settings.cluster.storage == str(tmp_path / "runs")
    assert settings.data.uri == str(tmp_path / "packed" / "pool")
    assert shown.read_text() == (Path(__file__).parents[2] / "dynfusion" / "verbs" / "demo.toml").read_text()


@pytest.mark.slow
def test_two_demos_give_the_same_numbers_to_the_last_digit(tmp_path: Path) -> None:
    for name, padding in (("one", "x"), ("two", "x" * 3000)):  # another environment, another layout of memory
        environment = {**os.environ, "PADDING": padding}
        command = [sys.executable, "-m", "dynfusion", "demo", "--out", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert "Fused beats mean-imputed concatenation" in done.stdout
    one, two = tmp_path / "one", tmp_path / "two"
    model = Path("runs", "demo", "model", "model.safetensors")
    assert (one / model).read_bytes() == (two / model).read_bytes()
    report = Path("report", "report.json")
    reports = [json.loads((folder / report).read_text()) for folder in (one, two)]
    for part in ("cells", "reconstruction", "comparisons", "tables"):
        assert reports[0][part] == reports[1][part], part
