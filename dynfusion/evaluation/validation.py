"""What a checkpoint is worth while training goes on: no test molecule is ever looked at.

    held-out rows of the pack --every visible subset--> decoders -----------------> reconstruction
                                                   \\--> z beside z of everything --> retrieval
    labelled sets --train rows fit a head, valid rows score it----------------------> probe

One thread, fixed rows, a fixed penalty: the same checkpoint gives the same floats wherever it is scored.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Int64
from pydantic import Field, model_validator

from dynfusion.evaluation.hiding.masks import visible_mask
from dynfusion.evaluation.hiding.patterns import subsets
from dynfusion.evaluation.insight.reconstruction import skill_over_mean
from dynfusion.evaluation.insight.retrieval import ranks
from dynfusion.evaluation.probes.linear import LinearProbe
from dynfusion.evaluation.probes.prior import prior
from dynfusion.evaluation.probes.settings import ProbeSettings
from dynfusion.evaluation.protocol.reader import probe_task
from dynfusion.evaluation.representations.fused import Model, embed_rows, matched, visible_inputs
from dynfusion.evaluation.scores.resampling import metric_resamples, once
from dynfusion.evaluation.tasks.task import TaskData
from dynfusion.evaluation.threads import one_thread
from dynfusion.settings import Settings
from dynfusion.store.dataset import Dataset
from dynfusion.store.manifest import Manifest

METRICS = {
    "score": "mean of the others, as far as there are any",
    "reconstruction": "1 - MSE / MSE of the pool mean, over (visible subset, absent modality): 1 perfect, 0 the mean",
    "retrieval": "share of molecules whose z from a subset is nearest to their own z from everything, over subsets",
    "probe": "ROC-AUC on valid rows of a head fitted on train rows, all present and each modality absent, over tasks",
}
HEAD = {"inverse_penalty": 1e-2}
"""One penalty for every checkpoint, so that two of them differ by their embeddings alone."""
LEAST_TRAINING_ROWS = 5


class ValidationSettings(Settings):
    """What is looked at while training goes on, and what follows from it."""

    every_checkpoints: int | None = Field(
        None,
        ge=0,
        description="checkpoints between two checks, 0 never; by default 1 where the data set has held-out rows or "
        "tasks are named, else never",
    )
    rows: int = Field(2048, ge=2, description="most held-out molecules that are looked at; the same ones every time")
    tasks: dict[str, str] = Field({}, description="packed labelled sets for a probe, name = address; test rows unread")
    timeout_seconds: float = Field(
        1800.0, gt=0, description="how long one check may take, and training waits for it, before it is given up"
    )
    patience: int = Field(0, ge=0, description="checks without a better score that end the run; 0 never does")
    min_improvement: float = Field(0.0, ge=0, description="a better score is higher than the best by more than this")
    keep_best_by: Literal["none", "loss", "score", "reconstruction", "retrieval", "probe"] = Field(
        "none", description="which checkpoints stay beside the last one: the latest, or the best by this number"
    )
    export: Literal["last", "best"] = Field("last", description="which of the kept checkpoints becomes the model")

    @model_validator(mode="after")
    def _parts_fit(self) -> "ValidationSettings":
        if self.export == "best" and self.keep_best_by == "none":
            raise ValueError("export best needs keep_best_by, found none, allowed is loss or a validation metric")
        if self.every_checkpoints == 0 and (self.patience or self.keep_best_by in METRICS):
            raise ValueError("every_checkpoints 0 gives no score for patience or keep_best_by, leave one of them out")
        return self

    @property
    def asked_for(self) -> bool:
        """Whether something depends on a check."""
        return bool(self.every_checkpoints or self.patience or self.tasks or self.keep_best_by in METRICS)


def checkpoints_between_checks(settings: ValidationSettings, manifest: Manifest) -> int:
    """`every_checkpoints`, and what its default means for this data set; 0 for never.

    Raises ValueError when validation is asked for and there is nothing to validate on.
    """
    if settings.every_checkpoints == 0:
        return 0
    if settings.keep_best_by == "probe" and not settings.tasks:
        raise ValueError("validation.keep_best_by: found probe, which needs validation.tasks, name = address of a pack")
    held_out = manifest.holdout_rows > 0 and len(manifest.modalities) > 1
    needed = settings.keep_best_by in ("reconstruction", "retrieval") or (settings.asked_for and not settings.tasks)
    if needed and not held_out:
        raise ValueError(
            f"validation: found {manifest.holdout_rows} held-out rows of {len(manifest.modalities)} modalities, needed "
            "are some of two or more: pack with `dynfusion pack --holdout 0.01`, or name validation.tasks, or set "
            "validation.every_checkpoints=0"
        )
    return (settings.every_checkpoints or 1) if held_out or settings.tasks else 0


def require_classes(task: TaskData) -> TaskData:
    """The task itself. Raises ValueError when its labels are neither binary nor classes."""
    if task.kind == "regression":
        raise ValueError(f"task {task.name}: its labels are real numbers, allowed are 0 and 1 or classes")
    return task


def check_task(task: TaskData, manifest: Manifest) -> None:
    """Whether a labelled set can be validated on beside this training data.

    Raises ValueError when its modalities, labels or split do not allow it.
    """
    require_classes(task)
    dims = {name: task.values[name].shape[1] for name in task.modalities}
    pool = dict(zip(manifest.names, manifest.dims, strict=True))
    if dims != pool:
        raise ValueError(
            f"validation.tasks.{task.name}: its modalities are {dims}, allowed are the training data's: {pool}"
        )
    for part, least in (("train", LEAST_TRAINING_ROWS), ("valid", 1)):
        labelled = task.present.any(axis=1) & ~np.isnan(task.labels).all(axis=1) & (task.split == part)
        if labelled.sum() < least:
            raise ValueError(
                f"validation.tasks.{task.name}: found {labelled.sum()} labelled {part} rows, needed are {least} or "
                "more; `dynfusion pack --split-column` names the column that says train, valid or test"
            )


def validate(
    model: Model, dataset: Dataset, tasks: Mapping[str, TaskData], settings: ValidationSettings
) -> dict[str, float]:
    """`score` and the parts of METRICS that there are rows for. Test rows of the tasks are dropped before anything.

    Raises ValueError when no part has rows, or the model does not fit the data.
    """
    with one_thread():
        parts = _held_out_scores(model, _held_out(dataset, settings.rows))
        parts["probe"] = _mean([_probe(model, _without_test(task)) for task in tasks.values()])
    found = {name: value for name, value in parts.items() if not math.isnan(value)}
    if not found:
        raise ValueError(
            f"validation: none of the {dataset.manifest.holdout_rows} held-out rows of {dataset.uri} has two "
            "modalities present, and no task is named"
        )
    return {"score": _mean(list(found.values())), **found}


def validation_line(step: int, metrics: Mapping[str, float]) -> str:
    """One check in one line."""
    parts = " ".join(f"{name} {value:.4f}" for name, value in metrics.items() if name != "score")
    return f"step {step}  validation score {metrics['score']:.4f} ({parts})"


def chosen_rows(total: int, most: int, *, block_rows: int) -> Int64[np.ndarray, " rows"]:
    """At most `most` of `total` rows: whole blocks (the unit of reading), evenly spaced; the pack has shuffled them."""
    if total <= most:
        return np.arange(total, dtype=np.int64)
    run = min(block_rows, most)
    first = np.linspace(0, total - run, most // run).astype(np.int64) // run * run
    return (first[:, None] + np.arange(run)).reshape(-1)


def _held_out(dataset: Dataset, most: int) -> TaskData:
    """The held-out rows as a task without labels."""
    manifest = dataset.manifest
    rows = dataset.read("holdout", chosen_rows(manifest.holdout_rows, most, block_rows=manifest.block_rows))
    count = len(rows.row_ids)
    return TaskData(
        name="held-out rows",
        ids=rows.row_ids.astype(str),
        smiles=np.full(count, ""),
        modalities=tuple(manifest.names),
        values={name: values.astype(np.float32) for name, values in rows.values.items()},
        present=rows.present,
        labels=np.zeros((count, 0)),
        label_names=(),
        kind="binary",
        split=np.full(count, "valid"),
    )


def _held_out_scores(model: Model, task: TaskData) -> dict[str, float]:
    """`reconstruction` and `retrieval`; NaN where no row counts."""
    if len(task.ids) == 0:
        return {"reconstruction": math.nan, "retrieval": math.nan}
    task, statistics = matched(task, model), model.statistics()
    everything = embed_rows(model.encode, task, np.arange(len(task.ids)), visible=task.present)
    skills, recalls = [], []
    for shown in subsets(task.modalities)[1:]:
        visible = visible_mask(shown, task.present, modalities=task.modalities)
        rows = np.flatnonzero(visible.any(axis=1) & (task.present & ~visible).any(axis=1))
        if len(rows) == 0:
            continue
        rebuilt = model.reconstruct(*visible_inputs(task, rows, visible[rows]))
        for target in (name for name in task.modalities if name not in shown):
            known = task.present[rows, task.modalities.index(target)]
            truth, guess = task.values[target][rows[known]], rebuilt[target][known]
            skills.append(skill_over_mean(truth, guess, statistics[target]))
        fused = embed_rows(model.encode, task, rows, visible=visible[rows])
        recalls.append(float(ranks(fused, everything, own=rows).hits(1).mean()))
    return {"reconstruction": _mean(skills), "retrieval": _mean(recalls)}


def _probe(model: Model, task: TaskData) -> float:
    """Mean ROC-AUC over the patterns, 0..1; NaN where the valid rows have one class only."""
    task = matched(task, model)
    train, valid = task.rows("train"), task.rows("valid")
    target = probe_task(task)
    fit = train[task.present[train].any(axis=1) & ~np.isnan(task.labels[train]).all(axis=1)]
    embedding = embed_rows(model.encode, task, fit, visible=task.present[fit])
    labelled = (embedding, task.labels[fit])
    head = LinearProbe().fit(labelled, target=target, chosen=HEAD, seed=0, settings=ProbeSettings())
    fallback = prior(task.labels[train], target)
    areas = []
    for shown in subsets(task.modalities):
        if len(shown) < len(task.modalities) - 1:
            continue
        visible = visible_mask(shown, task.present[valid], modalities=task.modalities)
        usable = visible.any(axis=1)
        scores = np.tile(fallback, (len(valid), 1))
        if usable.any():
            scores[usable] = head.scores(embed_rows(model.encode, task, valid[usable], visible=visible[usable]))
        areas.append(float(metric_resamples("roc_auc", scores, task.labels[valid], once(len(valid)))[0]))
    return _mean(areas)


def _without_test(task: TaskData) -> TaskData:
    """The task as if its test molecules did not exist."""
    rows = np.flatnonzero(np.isin(task.split, ("train", "valid")))
    return replace(
        task,
        ids=task.ids[rows],
        smiles=task.smiles[rows],
        values={name: values[rows] for name, values in task.values.items()},
        present=task.present[rows],
        labels=task.labels[rows],
        split=task.split[rows],
    )


def _mean(values: list[float]) -> float:
    """Mean of what is defined, NaN when nothing is."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan
