"""The report as one mapping, from finished tasks: everything that is written, drawn or said comes out of it.

    TaskOutcome (results of every group) --curves--> tables, comparisons, robustness, modality_value
                                         --points--> hiding, training_rates
                                         --as is---> tasks, reconstruction, alignment, collapse, choices

Nothing in it depends on the clock or on where files lie; it is made of plain values, undefined numbers are NaN here and
null in the file.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dynfusion.evaluation.insight.reconstruction import Rivals
from dynfusion.evaluation.protocol.outcome import TaskOutcome
from dynfusion.evaluation.report.calibration import calibration_records
from dynfusion.evaluation.report.comparisons import build_comparisons, build_subset_comparisons
from dynfusion.evaluation.report.curves import Record, build_curves, split_of
from dynfusion.evaluation.report.hiding import (
    hiding_comparisons,
    hiding_points,
    hiding_records,
    training_comparisons,
    training_points,
    training_records,
)
from dynfusion.evaluation.report.robustness import modality_value_records, robustness_records
from dynfusion.evaluation.report.seeds import over_seeds
from dynfusion.evaluation.report.tables import build_tables, subset_records
from dynfusion.evaluation.representations.features import CONCAT_MEAN, CONCAT_RIDGE, FINGERPRINT
from dynfusion.evaluation.settings import EvaluationSettings

TITLE = "Evaluation under missing modalities"
TIMINGS = frozenset({"seconds", "step_seconds", "rows_per_second", "wait_share", "memory_bytes"})
FINGERPRINT_BITS = 2048
PARTS_OF_A_RUN = ("model", "loss", "masking", "train", "engine")
"""Of its settings, those that say how it was trained; the others say where and on what."""


@dataclass(frozen=True)
class ModelRecord:
    """One fusion model of the report."""

    name: str
    dim: int
    ablation: bool
    """Whether it was trained without a part of the method, to see what that part is for."""
    training: Mapping[str, Any]
    """What the model folder's training.json says, of the first run; empty where there is none."""
    runs: int = 1
    """How many training runs that differ by their seed it stands for."""


@dataclass(frozen=True)
class Provenance:
    """Where the numbers come from."""

    models: tuple[ModelRecord, ...]
    versions: Mapping[str, str]
    pool_smiles: float = 1.0
    """Share of the pool's training rows whose SMILES are known, 0..1: the others are in no leak count."""


def build_report(
    outcomes: Sequence[TaskOutcome], rivals: Rivals, settings: EvaluationSettings, *, provenance: Provenance
) -> dict[str, Any]:
    """The whole report of one evaluation."""
    modalities, how = rivals.ridge.modalities, settings.statistics
    every_run = outcomes
    found = [result for outcome in every_run for result in outcome.results]
    outcomes = [replace(one, results=over_seeds(one.results, seed=how.seed)) for one in every_run]
    curves = build_curves(outcomes, modalities)
    hidden, trained = hiding_points(outcomes), training_points(outcomes)
    ablated = {model.name for model in provenance.models if model.ablation}
    told = provenance.models[0].training.get("settings", {}) if provenance.models else {}
    run = {part: told[part] for part in PARTS_OF_A_RUN if part in told}
    return {
        "title": TITLE,
        "settings": {"evaluation": settings.model_dump(mode="json"), "run": run},
        "versions": dict(provenance.versions),
        "models": [_model_record(model) for model in provenance.models],
        "modalities": list(modalities),
        "dims": _dims(outcomes, rivals.ridge.dims, provenance.models),
        "pool_smiles": provenance.pool_smiles,
        "tasks": [_task_record(outcome) for outcome in outcomes],
        "tables": build_tables(curves, ablated=ablated, settings=how),
        "comparisons": build_comparisons(curves, settings=how),
        "subset_comparisons": build_subset_comparisons(curves, settings=how),
        "robustness": robustness_records(curves, settings=how),
        "modality_value": modality_value_records(curves, settings=how),
        "calibration": calibration_records(every_run),
        "subsets": subset_records(outcomes, settings=how),
        "hiding": hiding_records(hidden, settings=how),
        "hiding_comparisons": hiding_comparisons(hidden, settings=how),
        "training_rates": training_records(trained, settings=how),
        "training_comparisons": training_comparisons(trained, settings=how),
        "insight_of": provenance.models[0].name if provenance.models else None,
        "reconstruction": [dict(record) for outcome in outcomes for record in outcome.reconstruction],
        "alignment": [dict(record) for outcome in outcomes for record in outcome.alignment],
        "collapse": [dict(record) for outcome in outcomes for record in outcome.collapse],
        "imputers": list(_imputer_records(rivals)),
        "choices": [record for outcome in outcomes for record in _choices(outcome)],
        "unconverged": [sum(r.unconverged for r in found), len(found)],
    }


