"""A run that goes on with other numbers of ranks keeps its batches and its loss curve, in the engine of production."""

import shutil
from pathlib import Path

import pytest
import torch

from dynfusion.edges.deepspeed_engine import DeepSpeedEngine
from dynfusion.fusion.objective import FusionObjective
from dynfusion.store.dataset import open_dataset
from dynfusion.training.config import EngineSettings, TrainSettings
from dynfusion.training.loop import Record
from tests.datasets import packed
from tests.training.cases import TRAIN, StoppedError, run
from tests.training.ranks import run_ranks

LONG = TRAIN.model_copy(update={"epochs": 40, "log_every_steps": 1, "checkpoint_every_steps": 50})


def part(uri: str, folder: str, stage: int, resume: str | None, stop_after: int | None) -> list[Record]:
    """The history of a run from `resume` to `stop_after`, which leaves a checkpoint there, or to its end."""

    def engine(
        objective: FusionObjective, train: TrainSettings, _: EngineSettings, device: torch.device
    ) -> DeepSpeedEngine:
        return DeepSpeedEngine(objective, train, EngineSettings(zero_stage=stage), device)

    before = Path(resume) if resume else None
    try:
        return run(
            open_dataset(uri), Path(folder), settings=LONG, resume=before, stop_after=stop_after, make_engine=engine
        )[1]
    except StoppedError:
        return []


def whole_checkpoint(folder: Path, step: int) -> str:
    """The checkpoint with the parts of all ranks in it, as storage that all share would have it."""
    whole = folder / f"checkpoint-{step:08d}-001"
    for other in folder.glob(f"rank-*-{step}"):
        shutil.copytree(other, whole, dirs_exist_ok=True)
    return str(whole)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1])
def test_two_one_three_and_two_ranks_have_the_losses_of_two(stage: int, tmp_path: Path) -> None:
    dataset = packed(tmp_path / "data")
    undisturbed = run_ranks(2, tmp_path / "one", part, dataset.uri, str(tmp_path / "whole"), stage, None, None)[0]
    before, found = None, []
    for number, (ranks, stop_after) in enumerate([(2, 50), (1, 100), (3, 150), (2, None)]):
        folder = tmp_path / f"part-{number}"
        found = run_ranks(
            ranks, tmp_path / f"ranks-{number}", part, dataset.uri, str(folder), stage, before, stop_after
        )
        before = whole_checkpoint(folder, stop_after) if stop_after else None
    losses, expected = ([record["loss"] for record in history] for history in (found[0], undisturbed))
    assert len(losses) == len(expected) == 200
    assert losses == pytest.approx(expected, rel=1e-5)
