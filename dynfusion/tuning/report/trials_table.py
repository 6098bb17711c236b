"""Every trial of a sweep as one row of a table, for those who want to look in their own way."""

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dynfusion.tuning.report.contents import Contents


def trials_table(contents: Contents) -> pa.Table:
    """One row a trial by id: its state, every objective, how far it came, and every setting of the space.

    A setting that is not in force is null; one whose choices are of several types is JSON text.
    """
    trials, sweep = contents.trials, contents.sweep
    columns: dict[str, tuple[pa.DataType, list[Any]]] = {
        name: (kind, [getattr(trial, name) for trial in trials])
        for name, kind in (
            *((name, pa.string()) for name in ("id", "state", "reason")),
            *((name, pa.int64()) for name in ("step", "samples_seen", "total_samples", "attempts")),
            *((name, pa.float64()) for name in ("seconds", "overhead_seconds")),
            *((name, pa.string()) for name in ("run",)),
        )
    }
    for objective in sweep.objectives:
        scores = [(trial.objectives or {}).get(objective.name) for trial in trials]
        columns[f"objective.{objective.name}"] = (pa.float64(), scores)
    for name in sweep.space:
        columns[f"setting.{name}"] = _typed([trial.settings.get(name) for trial in trials])
    schema = pa.schema([(name, kind) for name, (kind, _) in columns.items()])
    return pa.table({name: pa.array(values, kind) for name, (kind, values) in columns.items()}, schema=schema)


def _typed(values: list[Any]) -> tuple[pa.DataType, list[Any]]:
    kinds = {type(value) for value in values if value is not None}
    for allowed, kind in (
        ({bool}, pa.bool_()),
        ({int}, pa.int64()),
        ({int, float}, pa.float64()),
        ({str}, pa.string()),
    ):
        if kinds <= allowed:
            return kind, values
    return pa.string(), [None if value is None else json.dumps(value) for value in values]


def parquet(table: pa.Table) -> bytes:
    """The file's bytes."""
    content = io.BytesIO()
    pq.write_table(table, content)
    return content.getvalue()
