"""Training on real Ray with real DeepSpeed: two workers, one of them killed, the same weights bit for bit."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from dynfusion.edges.ray_board import Watch, watched_board
from dynfusion.edges.ray_train import train_on_ray
from dynfusion.fusion.api import FusionModel
from dynfusion.run_settings import RunSettings
from dynfusion.settings import build, to_toml
from dynfusion.store.dataset import Dataset
from dynfusion.training.checkpoint import read_history
from dynfusion.training.run_folder import export
from tests.datasets import DIMS, packed
from tests.training.cases import MASKING, MODEL, TRAIN, run, untimed

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return packed(tmp_path_factory.mktemp("data"))


def settings(dataset: Dataset, storage: Path, **cluster: Any) -> RunSettings:
    return build(
        RunSettings,
        {
            "data": {"uri": dataset.uri},
            "model": MODEL.model_dump(),
            "masking": MASKING.model_dump(),
            "train": TRAIN.model_dump(),
            "cluster": {"name": "run", "storage": str(storage), "workers": 2, **cluster},
        },
    )


def silent(_: object) -> None:
    """Nobody watches."""


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def undisturbed(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    storage = tmp_path_factory.mktemp("undisturbed")
    before = signal.getsignal(signal.SIGINT)
    folder = Path(train_on_ray(settings(dataset, storage), Watch(silent, silent)))
    assert signal.getsignal(signal.SIGINT) is before
    return folder


def test_two_workers_train_the_model_of_the_plain_loop(dataset: Dataset, undisturbed: Path, tmp_path: Path) -> None:
    alone, history = run(dataset, tmp_path)
    for name, tensor in weights(undisturbed).items():
        assert_close(tensor, alone[f"network.{name}"], rtol=2e-3, atol=2e-4)
    last = sorted(undisturbed.glob("checkpoint-*"))[-1]
    assert [record["loss"] for record in read_history(last)] == pytest.approx([r["loss"] for r in history], rel=1e-4)


def test_only_the_last_checkpoints_stay(undisturbed: Path) -> None:
    assert [folder.name for folder in sorted(undisturbed.glob("checkpoint-*"))] == [
        "checkpoint-00000012-001",
        "checkpoint-00000015-001",
    ]


def test_a_finished_run_says_so_and_does_not_train_again(dataset: Dataset, undisturbed: Path) -> None:
    said: list[str] = []
    before = (undisturbed / "model" / "model.safetensors").stat().st_mtime_ns
    assert train_on_ray(settings(dataset, undisturbed.parent), Watch(silent, said.append)) == str(undisturbed)
    assert said == [f"run {undisturbed} is already finished"]
    assert (undisturbed / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_the_folder_of_another_run_is_refused(dataset: Dataset, undisturbed: Path, tmp_path: Path) -> None:
    other = settings(dataset, undisturbed.parent)
    other = other.model_copy(update={"loss": other.loss.model_copy(update={"alignment": 0.7})})
    with pytest.raises(ValueError, match=r"with other settings, loss\.alignment was 0\.05 and is now 0\.7"):
        train_on_ray(other, Watch(silent, silent))
    elsewhere = packed(tmp_path, seed=5)
    with pytest.raises(ValueError, match="belongs to a run on other data, fingerprint"):
        train_on_ray(settings(elsewhere, undisturbed.parent), Watch(silent, silent))


def test_a_killed_worker_changes_nothing_in_the_weights(dataset: Dataset, undisturbed: Path, tmp_path: Path) -> None:
    killed: list[int] = []
    said: list[str] = []

    def kill_once(record: dict[str, Any]) -> None:
        if record["step"] >= 6 and not killed:
            killed.append(training_worker())
            os.kill(killed[0], signal.SIGKILL)

    # Two checkpoints in four steps, so that the kill falls between them whatever the driver's delay.
    folder = Path(train_on_ray(settings(dataset, tmp_path), Watch(kill_once, said.append)))
    assert killed
    assert any("continuing from" in text for text in said)
    expected = weights(undisturbed)
    found = weights(folder)
    assert all((found[name] == tensor).all() for name, tensor in expected.items())
    histories = [read_history(sorted(run.glob("checkpoint-*"))[-1]) for run in (folder, undisturbed)]
    assert untimed(histories[0]) == untimed(histories[1])


@pytest.mark.slow
def test_a_killed_driver_and_the_same_command_again_change_nothing_in_the_weights(
    dataset: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    run_file = tmp_path / "run.toml"
    run_file.write_text(to_toml(settings(dataset, tmp_path, name="run")))
    command = [sys.executable, "-m", "dynfusion", "train", str(run_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            if line.startswith("step 6/"):
                break
        driver.kill()
    assert not (tmp_path / "run" / "model").exists()
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "continuing from" in again.stdout
    expected, found = weights(undisturbed), weights(tmp_path / "run")
    assert all((found[name] == tensor).all() for name, tensor in expected.items())


def training_worker() -> int:
    """Process id of a Ray Train worker of this session."""
    for process in psutil.Process().children(recursive=True):
        if process.name().startswith("ray::") and "RayTrainWorker" in " ".join([process.name(), *process.cmdline()]):
            return process.pid
    raise AssertionError([process.name() for process in psutil.Process().children(recursive=True)])


def test_a_checkpoint_is_exported_without_deepspeed_or_ray(undisturbed: Path, tmp_path: Path) -> None:
    last = sorted(undisturbed.glob("checkpoint-*"))[-1]
    model = FusionModel.load(export(last, tmp_path / "model"))
    assert model.dims == DIMS
    trained = FusionModel.load(undisturbed / "model")
    for name, tensor in model.network.state_dict().items():
        assert (tensor == trained.network.state_dict()[name]).all()
    with pytest.raises(ValueError, match="already exists"):
        export(last, tmp_path / "model")
    with pytest.raises(ValueError, match="no list of files"):
        export(tmp_path, tmp_path / "other")


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_run_once_and_with_its_sentence(dataset: Dataset, tmp_path: Path) -> None:
    wild = settings(dataset, tmp_path)
    train = {"learning_rate": 1e30, "gradient_clipping": 0.0, "warmup_share": 0.0}
    wild = wild.model_copy(update={"train": wild.train.model_copy(update=train)})
    said: list[str] = []
    with pytest.raises(ValueError, match=r"training stopped at step \d+, the first whose loss"):
        train_on_ray(wild, Watch(silent, said.append))
    assert len([text for text in said if "steps of 128 molecules" in text]) == 1


@pytest.mark.parametrize(
    ("part", "change", "sentence"),
    [
        ("train", {"accumulation": 3}, r"train\.accumulation: found 3, allowed is at most 2, since 2 workers share 4"),
        ("cluster", {"workers": (5, 5)}, "world_size: found 5, this dataset and batch give 4 contrast groups"),
        ("engine", {"deepspeed": {"optimizer": {}}}, r"engine\.deepspeed\.optimizer: decided by dynfusion"),
        ("engine", {"deepspeed": {"elasticity": {}}}, r"engine\.deepspeed\.elasticity: DeepSpeed has removed"),
        ("train", {"init": "/nowhere"}, r"/nowhere"),
    ],
)
def test_what_cannot_work_is_refused_before_there_is_a_worker_or_a_run_folder(
    part: str, change: dict[str, Any], sentence: str, dataset: Dataset, tmp_path: Path
) -> None:
    base = settings(dataset, tmp_path)
    wrong = base.model_copy(update={part: getattr(base, part).model_copy(update=change)})
    with pytest.raises(ValueError, match=sentence):
        train_on_ray(wrong, Watch(silent, silent))
    assert not list(tmp_path.iterdir())


def test_a_cluster_without_the_resources_is_named_after_the_deadline(dataset: Dataset, tmp_path: Path) -> None:
    greedy = settings(dataset, tmp_path, cpus_per_worker=1000, start_deadline_seconds=1)
    with pytest.raises(ValueError, match=r"asked for 2 workers with \{'CPU': 1000.0\} each, found \{'CPU'"):
        train_on_ray(greedy, Watch(silent, silent))


@pytest.mark.slow
def test_a_run_whose_board_is_lost_ends_with_its_model_and_its_whole_history(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boards: list[Any] = []
    said: list[str] = []

    @contextmanager
    def kept(watch: Watch) -> Iterator[Any]:
        with watched_board(watch) as board:
            boards.append(board)
            yield board

    def kill_once(record: dict[str, Any]) -> None:
        if record["step"] >= 4 and boards:
            ray.kill(boards.pop())

    monkeypatch.setattr("dynfusion.edges.ray_train.watched_board", kept)
    folder = Path(train_on_ray(settings(dataset, tmp_path), Watch(kill_once, said.append)))
    assert sum(text.startswith("watching has ended") for text in said) == 1
    assert FusionModel.load(folder / "model")
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert lines == read_history(sorted(folder.glob("checkpoint-*"))[-1])