def _model_record(model: ModelRecord) -> Record:
    training = model.training
    return {
        "name": model.name,
        "dim": model.dim,
        "ablation": model.ablation,
        "runs": model.runs,
        "training": {
            "data": {"fingerprint": training.get("data", {}).get("fingerprint")},
            "versions": training.get("versions", {}),
            "history": [
                {name: value for name, value in record.items() if name not in TIMINGS}
                for record in training.get("history", [])
            ],
        },
    }


def _task_record(outcome: TaskOutcome) -> Record:
    return {
        "name": outcome.name,
        "kind": outcome.kind,
        "labels": list(outcome.label_names),
        "classes": list(outcome.class_names),
        "split": outcome.given_split,
        "folds": outcome.folds,
        "repeats": outcome.repeats,
        "molecules": dict(outcome.molecules),
        "in_no_part": outcome.in_no_part,
        "present": dict(outcome.present),
        "nothing_present_test": outcome.nothing_present_test,
        "base_rate": outcome.base_rate,
        "undefined_draws": outcome.undefined_draws,
        "labels_known": dict(outcome.labels_known),
        "leaks": [dict(record) for record in outcome.leaks],
    }


def _dims(outcomes: Sequence[TaskOutcome], widths: Mapping[str, int], models: Sequence[ModelRecord]) -> dict[str, int]:
    """Width of the features of every representation that has some of its own."""
    total, by_model = sum(widths.values()), {model.name: model.dim for model in models}
    named = {result.group.representation: result.group.model for one in outcomes for result in one.results}
    known = {**widths, CONCAT_MEAN: total, CONCAT_RIDGE: total, FINGERPRINT: FINGERPRINT_BITS}
    dims = dict(widths)
    for name, model in named.items():
        kind, _, number = name.rpartition("-")
        if model is not None and model in by_model:
            dims[name] = by_model[model]
        elif name in known:
            dims[name] = known[name]
        elif kind in ("pca", "random") and number.isdigit():
            dims[name] = min(int(number), total) if kind == "pca" else int(number)
        elif set(name.split("+")) <= set(widths):
            dims[name] = sum(widths[part] for part in name.split("+"))
    return dims


def _imputer_records(rivals: Rivals) -> Iterator[Record]:
    """What was chosen for every visible subset and absent modality, on how many held pool rows."""
    for ridge in rivals.ridge.ridges.values():
        chosen = {"alpha": ridge.alpha, "rows": ridge.rows, "held_rows": ridge.held_rows}
        place = {"imputer": "ridge", "visible": list(ridge.visible), "target": ridge.target}
        yield {**place, **chosen, "held_mse": list(ridge.held_mse)}
    for near in rivals.neighbours.choices.values():
        chosen = {"k": near.k, "rows": near.rows, "held_rows": near.held_rows}
        place = {"imputer": "knn", "visible": list(near.visible), "target": near.target}
        yield {**place, **chosen, "held_mse": list(near.held_mse)}


def _choices(outcome: TaskOutcome) -> list[Record]:
    """The hyper-parameters of every probe on every member of a representation, once for every split."""
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for result in outcome.results:
        for member, chosen in result.chosen.items():
            found.setdefault((split_of(result, outcome), member, result.group.probe), dict(chosen))
    return [
        {"task": outcome.name, "split": split, "representation": member, "probe": probe, "chosen": chosen}
        for (split, member, probe), chosen in found.items()
    ]
