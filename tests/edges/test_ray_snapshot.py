"""What Ray Train's own checkpoint manager leaves in a run's folder, and what it makes of one that something befell."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from ray.train import Checkpoint, CheckpointConfig
from ray.train.v2._internal.exceptions import CheckpointManagerInitializationError
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.storage import StorageContext
from ray.train.v2._internal.execution.training_report import _TrainingReport

from dynfusion.edges.ray_snapshot import tidy
from dynfusion.edges.s3_address import parse_s3
from dynfusion.edges.s3_clients import filesystem
from dynfusion.edges.s3_storage import below, open_storage
from dynfusion.training.checkpoint import (
    LISTS,
    REGISTERED,
    _write_list,
    checkpoint_name,
    checkpoint_names,
    latest,
    next_attempt,
    step_of,
)
from dynfusion.training.storage import LocalStorage
from tests.s3 import make_bucket


def with_manager(folder: Path, use: Callable[[CheckpointManager, StorageContext], None]) -> list[str]:
    """The names that Ray holds registered when `use` is through with its manager for this run folder."""

    async def inside() -> list[str]:
        context = StorageContext(storage_path=str(folder.parent), experiment_dir_name=folder.name)
        manager = CheckpointManager(CheckpointConfig(num_to_keep=3), context)
        use(manager, context)
        return [Path(result.checkpoint.path).name for result in manager._checkpoint_results]

    return asyncio.run(inside())


def make(folder: Path) -> None:
    """A whole checkpoint folder, as far as its list goes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state.json").write_text("{}")
    _write_list(folder, 0, 1)


def registered_run(folder: Path, *steps: int) -> list[Path]:
    """The whole checkpoints of these steps, registered with Ray and waiting for a score."""
    made = [folder / checkpoint_name(step, 1) for step in steps]

    def use(manager: CheckpointManager, context: StorageContext) -> None:
        for path in made:
            make(path)
            register(manager, context, path)

    with_manager(folder, use)
    return made


def started(folder: Path, *, keep: int = 2, wanted: Callable[[str], bool] = lambda name: False) -> list[str]:
    """What the driver says before Ray starts."""
    said: list[str] = []
    storage = LocalStorage(folder)
    with latest(storage, said.append) as last:
        chosen = last[0] if last else None
    tidy(storage, chosen, keep, wanted=wanted, say=said.append)
    return said


def known(folder: Path) -> list[str]:
    return with_manager(folder, lambda manager, context: None)


def test_a_registered_checkpoint_that_is_gone_does_not_keep_ray_from_starting(tmp_path: Path) -> None:
    made = registered_run(tmp_path / "run", 1, 2, 3)
    shutil.rmtree(made[2])
    with pytest.raises(CheckpointManagerInitializationError):
        known(tmp_path / "run")
    said = started(tmp_path / "run")
    assert said == [f"{tmp_path}/run/{REGISTERED} named {made[2].name}, gone or not whole: taken out"]
    assert known(tmp_path / "run") == [made[0].name, made[1].name]
    assert started(tmp_path / "run") == []


@pytest.mark.parametrize("length", [0, 1, 100, 700])
def test_a_truncated_record_is_set_aside(tmp_path: Path, length: int) -> None:
    made = registered_run(tmp_path / "run", 1, 2)
    record = tmp_path / "run" / REGISTERED
    record.write_bytes(record.read_bytes()[:length])
    with pytest.raises(CheckpointManagerInitializationError):
        known(tmp_path / "run")
    [said] = started(tmp_path / "run")
    assert said.startswith(f"{record} cannot be used (")
    assert known(tmp_path / "run") == []
    assert sorted((tmp_path / "run").glob("checkpoint-*")) == made


def test_a_record_of_another_ray_is_set_aside(tmp_path: Path) -> None:
    registered_run(tmp_path / "run", 1)
    record = tmp_path / "run" / REGISTERED
    record.write_text(record.read_text().replace(ray.__version__, "1.0.0"))
    [said] = started(tmp_path / "run")
    assert f"(it is of Ray 1.0.0 and this is Ray {ray.__version__})" in said
    assert not record.exists()


