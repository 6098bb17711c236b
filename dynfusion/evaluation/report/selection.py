"""Finds records of a report, and knows what its names stand for: which are fusion models, singles, rivals."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dynfusion.evaluation.representations.features import (
    CONCAT_MEAN,
    CONCAT_RIDGE,
    FINGERPRINT,
    FUSED,
    LATE_FUSION,
    PROJECTION_MEAN,
)

Report = Mapping[str, Any]
Record = Mapping[str, Any]
ALL_PRESENT, ANY_ABSENT = "all present", "any absent"
LINEAR = "linear"
ORDER = ("roc_auc", "r2")
"""Primary metrics, the one of the headline first."""


def main_models(report: Report) -> list[str]:
    """Names of the models that are reported in full."""
    return [model["name"] for model in report["models"] if not model["ablation"]]


def fused_lines(report: Report) -> list[str]:
    """Lines of the fusion models, those of ablations not included."""
    names = main_models(report)
    return [FUSED] if len(names) == 1 else [f"{FUSED} ({name})" for name in names]


def looked_into(report: Report) -> str:
    """The model whose embeddings and reconstructions are looked into; empty where there is no other."""
    main = [model for model in report["models"] if not model["ablation"]]
    first = next((model for model in main if model["name"] == report.get("insight_of")), None)
    if first is None or (len(main) == 1 and first["runs"] == 1):
        return ""
    return f"model {first['name']}" + (" (its first training run)" if first["runs"] > 1 else "")


def is_fused(name: str) -> bool:
    """Whether it is a fusion model's embedding."""
    return name.split(" ")[0] == FUSED


def is_model(name: str) -> bool:
    """Whether it needs a fusion model."""
    return name.split(" ")[0] in (FUSED, PROJECTION_MEAN)


def rank(name: str) -> int:
    """Place of a line among those that are drawn: fusion models first, then the strongest rivals."""
    order = [FUSED, CONCAT_RIDGE, CONCAT_MEAN, LATE_FUSION, PROJECTION_MEAN]
    kind = name.split(" ")[0]
    return order.index(kind) if kind in order else len(order)


def group_title(name: str, modalities: Sequence[str]) -> str:
    """The kind of a representation, as a table puts them together."""
    if is_model(name):
        return "Fusion model"
    if name in modalities:
        return "One modality alone"
    if name == FINGERPRINT:
        return "Reference without any encoder"
    if "+" in name:
        return "Some modalities side by side"
    return "Rivals that use whatever is there"


GROUPS = (
    "Fusion model",
    "Rivals that use whatever is there",
    "Some modalities side by side",
    "One modality alone",
    "Reference without any encoder",
)


def matching(records: Iterable[Record], **wanted: Any) -> list[Record]:
    """Records whose fields are these; a field that a record does not have matches anything."""
    return [record for record in records if all(record.get(key, value) == value for key, value in wanted.items())]


def scopes(records: Iterable[Record]) -> list[str | None]:
    """The tasks of some records, the mean over tasks (None) first."""
    found = list(dict.fromkeys(record["task"] for record in records))
    return sorted(found, key=lambda task: task is not None)


def scope_name(report: Report, task: str | None, tasks: Sequence[str] | None = None) -> str:
    """A task's name, or what the mean is over."""
    return f"mean over {len(tasks or report['tasks'])} tasks" if task is None else task


def scope_title(report: Report, task: str | None, tasks: Sequence[str] | None = None) -> str:
    """`scope_name` as a title; a task keeps its own spelling."""
    return scope_name(report, task, tasks).capitalize() if task is None else task


def primary_metric(report: Report) -> str:
    """The metric of the headline."""
    found = {table["metric"] for table in report["tables"]}
    return next((metric for metric in ORDER if metric in found), ORDER[0])


def metric_of(report: Report, task: str | None) -> str:
    """The primary metric of a task, or of the mean over tasks."""
    kinds = {entry["name"]: entry["kind"] for entry in report["tasks"]}
    return primary_metric(report) if task is None else "r2" if kinds[task] == "regression" else "roc_auc"


def main_table(report: Report, *, fitting: str = "transferred", task: str | None = None) -> Record | None:
    """The table of the headline: over tasks where there are several, else of the only one."""
    found = matching(report["tables"], section="folds", probe=LINEAR, fitting=fitting, metric=metric_of(report, task))
    wanted = [table for table in found if table["task"] == task]
    return wanted[0] if wanted else found[0] if found and task is None else None


def comparison(
    report: Report, against: str, column: str, *, ours: str, task: str | None, fitting: str = "transferred"
) -> Record | None:
    """The paired difference on the folds, in the primary metric."""
    found = matching(report["comparisons"], section="folds", probe=LINEAR, fitting=fitting, task=task)
    found = matching(found, representation=ours, against=against, column=column, metric=metric_of(report, task))
    return found[0] if found else None


def headline_scope(report: Report) -> str | None:
    """None where the headline is a mean over tasks, else the only task that the primary metric has."""
    table = main_table(report)
    return table["task"] if table is not None else None


def absent_column(columns: Sequence[str]) -> str:
    """The column over all subsets with something absent: the last one."""
    return columns[-1]


def cell_of(table: Record, name: str, column: str) -> Record | None:
    """None where the representation has no number there."""
    row = next((row for row in table["rows"] if row["representation"] == name), None)
    cell = row["cells"].get(column) if row is not None else None
    return cell if cell is not None and cell["value"] is not None else None


def best_row(table: Record, names: Iterable[str], column: str) -> str | None:
    """The representation with the best value among some; None where none has one."""
    known = [(cell["value"], name) for name in names if (cell := cell_of(table, name, column)) is not None]
    sign = -1 if table["metric"] == "rmse" else 1
    return max(known, key=lambda pair: sign * pair[0])[1] if known else None


def average(values: Iterable[float | None]) -> float | None:
    """Mean of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
