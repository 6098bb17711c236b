"""The coefficients of `training/planning/passes.py`, fitted to recordings of real steps.

    python -m tests.training.fit_passes [steps]

For both presets and precisions, `steps` training steps of random widths, rows, contrast groups and shares of present
cells are recorded; coefficients are fitted by least squares of the relative error, none of them negative. Prints the
table's lines and the largest relative error.
"""

import random
import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls

from dynfusion.fusion.losses import LossSettings
from dynfusion.fusion.masking import MaskingSettings, hidden_rate, hide, subset_share
from dynfusion.fusion.model import FusionNetwork, ModelSettings
from dynfusion.fusion.objective import FusionObjective
from dynfusion.training.config import EngineSettings, TrainSettings
from dynfusion.training.engine import TorchEngine
from dynfusion.training.planning.passes import sizes
from dynfusion.training.planning.work import Shape
from tests.bench.bench_step import PROGRESS, make_batch, train_step
from tests.training.recording import Recorded, StepRecorder


@dataclass(frozen=True)
class Case:
    """A step to record."""

    dims: tuple[int, ...]
    model: ModelSettings
    loss: LossSettings
    precision: Any
    rows: int
    group_rows: int
    present: float = 1.0
    """Share of cells."""


def main(steps: int = 24) -> None:
    """Prints the fitted lines of all three tables."""
    for preset in ("robust", "paper"):
        for precision in ("fp32", "bf16"):
            draw = random.Random(0)
            found = [record(random_case(draw, preset, precision)) for _ in range(steps)]
            shapes = [shape for shape, _ in found]
            for name, read in (("PASSES", _passes), ("HELD", _held)):
                coefficients, error = fit(shapes, [read(recorded) for _, recorded in found])
                listed = ", ".join(repr(float(f"{one:.4g}")) for one in coefficients)
                print(f'{name} ("{preset}", "{precision}"): Coefficients({listed}),  # within {error:.1%}', flush=True)
            numbers = np.array([[1, n, n * (n - 1) / 2] for n in (shape.modalities for shape in shapes)])
            fitted = np.linalg.lstsq(numbers, np.array([recorded.calls for _, recorded in found]), rcond=None)[0]
            print(f'CALLS ("{preset}", "{precision}"): Calls({", ".join(f"{one:.0f}" for one in fitted)}),', flush=True)


def fit(shapes: list[Shape], amounts: list[int]) -> tuple[np.ndarray, float]:
    """(coefficients, the largest relative error)."""
    known, wanted = np.array([sizes(shape) for shape in shapes]), np.array(amounts, float)
    coefficients, _ = nnls(known / wanted[:, None], np.ones(len(wanted)))
    return coefficients, float(np.abs(known @ coefficients / wanted - 1).max())


def random_case(draw: random.Random, preset: Any, precision: str) -> Case:
    """Few or many rows for the number of parameters, so that what depends on either is told apart."""
    model = ModelSettings(
        dim=draw.choice([32, 64, 96, 160]),
        gate_hidden=draw.choice([16, 32, 64]),
        decoder_hidden=draw.choice([32, 64, 128]),
        score_hidden=draw.choice([8, 16, 32]),
    )
    dims = tuple(draw.choice([48, 96, 128, 200]) for _ in range(draw.choice([2, 3, 3, 4])))
    group_rows = draw.choice([8, 16, 32])
    rows = group_rows * draw.choice([8, 32, 64])
    return Case(dims, model, LossSettings(preset=preset), precision, rows, group_rows, draw.uniform(0.5, 1.0))


def record(case: Case) -> tuple[Shape, Recorded]:
    """The shape of a case as the plan has it, with the share of rows that are really decoded, and its second step."""
    torch.manual_seed(0)
    dims = {f"m{number}": width for number, width in enumerate(case.dims)}
    objective = FusionObjective(FusionNetwork(dims, case.model), case.loss)
    settings = EngineSettings(kind="torch", precision=case.precision)
    engine = TorchEngine(objective, TrainSettings(), settings, torch.device("cpu"))
    present = torch.rand(case.rows, len(dims)) < case.present
    present[~present.any(dim=1), 0] = True
    batch = replace(make_batch(case.rows, dims), present=present, group_rows=case.group_rows)
    train_step(objective, engine, batch)
    with StepRecorder() as recorder:
        train_step(objective, engine, batch)
    looks_at_visible = case.loss.preset == "robust" and case.loss.visible_weight > 0
    wanted = present if looks_at_visible else hidden_cells(present, batch.row_ids)
    decoded = tuple((wanted.sum(dim=0) / case.rows).tolist())
    shape = Shape(case.dims, case.model, case.loss, case.precision, case.rows, case.group_rows, decoded)
    return shape, recorder.found


def hidden_cells(present: torch.Tensor, row_ids: torch.Tensor) -> torch.Tensor:
    """What `train_step` hides."""
    masking = MaskingSettings()
    rate, subsets = hidden_rate(masking, PROGRESS), subset_share(masking, PROGRESS)
    return hide(present, row_ids, seed=0, epoch=0, rate=rate, subsets=subsets)


def _passes(recorded: Recorded) -> int:
    return recorded.pass_bytes


def _held(recorded: Recorded) -> int:
    return recorded.peak_bytes


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
