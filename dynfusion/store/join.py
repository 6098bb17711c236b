"""Sources and table joined by id: a full outer join, the shuffle and the choice of held-out rows.

A row's place depends on its id and the seed alone, so the order of the sources' rows changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64

from dynfusion.store.hashing import hash_strings, key_of
from dynfusion.store.sources import Source
from dynfusion.store.table import Metadata


@dataclass(frozen=True)
class Joined:
    """All rows in shuffled order: ids, where each lies in every source and in the table (-1 = not there), and texts."""

    ids: pa.Array
    source_rows: tuple[Int64[np.ndarray, " rows"], ...]
    smiles: pa.Array
    group: pa.Array
    columns: dict[str, pa.Array]


def join(sources: Sequence[Source], metadata: Metadata | None, *, seed: int) -> Joined:
    """Every id of any source or of the table once, shuffled by the seed."""
    given = [source.ids for source in sources] + ([metadata.ids] if metadata else [])
    ids = pc.unique(pa.chunked_array(given, pa.string()))
    ids = ids.take(pc.sort_indices(ids))
    order = np.argsort(hash_strings(ids, key=key_of("shuffle", seed)), kind="stable")
    ids = ids.take(pa.array(order))
    rows = [_places(ids, column) for column in given]
    table = metadata.columns if metadata else {}
    from_table = {name: _take(column, rows[-1]) for name, column in table.items()}
    found = list(zip(sources, rows[: len(sources)], strict=True))
    smiles = [_take(source.smiles, at) for source, at in found if source.smiles is not None]
    groups = [_take(source.group, at) for source, at in found if source.group is not None]
    smiles_column = _coalesce([*_listed(from_table, "smiles"), *smiles], len(ids))
    return Joined(
        ids=ids,
        source_rows=tuple(rows[: len(sources)]),
        smiles=smiles_column,
        group=pc.coalesce(_coalesce([*_listed(from_table, "group"), *groups], len(ids)), smiles_column, ids),
        columns={name: column for name, column in from_table.items() if name not in ("smiles", "group")},
    )


def choose_held_out(group: pa.Array, fraction: float) -> np.ndarray:
    """Which rows are held out: those whose group's hash is below the fraction. Knows neither seed nor order."""
    number = hash_strings(group, key=key_of("holdout"))
    return (number >> np.uint64(11)).astype(np.float64) * 2.0**-53 < fraction


def _places(ids: pa.Array, source_ids: pa.Array) -> np.ndarray:
    return pc.fill_null(pc.index_in(ids, value_set=source_ids), -1).to_numpy(zero_copy_only=False).astype(np.int64)


def _take(column: pa.Array, rows: np.ndarray) -> pa.Array:
    return column.take(pa.array(rows, mask=rows < 0))


def _listed(columns: dict[str, pa.Array], name: str) -> list[pa.Array]:
    return [columns[name]] if name in columns else []


def _coalesce(columns: Sequence[pa.Array], rows: int) -> pa.Array:
    return pc.coalesce(*columns, pa.nulls(rows, pa.string()))
