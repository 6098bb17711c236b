"""What a checkpoint is worth while training goes on: no test molecule is looked at, but by `score_test`, once.

    held-out rows of the pack --every visible subset--> decoders -----------------> reconstruction, over_ridge
                                                   \\--> z beside z of everything --> retrieval
    labelled sets --train rows fit a head, valid rows score it----------------------> probe, probe_all, ...

One thread, fixed rows, a fixed penalty: the same checkpoint gives the same floats wherever it is scored.
"""

import math
from collections.abc import Mapping

import numpy as np

from dynfusion.evaluation.held_out import held_out, views
from dynfusion.evaluation.insight.reconstruction import skill_over_mean
from dynfusion.evaluation.insight.retrieval import ranks
from dynfusion.evaluation.probe_areas import mean_of_defined, probe_areas
from dynfusion.evaluation.reference import Reference, pack_statistics, squared_error
from dynfusion.evaluation.representations.fused import Model, embed_rows, matched, visible_inputs
from dynfusion.evaluation.representations.imputers import Statistics, standardise
from dynfusion.evaluation.tasks.task import TaskData
from dynfusion.evaluation.threads import one_thread
from dynfusion.evaluation.validation_settings import ValidationSettings
from dynfusion.store.dataset import Dataset
from dynfusion.store.manifest import Manifest

IN_SCORE = ("reconstruction", "retrieval", "probe")
"""Not over_ridge, which is the reconstruction once more: with a reference or without, `score` is the same number."""
LEAST_TRAINING_ROWS = 5


def checkpoints_between_checks(settings: ValidationSettings, manifest: Manifest) -> int:
    """`every_checkpoints`, and what its default means for this data set; 0 for never.

    Raises ValueError when validation is asked for and there is nothing to validate on.
    """
    if settings.every_checkpoints == 0:
        return 0
    best = settings.keep_best_by
    if best.startswith("probe") and not settings.tasks:
        raise ValueError(
            f"validation.keep_best_by: found {best}, which needs validation.tasks, name = address of a pack"
        )
    if best == "over_ridge" and settings.reference is None:
        raise ValueError("validation.keep_best_by: found over_ridge, which needs validation.reference")
    some = manifest.holdout_rows > 0 and len(manifest.modalities) > 1
    needed = (
        best in ("reconstruction", "retrieval") or settings.reference or (settings.asked_for and not settings.tasks)
    )
    if needed and not some:
        raise ValueError(
            f"validation: found {manifest.holdout_rows} held-out rows of {len(manifest.modalities)} modalities, needed "
            "are some of two or more: pack with `dynfusion pack --holdout 0.01`, or name validation.tasks, or set "
            "validation.every_checkpoints=0"
        )
    return (settings.every_checkpoints or 1) if some or settings.tasks else 0


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
        if not any(len(np.unique(column[~np.isnan(column)])) > 1 for column in task.labels[labelled].T):
            raise ValueError(
                f"validation.tasks.{task.name}: found one class among its {labelled.sum()} labelled {part} rows, "
                "needed are two in at least one label column"
            )


def validate(
    model: Model,
    dataset: Dataset,
    tasks: Mapping[str, TaskData],
    settings: ValidationSettings,
    reference: Reference | None = None,
) -> dict[str, float]:
    """`score` and the parts of METRICS that there are rows for. Test rows of the tasks are dropped before anything.

    `reference` is that of `settings.reference`, of this data set and as many rows; without one there is no over_ridge.

    Raises ValueError when no part has rows, or the model does not fit the data.
    """
    with one_thread():
        parts = _held_out_scores(model, held_out(dataset, settings.rows), pack_statistics(dataset.manifest), reference)
        areas = [probe_areas(model, task, "valid") for task in tasks.values()]
    parts["probe"] = mean_of_defined([mean_of_defined(one) for one in areas])
    parts["probe_all"] = mean_of_defined([one[0] for one in areas])
    parts["probe_one_absent"] = mean_of_defined([mean_of_defined(one[1:]) for one in areas])
    found = {name: value for name, value in parts.items() if not math.isnan(value)}
    if not found:
        raise ValueError(
            f"validation: none of the {dataset.manifest.holdout_rows} held-out rows of {dataset.uri} has two "
            "modalities present, and no task is named"
        )
    return {"score": mean_of_defined([found[name] for name in IN_SCORE if name in found]), **found}


def score_test(model: Model, tasks: Mapping[str, TaskData]) -> dict[str, float]:
    """ROC-AUC on TEST rows by task, over the patterns of the probe; a task whose test rows have one class is left out.

    The head is validation's: fitted on train rows with nothing hidden, one fixed penalty; valid rows are never read.

    Only the end of a sweep may call it, once, for the winner and the default: whoever chooses by these numbers, or
    looks at them twice, has no test split any more.
    """
    with one_thread():
        found = {name: mean_of_defined(probe_areas(model, task, "test")) for name, task in tasks.items()}
    return {name: value for name, value in found.items() if not math.isnan(value)}


def validation_line(step: int, metrics: Mapping[str, float]) -> str:
    """One check in one line."""
    parts = " ".join(f"{name} {value:.4f}" for name, value in metrics.items() if name != "score")
    return f"step {step}  validation score {metrics['score']:.4f} ({parts})"


def _held_out_scores(model: Model, task: TaskData, units: Statistics, reference: Reference | None) -> dict[str, float]:
    """`reconstruction`, `retrieval` and `over_ridge`; NaN where no row counts. `units` are those of the reference."""
    if len(task.ids) == 0:
        return {"reconstruction": math.nan, "retrieval": math.nan}
    task, statistics = matched(task, model), model.statistics()
    everything = embed_rows(model.encode, task, np.arange(len(task.ids)), visible=task.present)
    ridge = reference.squared_errors() if reference else {}
    skills, recalls, over = [], [], []
    for view in views(task):
        rebuilt = model.reconstruct(*visible_inputs(task, view.rows, view.visible))
        for target, known in view.hidden(task):
            truth, guess = task.values[target][view.rows[known]], rebuilt[target][known]
            skills.append(skill_over_mean(truth, guess, statistics[target]))
            rival = ridge.get((frozenset(view.shown), target), 0.0)
            if rival > 0:
                scaled, guessed = (standardise(values, units[target]) for values in (truth, guess))
                over.append(1 - squared_error(scaled, guessed) / rival)
        fused = embed_rows(model.encode, task, view.rows, visible=view.visible)
        recalls.append(float(ranks(fused, everything, own=view.rows).hits(1).mean()))
    means = {"reconstruction": skills, "retrieval": recalls, "over_ridge": over}
    return {name: mean_of_defined(values) for name, values in means.items()}
