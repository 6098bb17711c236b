"""What a probe scores on one part of a labelled set, with everything present and with each modality absent.

train rows, nothing hidden --> head --+--> valid rows: every check of every run   (validation.validate)
                                      +--> test rows: once, at the end of a sweep (validation.score_test)
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from dynfusion.evaluation.hiding.masks import visible_mask
from dynfusion.evaluation.hiding.patterns import subsets
from dynfusion.evaluation.probes.labelled import probe_task
from dynfusion.evaluation.probes.linear import LinearProbe
from dynfusion.evaluation.probes.prior import prior
from dynfusion.evaluation.representations.fused import Model, embed_rows, matched
from dynfusion.evaluation.scores.resampling import metric_resamples, once
from dynfusion.evaluation.settings import ProbeSettings
from dynfusion.evaluation.tasks.task import TaskData

HEAD = {"inverse_penalty": 1e-2}
"""One penalty for every checkpoint, so that two of them differ by their embeddings alone."""


def probe_areas(model: Model, task: TaskData, part: Literal["valid", "test"]) -> list[float]:
    """ROC-AUC, 0..1, on the rows of `part`: all present first, then each modality absent; NaN where there is one class.

    The head is fitted on the train rows with nothing hidden. Rows of the remaining part are dropped before anything.
    """
    task = matched(_only(task, ("train", part)), model)
    train, scored = task.rows("train"), task.rows(part)
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
        visible = visible_mask(shown, task.present[scored], modalities=task.modalities)
        usable = visible.any(axis=1)
        scores = np.tile(fallback, (len(scored), 1))
        if usable.any():
            scores[usable] = head.scores(embed_rows(model.encode, task, scored[usable], visible=visible[usable]))
        areas.append(float(metric_resamples("roc_auc", scores, task.labels[scored], once(len(scored)))[0]))
    return areas


def mean_of_defined(values: Sequence[float]) -> float:
    """Mean of what is defined, NaN when nothing is."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def _only(task: TaskData, parts: tuple[str, ...]) -> TaskData:
    """The task as if its other molecules did not exist."""
    rows = np.flatnonzero(np.isin(task.split, parts))
    return replace(
        task,
        ids=task.ids[rows],
        smiles=task.smiles[rows],
        values={name: values[rows] for name, values in task.values.items()},
        present=task.present[rows],
        labels=task.labels[rows],
        split=task.split[rows],
    )
