"""The report as one mapping, from finished groups: everything that is written, drawn or said comes out of it.

Keys: title, settings, versions, model, modalities, dims, tasks, cells, reconstruction, imputers, comparisons, tables,
training. Nothing in it depends on the clock or on where files lie.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dynfusion.evaluation.protocol.plan import EvaluationInputs, GroupResult, cell_records
from dynfusion.evaluation.report.tables import all_curves, build_comparisons, build_tables
from dynfusion.evaluation.representations.features import FUSED
from dynfusion.evaluation.representations.imputers import Imputers
from dynfusion.evaluation.tasks.task import SPLITS, TaskData

TIMINGS = frozenset({"seconds", "step_seconds", "rows_per_second", "wait_share", "memory_bytes"})


@dataclass(frozen=True)
class Provenance:
    """Where the numbers come from."""

    models: tuple[str, ...]
    training: Mapping[str, Any]
    """What the model folder's training.json says."""
    versions: Mapping[str, str]


def build_report(
    results: Sequence[GroupResult],
    reconstruction: Sequence[Mapping[str, object]],
    inputs: EvaluationInputs,
    *,
    provenance: Provenance,
) -> dict[str, Any]:
    """The whole report of one evaluation as plain values; what is undefined is a NaN here and null in the file."""
    settings = inputs.settings
    modalities = inputs.imputers.modalities
    found = all_curves(results, modalities=modalities, models=provenance.models)
    cells = [
        record
        for result in results
        for record in cell_records(result, inputs.tasks[result.group.task], settings=settings.statistics)
    ]
    return {
        "title": "Evaluation under missing modalities",
        "settings": {"evaluation": settings.model_dump(mode="json"), "run": provenance.training.get("settings", {})},
        "versions": dict(provenance.versions),
        "model": ", ".join(provenance.models),
        "modalities": list(modalities),
        "dims": _dims(inputs, provenance.models),
        "tasks": [_task_record(task) for task in inputs.tasks.values()],
        "cells": cells,
        "reconstruction": [dict(record) for record in reconstruction],
        "imputers": _imputer_records(inputs.imputers),
        "comparisons": build_comparisons(found, settings=settings.statistics),
        "tables": build_tables(found, settings=settings.statistics),
        "training": {
            "data": {"fingerprint": provenance.training.get("data", {}).get("fingerprint")},
            "versions": provenance.training.get("versions", {}),
            "history": [_without_timings(record) for record in provenance.training.get("history", [])],
        },
    }


def _dims(inputs: EvaluationInputs, models: tuple[str, ...]) -> dict[str, int]:
    widths = dict(inputs.imputers.dims)
    total = sum(widths.values())
    fused = {
        FUSED if len(models) == 1 else f"{FUSED} ({model})": encoded.complete.shape[1]
        for (_, model), encoded in inputs.encoded.items()
    }
    return {**widths, "concat-mean": total, "concat-ridge": total, **fused}


def _task_record(task: TaskData) -> dict[str, Any]:
    test = task.rows("test")
    return {
        "name": task.name,
        "kind": task.kind,
        "split": task.split_name,
        "labels": list(task.label_names),
        "classes": list(task.class_names),
        "molecules": {part: len(task.rows(part)) for part in SPLITS},
        "present": {name: float(task.present[:, column].mean()) for column, name in enumerate(task.modalities)},
        "nothing_present_test": int((~task.present[test].any(axis=1)).sum()),
    }


def _imputer_records(imputers: Imputers) -> list[dict[str, Any]]:
    return [
        {
            "visible": list(ridge.visible),
            "target": ridge.target,
            "alpha": ridge.alpha,
            "rows": ridge.rows,
            "held_rows": ridge.held_rows,
            "held_mse": list(ridge.held_mse),
        }
        for ridge in imputers.ridges.values()
    ]


def _without_timings(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in TIMINGS}
