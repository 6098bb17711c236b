"""Structured data for tests: latent factors, three noisy views of them, labels that need all views, a linear model."""

from collections.abc import Mapping

import numpy as np
import torch

from dynfusion.evaluation.insight.reconstruction import Rivals
from dynfusion.evaluation.protocol.groups import GroupResult
from dynfusion.evaluation.protocol.jobs import Keys, TaskInputs, choice_jobs, group_jobs, task_inputs
from dynfusion.evaluation.protocol.plan import Part, parts
from dynfusion.evaluation.protocol.reader import choose
from dynfusion.evaluation.protocol.run import run_group
from dynfusion.evaluation.representations.features import FUSED, Contestant
from dynfusion.evaluation.representations.fused import embed_task
from dynfusion.evaluation.representations.imputers import (
    Imputers,
    Pool,
    collect,
    fit_ridge,
    hold_rows,
    ridge_plan,
    standardise_present,
)
from dynfusion.evaluation.representations.knn_imputer import choose_neighbours, collect_neighbours
from dynfusion.evaluation.representations.table import rivals as contestants
from dynfusion.evaluation.representations.units import standardised
from dynfusion.evaluation.settings import (
    EvaluationSettings,
    HidingSettings,
    ImputerSettings,
    ProbeSettings,
    SplitSettings,
)
from dynfusion.evaluation.tasks.task import TaskData
from dynfusion.fusion.model import FusionNetwork, ModelSettings

MODALITIES = ("morgan", "descriptors", "selfies")
DIMS = {"morgan": 24, "descriptors": 10, "selfies": 16}
FACTORS = 6
Arrays = tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]


def draw(rows: int, seed: int, *, absent: float = 0.15) -> Arrays:
    """Factors [rows, 6], values by modality (zero where absent), present [rows, 3]."""
    world, draws = np.random.default_rng(0), np.random.default_rng(seed)
    factors = draws.normal(size=(rows, FACTORS))
    present = draws.random((rows, len(MODALITIES))) >= absent
    values = {}
    for column, name in enumerate(MODALITIES):
        mixing, shift = world.normal(size=(FACTORS, DIMS[name])), 3 * world.normal(size=DIMS[name])
        seen = factors @ mixing + shift + 1.5 * draws.normal(size=(rows, DIMS[name]))
        values[name] = np.where(present[:, [column]], seen, 0).astype(np.float32)
    return factors, values, present


def task(name: str = "alpha", *, rows: int = 240, kind: str = "binary", seed: int = 5, valid: bool = True) -> TaskData:
    """A task of one binary label, two binary labels with gaps, or one of three classes."""
    factors, values, present = draw(rows, seed)
    draws = np.random.default_rng(seed + 1)
    signal = factors[:, 0] + 0.7 * factors[:, 1] + 0.6 * draws.normal(size=rows)
    if kind == "multiclass":
        labels = np.digitize(signal, [-0.6, 0.6]).astype(float)[:, None]
    else:
        labels = (signal > 0).astype(float)[:, None]
    if kind == "multitask":
        labels = np.concatenate([labels, (factors[:, [2]] > 0.3).astype(float)], axis=1)
        labels[draws.random(labels.shape) < 0.2] = np.nan
    parts = ["train"] * 6 + (["valid"] if valid else ["train"]) + ["test"] * 3
    return TaskData(
        name=name,
        ids=np.array([f"{name}{row:04d}" for row in range(rows)]),
        smiles=np.array([""] * rows),
        modalities=MODALITIES,
        values=values,
        present=present,
        labels=labels,
        label_names=tuple(f"label{column}" for column in range(labels.shape[1])),
        kind="multiclass" if kind == "multiclass" else "binary",
        split=np.array([parts[row % 10] for row in range(rows)]),
    )