def test_torn_checkpoints_go_and_hold_no_kept_slot(tmp_path: Path) -> None:
    made = registered_run(tmp_path / "run", 1, 2, 3)
    for torn in (made[0], made[2]):
        (torn / "state.json").write_text("{} ")
    (tmp_path / "run" / checkpoint_name(4, 2)).mkdir()
    said = started(tmp_path / "run")
    assert [text for text in said if "removed" in text] == [
        f"checkpoint {tmp_path}/run/{name} removed: it is not whole"
        for name in (made[0].name, made[2].name, checkpoint_name(4, 2))
    ]
    assert known(tmp_path / "run") == [made[1].name]
    assert checkpoint_names(LocalStorage(tmp_path / "run")) == [made[1].name]
    assert next_attempt(LocalStorage(tmp_path / "run")) == 3  # what still uploads as attempt 2 meets no other


def test_whole_checkpoints_that_ray_never_knew_go_when_they_are_neither_last_nor_wanted(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    made = registered_run(folder, 2)
    for step in (1, 3, 4, 5):
        make(folder / checkpoint_name(step, 1))
    assert started(folder, wanted=lambda name: step_of(name) == 1) == [
        f"checkpoint {folder}/{checkpoint_name(3, 1)} removed: an interrupted run left it behind "
        "and there are later ones"
    ]
    assert [step_of(name) for name in checkpoint_names(LocalStorage(folder))] == [1, 2, 4, 5]
    assert known(folder) == [made[0].name]


def test_without_a_whole_checkpoint_nothing_is_removed(tmp_path: Path) -> None:
    torn = tmp_path / "run" / checkpoint_name(4, 1)
    make(torn)
    list_of_files = next(torn.glob("files-*"))
    list_of_files.write_bytes(list_of_files.read_bytes()[:-2])
    assert started(tmp_path / "run") == [f"checkpoint {torn} skipped: {list_of_files.name} is truncated"]
    assert torn.exists()


def test_in_a_bucket_too(s3: str, tmp_path: Path) -> None:
    make_bucket(s3, "snapshot")
    address = f"s3://snapshot/runs?endpoint_override={s3}"
    storage, said = open_storage(below(address, "run")), list[str]()
    path, files = filesystem(parse_s3(address))
    made = registered_run(tmp_path / "run", 1, 2, 3)
    for folder in (made[0], made[1]):
        storage.put(folder, folder.name, last=LISTS)
    (made[1] / "state.json").write_text("{} ")
    storage.put(made[1], made[1].name, last="nothing")
    storage.write(REGISTERED, (tmp_path / "run" / REGISTERED).read_bytes())

    async def registered() -> list[str]:
        context = StorageContext(storage_path=path, experiment_dir_name="run", storage_filesystem=files)
        manager = CheckpointManager(CheckpointConfig(num_to_keep=3), context)
        return [Path(result.checkpoint.path).name for result in manager._checkpoint_results]

    with pytest.raises(CheckpointManagerInitializationError):
        asyncio.run(registered())
    tidy(storage, made[0].name, 2, wanted=lambda name: False, say=said.append)
    assert asyncio.run(registered()) == [made[0].name]
    assert checkpoint_names(storage) == [made[0].name]


def test_a_run_that_failed_before_its_first_checkpoint_starts_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with_manager(folder, lambda manager, _: manager.update_checkpoints_with_validation_result({}))
    assert (folder / REGISTERED).exists()
    with latest(LocalStorage(folder), print) as last:
        assert last is None


def test_a_run_whose_registered_checkpoints_are_all_gone_is_not_started_afresh(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with_manager(folder, lambda manager, context: register(manager, context, folder / "checkpoint-00000001-001"))
    shutil.rmtree(folder / "checkpoint-00000001-001")
    with pytest.raises(ValueError, match="none is whole, found none"):
        latest(LocalStorage(folder), print).__enter__()


def register(manager: CheckpointManager, context: StorageContext, folder: Path) -> None:
    """As a report of it does."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = Checkpoint(str(folder), context.storage_filesystem)
    manager.register_checkpoint(_TrainingReport(checkpoint=checkpoint, metrics={"loss": 1.0}, validation=True))
