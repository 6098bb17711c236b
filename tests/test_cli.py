"""The command line as a shell sees it: exit codes, sentences, help with an example."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from dynfusion.cli import main

VERBS = ["demo", "embed", "pack", "inspect", "verify", "train", "evaluate", "export", "report", "config show"]
DEMO = Path(__file__).parents[1] / "jobs" / "runs" / "demo.toml"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*verb.split(), "--help"]) == 0
    assert f"Example: dynfusion {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line", ["nope", "train", "train run.toml --nope", "pack --out x", "pack --holdout many --modality a=b --out x"]
)
def test_wrong_use_exits_2(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    assert "Error" in capsys.readouterr().err


def test_a_failure_exits_1_with_one_sentence_and_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", str(DEMO), "loss.algnment=1"]) == 1
    assert capsys.readouterr().err == "error: setting loss.algnment: unknown name, did you mean loss.alignment?\n"
    assert main(["config", "show", str(DEMO), "loss.algnment=1", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_config_show_prints_the_full_tree(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", str(DEMO), "loss.alignment=0.25"]) == 0
    printed = capsys.readouterr().out
    for line in ("[data]", "[masking]", "alignment = 0.25", 'schedule = "linear"', "workers = 2"):
        assert line in printed


@pytest.mark.parametrize("job", ["train", "evaluate", "pack", "embed"])
def test_jobs_take_the_arguments_of_the_verbs(job: str) -> None:
    script = Path(__file__).parents[1] / "jobs" / f"{job}.py"
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, check=True)
    assert f"Usage: dynfusion {job}" in done.stdout


def test_help_answers_within_a_second() -> None:
    def seconds() -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "dynfusion", "--help"], capture_output=True, check=True)
        return time.perf_counter() - started

    assert min(seconds() for _ in range(3)) < 1
