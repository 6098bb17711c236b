"""What Ray Train's own checkpoint manager leaves in a run's folder, and what it makes of one that something befell."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from ray.train import Checkpoint, CheckpointConfig
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.storage import StorageContext
from ray.train.v2._internal.execution.training_report import _TrainingReport

from dynfusion.training.checkpoint import REGISTERED, latest
from dynfusion.training.storage import LocalStorage


def with_manager(folder: Path, use: Callable[[CheckpointManager, StorageContext], None]) -> list[str]:
    """The names that Ray holds registered when `use` is through with its manager for this run folder."""

    async def inside() -> list[str]:
        context = StorageContext(storage_path=str(folder.parent), experiment_dir_name=folder.name)
        manager = CheckpointManager(CheckpointConfig(num_to_keep=3), context)
        use(manager, context)
        return [Path(result.checkpoint.path).name for result in manager._checkpoint_results]

    return asyncio.run(inside())


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
