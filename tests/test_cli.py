"""The command line as a shell sees it: exit codes, sentences, help with an example."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dynfusion.cli import main
from dynfusion.store.dataset import open_dataset

VERBS = [
    "demo",
    "embed",
    "pack",
    "inspect",
    "verify",
    "train",
    "tune",
    "tune show",
    "submit",
    "doctor",
    "evaluate",
    "export",
    "report",
    "config show",
    "data fetch",
    "plan evaluate",
    "plan train",
]
DEMO = Path(__file__).parents[1] / "jobs" / "runs" / "demo.toml"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*verb.split(), "--help"]) == 0
    assert f"Example: dynfusion {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line",
    [
        "nope",
        "submit nope",
        "submit train",
        "submit pack --nope",
        "train",
        "train run.toml --nope",
        "tune space.toml",
        "tune show",
        "tune show one two",
        "pack --out x",
        "pack --holdout many --modality a=b --out x",
    ],
)
def test_wrong_use_exits_2(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_failure_exits_1_with_one_sentence_and_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", str(DEMO), "loss.algnment=1"]) == 1
    assert capsys.readouterr().err == "error: setting loss.algnment: unknown name, did you mean loss.alignment?\n"
    assert main(["config", "show", str(DEMO), "loss.algnment=1", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(("verb", "what"), [("embed", "begins again"), ("pack", "continues")])
def test_what_an_interrupted_command_leaves_is_told(
    verb: str, what: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(**options: object) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        raise AssertionError("the signal was not heard")

    monkeypatch.setattr("dynfusion.cli.app", interrupted)
    assert main([verb]) == 143
    assert capsys.readouterr().err == f"terminated; the same command {what}\n"


def test_config_show_prints_the_full_tree(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", str(DEMO), "loss.alignment=0.25"]) == 0
    printed = capsys.readouterr().out
    for line in ("[data]", "[masking]", "alignment = 0.25", 'schedule = "linear"', "workers = 2"):
        assert line in printed


@pytest.mark.parametrize("job", ["train", "tune", "evaluate", "pack", "embed"])
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


def test_molecules_become_a_verified_data_set_through_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "molecules.csv").write_text(
        "id,smiles,active\n" + "".join(f"m{n},{'C' * n}O,{n % 2}\n" for n in range(1, 41))
    )
    table = f"--input {tmp_path}/molecules.csv --id-column id"
    for encoder in ("morgan", "selfies-ngrams"):
        assert main([*f"embed {table} --encoder {encoder} --out {tmp_path}/{encoder}".split()]) == 0
    modalities = " ".join(f"--modality {name}={tmp_path}/{name}" for name in ("morgan", "selfies-ngrams"))
    labels = f"--table {tmp_path}/molecules.csv --labels active"
    assert main(f"pack {modalities} {labels} --out {tmp_path}/packed".split()) == 0
    assert main(f"inspect {tmp_path}/packed".split()) == 0
    assert main(f"verify {tmp_path}/packed".split()) == 0
    assert "selfies-ngrams" in capsys.readouterr().out
    shard = next((tmp_path / "packed").glob("**/*.arrow"))
    shard.write_bytes(shard.read_bytes()[:-100])
    assert main(f"verify {tmp_path}/packed".split()) == 1
    assert shard.name in capsys.readouterr().out


def test_a_label_whose_name_holds_a_comma_stands_in_quotes(tmp_path: Path) -> None:
    (tmp_path / "vectors.csv").write_text("id,0,1\n" + "".join(f"m{n},{n},{n * n}\n" for n in range(40)))
    (tmp_path / "table.csv").write_text('id,"skin, deep",eyes\n' + "".join(f"m{n},{n % 2},1\n" for n in range(40)))
    line = ["pack", "--modality", f"a={tmp_path}/vectors.csv", "--table", f"{tmp_path}/table.csv"]
    assert main([*line, "--labels", '"skin, deep",eyes', "--out", f"{tmp_path}/packed"]) == 0
    assert open_dataset(tmp_path / "packed").manifest.label_columns == ("skin, deep", "eyes")


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "dynfusion 0.1.0\n"


def test_a_misspelt_setting_is_refused_before_anything_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = ["--address", "http://127.0.0.1:9"]
    assert main(["submit", *nowhere, "train", str(DEMO), "train.epoch=3"]) == 1
    assert "setting train.epoch: unknown name, did you mean train.epochs?" in capsys.readouterr().err
    line = ["submit", *nowhere, "evaluate", "--model", "m", "--tasks", "a=b", "evaluation.extend=full"]
    assert main(line) == 1
    assert "setting evaluation.extend: unknown name, did you mean evaluation.extent?" in capsys.readouterr().err


def test_submitting_without_an_address_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    assert main(["submit", "train", str(DEMO), "data.uri=packed"]) == 4
    assert "no cluster: give --address http://HEAD:8265, or set RAY_API_SERVER" in capsys.readouterr().err
