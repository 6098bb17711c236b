"""`dynfusion plan train` as a person calls it."""

import json
from pathlib import Path

import pytest

from dynfusion.cli import main
from dynfusion.edges.datasets import upload
from dynfusion.training.planning.calibration import Calibration, ProductRate, read_calibration, write_calibration
from tests.datasets import packed
from tests.s3 import make_bucket


@pytest.fixture
def run(tmp_path: Path) -> Path:
    dataset = packed(tmp_path, rows=600)
    path = tmp_path / "run.toml"
    path.write_text(f'[data]\nuri = "{dataset.uri}"\n[train]\nglobal_batch_rows = 128\nepochs = 3\n')
    return path


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    rate = ProductRate(rows=512, inner=512, columns=512, precision="fp32", flops_per_second=1e11)
    made = Calibration(
        processor="by hand",
        cores=2,
        memory_bytes=1 << 34,
        threads=1,
        workers=2,
        products=(rate,),
        pass_rate=4e10,
        gather_rate=1e10,
        call_seconds=5e-6,
    )
    write_calibration(made, tmp_path / "machine.json")
    return tmp_path / "machine.json"


def told(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["plan", "train", *words]) == 0
    return capsys.readouterr().out


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["plan", "train", *words]) == 1
    return capsys.readouterr().err


def test_gpus_are_planned_and_assumptions_are_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = told([str(run), "--gpus", "4", "--gpu", "h200"], capsys)
    assert "run on 4 h200 (1 node)" in said
    assert "12 of 128 rows, 4 an epoch, which leaves out 88 rows; 32 rows a worker" in said
    assert "h200: not measured" in said
    assert "35% (products)" in said
    assert "nothing is read from S3" in said


def test_json_holds_what_is_printed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(told([str(run), "--gpus", "4", "--gpu", "a100", "--json", "engine.zero_stage=2"], capsys))
    assert (found["workers"], found["steps"], found["machine"]) == (4, 12, "a100")
    assert found["memory_total_bytes"] == pytest.approx(sum(found["memory_bytes"].values()))
    assert found["memory_bytes"]["exchange"] == 2e9
    assert found["ceilings"][found["binds"]] == min(found["ceilings"].values())
    assert found["fits"] is True


def test_cpus_are_the_default_and_a_kept_calibration_stands_for_another_machine(
    run: Path, calibration: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = ["--calibration", str(calibration)]
    own = json.loads(told([str(run), *kept, "--json"], capsys))
    assert (own["machine"], own["workers"], own["nodes"]) == ("cpu", 2, 1)
    four = json.loads(told([str(run), *kept, "--json", "--cpus", "4"], capsys))
    assert (four["workers"], four["nodes"]) == (4, 2)  # the calibrated machine has two cores
    assert four["ceilings"]["compute"] == pytest.approx(2 * own["ceilings"]["compute"], rel=0.02)
    assert "by hand, 2 cores" in told([str(run), *kept], capsys)


def test_a_store_is_read_once_through_a_cache_and_every_epoch_without(
    run: Path, tmp_path: Path, s3: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_bucket(s3, "planned")
    address = f"s3://planned/packed?endpoint_override={s3}"
    manifest = upload(tmp_path / "packed", address)
    shards = sum(shard.bytes for shard in manifest.shards)
    words = [str(run), f"data.uri={address}", "--gpus", "2", "--gpu", "l4", "--nodes", "2", "--json"]
    cached = json.loads(told([*words, f"data.cache_dir={tmp_path}/cache"], capsys))
    assert cached["read_bytes"] == 2 * shards
    assert cached["reading"]["cache_needed_bytes"] == sum(file.bytes for file in manifest.files)
    assert not (tmp_path / "cache").exists()
    streamed = json.loads(told(words, capsys))
    assert streamed["read_bytes"] == pytest.approx(3 * manifest.layout.num_blocks * manifest.geometry.block_bytes)
    assert "there is no data.cache_dir: blocks are streamed through" in told(words[:-1], capsys)


def test_a_calibration_that_is_not_there_is_made(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["model.dim=8", "model.decoder_hidden=8", "model.gate_hidden=8", "cluster.workers=1"]
    told([str(run), *small, "--calibration", str(tmp_path / "new.json")], capsys)
    assert read_calibration(tmp_path / "new.json").workers == 1


def test_a_choice_that_is_none_is_one_sentence(
    run: Path, calibration: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(run)
    assert refused([path, "--gpus", "2", "--gpu", "h300"], capsys) == (
        "error: --gpu: found 'h300', allowed is h200, h100, a100, l4\n"
    )
    assert "--gpus: found 2 without their kind" in refused([path, "--gpus", "2"], capsys)
    assert "setting cluster.gpus: found true" in refused([path, "cluster.gpus=true"], capsys)
    assert "--cpus: found beside --gpu l4" in refused([path, "--gpu", "l4", "--cpus", "2"], capsys)
    assert "--calibration: found beside --gpu l4" in refused(
        [path, "--gpu", "l4", "--calibration", str(calibration)], capsys
    )
    assert "--nodes: found 3, allowed is 1 to 2" in refused(
        [path, "--gpu", "l4", "--gpus", "2", "--nodes", "3"], capsys
    )
    two_each = ["cluster.cpus_per_worker=2", "--cpus", "1", "--calibration", str(calibration)]
    assert "--cpus: found 1, a worker takes 2 (cluster.cpus_per_worker)" in refused([path, *two_each], capsys)
    assert "contrast groups" in refused([path, "--gpus", "64", "--gpu", "l4"], capsys)
    assert main(["plan", "train", path, "--gpus", "none"]) == 2