class LatentModel:
    """A stand-in for the fusion model that is right for these data: least squares on the factors of the world."""

    def __init__(self, rows: int = 1500) -> None:
        _, self.pool_values, self.pool_present = draw(rows, 99)
        self.modalities, self.dims = MODALITIES, dict(DIMS)
        self._statistics = {
            name: (
                self.pool_values[name][self.pool_present[:, column]].mean(axis=0, dtype=np.float64),
                self.pool_values[name][self.pool_present[:, column]].std(axis=0, dtype=np.float64),
            )
            for column, name in enumerate(MODALITIES)
        }
        world = np.random.default_rng(0)
        self._mixing = {}
        for name in MODALITIES:
            self._mixing[name] = world.normal(size=(FACTORS, DIMS[name]))
            world.normal(size=DIMS[name])

    def statistics(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return self._statistics

    def encode(self, embeddings: Mapping[str, np.ndarray], present: Mapping[str, np.ndarray]) -> np.ndarray:
        shown = np.stack([present[name] for name in MODALITIES], axis=1)
        assert shown.any(axis=1).all()
        factors = np.zeros((len(shown), FACTORS))
        for row, seen in enumerate(shown):
            names = [name for name, visible in zip(MODALITIES, seen, strict=True) if visible]
            mixing = np.concatenate([self._mixing[name] for name in names], axis=1)
            centred = np.concatenate([embeddings[name][row] - self._statistics[name][0] for name in names])
            factors[row] = np.linalg.solve(mixing @ mixing.T + 2.25 * np.eye(FACTORS), mixing @ centred)
        return factors.astype(np.float32)

    def reconstruct(
        self, embeddings: Mapping[str, np.ndarray], present: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        factors = self.encode(embeddings, present)
        return {
            name: (factors @ self._mixing[name] + self._statistics[name][0]).astype(np.float32) for name in MODALITIES
        }

    def pool(self) -> Pool:
        values = standardise_present(
            self.pool_values, self.pool_present, modalities=MODALITIES, statistics=self._statistics
        )
        rows = len(self.pool_present)
        return Pool(MODALITIES, values, self.pool_present, hold_rows(rows, 0), np.ones(rows, dtype=bool))


def settings(**changes: object) -> EvaluationSettings:
    """Small enough for tests."""
    probe = ProbeSettings(inverse_penalties=(1e-2, 1e-1), neighbours=(3, 9), rounds=(10,), folds=3)
    hiding = HidingSettings(rates=(0.25, 0.5), draws=2, training_rates=(0.5,))
    split = SplitSettings(kind="given")
    return EvaluationSettings(**{"extent": "quick", "probe": probe, "hiding": hiding, "split": split, **changes})


def network(seed: int) -> FusionNetwork:
    """A small untrained fusion network with the statistics of these data."""
    torch.manual_seed(seed)
    made = FusionNetwork(DIMS, ModelSettings(dim=12, gate_hidden=4, decoder_hidden=4, score_hidden=4, completion=False))
    found = LatentModel().statistics()
    made.set_statistics({name: (mean.tolist(), std.tolist()) for name, (mean, std) in found.items()})
    return made


def imputers(model: LatentModel) -> Imputers:
    """Ridges of the model's pool."""
    pool, how = model.pool(), ImputerSettings()
    return collect(pool, [fit_ridge(pool, *pair, settings=how) for pair in ridge_plan(MODALITIES)], settings=how)


def rivals(model: LatentModel) -> Rivals:
    """Ridges and nearest rows of the model's pool."""
    pool, how = model.pool(), ImputerSettings()
    return Rivals(imputers(model), collect_neighbours(pool, choose_neighbours(pool, settings=how), settings=how))


def inputs(model: LatentModel, one: TaskData, **changes: object) -> TaskInputs:
    """Everything an evaluation of this task reads beside its plan."""
    return task_inputs(standardised(one, model.statistics()), settings(**changes))


def plan(model: LatentModel, one: TaskData, **changes: object) -> list[Part]:
    """Everything that is fitted on this task."""
    how = settings(**changes)
    fused = Contestant(FUSED, (embed_task(FUSED, model.encode, one, corrupted=True),), "latent")
    others = contestants(imputers(model), model.pool(), dim=FACTORS, structures=one.structure is not None)
    return parts(one.modalities, others, [fused], [], settings=how)


def run(plan: list[Part], inputs: TaskInputs, **changes: object) -> list[GroupResult]:
    """Every group of a plan, one after another."""
    how = settings(**changes)
    keys = Keys(inputs, how)
    chosen = {
        job.choice.key: choose(job.member, job.fold.of(inputs.task), probe=job.choice.probe, seed=0, settings=how.probe)
        for job in choice_jobs(inputs, plan, keys)
    }
    return [
        run_group(job.group, inputs.task, job.fold, job.contestant, job.chosen, inputs.counts, how)
        for job in group_jobs(inputs, plan, chosen, keys)
    ]


def history() -> list[dict[str, object]]:
    """Records as training writes them."""
    return [
        {
            "step": step,
            "rows": step * 512,
            "epoch": step // 18,
            "loss": 2.5 / (1 + step / 40) + 0.4,
            "reconstruction": 1.0 / (1 + step / 60) + 0.2,
            "alignment": 3.0 / (1 + step / 15) + 0.05,
            "diversity": 0.08,
            "entropy": 0.01 + 0.002 * (step % 3),
            "sparsity": 0.02 + step / 9000,
            "learning_rate": 1e-3,
            "hidden_rate": min(0.1 + step / 480, 0.6),
            "gradient_norm": 1.0,
            "attention_entropy": 0.8,
            "attention": {name: [0.45, 0.25, 0.3][i] + 0.0004 * step * (1 - i) for i, name in enumerate(MODALITIES)},
            "gate": {name: 0.5 + (0.001 - 0.0008 * i) * step for i, name in enumerate(MODALITIES)},
            "residual": {name: 0.9 / (1 + step / (90 + 50 * i)) for i, name in enumerate(MODALITIES)},
            "step_seconds": 0.1,
        }
        for step in range(20, 401, 20)
    ]
