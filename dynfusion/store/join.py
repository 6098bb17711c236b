"""Second pass: a bucket's sources and table joined by id: a full outer join, the shuffle, the choice of held-out rows.

A row's place depends on its id and the seed alone, so the order of the sources' rows changes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64

from dynfusion.store.hashing import hash_strings, key_of
from dynfusion.store.reasons import Reason

OnDuplicate = Literal["error", "first", "last"]
REASON_PREFIX = "reason:"
PLACE_PREFIX = "place:"


@dataclass(frozen=True)
class Duplicates:
    """How many ids a source has more than once, and one of them with its times; in a table, a column in which that one
    has several values. `known` of them are given again to a dataset that has them already, then the example is one."""

    ids: int
    example: str
    times: int
    column: str = ""
    known: int = 0


def distinct_rows(
    ids: pa.Array, on_duplicate: OnDuplicate, *, known_rows: int = 0
) -> tuple[Int64[np.ndarray, " ids"] | None, Duplicates | None]:
    """The first or last row of every id (None when each stands once), and what stands more than once.

    The first `known_rows` are those of a dataset that is extended.
    """
    if pc.count_distinct(ids).as_py() == len(ids):
        return None, None
    rows = pa.table({"id": ids, "row": np.arange(len(ids))})
    found = rows.group_by("id").aggregate([("row", "min"), ("row", "max"), ("row", "count")])
    repeated = found.filter(pc.greater(found["row_count"], 1)).sort_by("id")
    known = repeated.filter(pc.less(repeated["row_min"], known_rows))
    first = (known if len(known) else repeated).slice(0, 1).to_pylist()[0]
    kept = np.sort(found["row_max" if on_duplicate == "last" else "row_min"].to_numpy())
    return kept, Duplicates(len(repeated), first["id"], first["row_count"], known=len(known))


def merged_rows(
    rows: pa.Table, on_duplicate: OnDuplicate, *, known_rows: int = 0
) -> tuple[pa.Table, Duplicates | None]:
    """A table's rows with every id once: in each column its first value that is not null (its last under "last"); and
    what has several values there. The first `known_rows` are those of a dataset that is extended."""
    if pc.count_distinct(rows["id"]).as_py() == len(rows):
        return rows, None
    names = [name for name in rows.column_names if name != "id"]
    which, given = "last" if on_duplicate == "last" else "first", pc.CountOptions(mode="only_valid")
    found = rows.group_by("id", use_threads=False).aggregate(
        [([], "count_all")] + [(name, which) for name in names] + [(name, "count_distinct", given) for name in names]
    )
    merged = pa.table({"id": found["id"], **{name: found[f"{name}_{which}"] for name in names}})
    several = np.zeros((len(found), 0), bool)
    if names:
        several = np.stack([found[f"{name}_count_distinct"].to_numpy() > 1 for name in names], axis=1)
    repeated = np.flatnonzero(several.any(axis=1))
    if not len(repeated):
        return merged, None
    of_known = pc.is_in(found["id"], value_set=rows["id"].slice(0, known_rows).combine_chunks()).to_numpy()
    known = repeated[of_known[repeated]]
    example = min((known if len(known) else repeated).tolist(), key=lambda row: found["id"][row].as_py())
    column, times = names[int(several[example].argmax())], found["count_all"][example].as_py()
    return merged, Duplicates(len(repeated), found["id"][example].as_py(), times, column, len(known))


def shuffled_union(columns: Sequence[pa.Array], *, key: int) -> pa.Array:
    """Every id of any column once, in the order of their keyed hashes (and of their text where two are equal)."""
    ids = pc.unique(pa.chunked_array(columns, pa.string()))
    hashes = hash_strings(ids, key=key)
    order = np.argsort(hashes, kind="stable")
    if len(order) > 1 and (np.diff(hashes[order]) == 0).any():
        ids = ids.take(pc.sort_indices(ids))
        order = np.argsort(hash_strings(ids, key=key), kind="stable")
    return ids.take(pa.array(order))


def places(ids: pa.Array, source_ids: pa.Array) -> Int64[np.ndarray, " ids"]:
    """Where each id stands among a source's, -1 where it does not."""
    return pc.fill_null(pc.index_in(ids, value_set=source_ids), -1).to_numpy(zero_copy_only=False).astype(np.int64)


def take_or_null(column: pa.Array, rows: np.ndarray) -> pa.Array:
    """The column's values at these rows, null where a row is -1."""
    return column.take(pa.array(rows, mask=rows < 0))


def choose_held_out(group: pa.Array, fraction: float) -> np.ndarray:
    """Which rows are held out: those whose group's hash is below the fraction. Knows neither seed nor order."""
    number = hash_strings(group, key=key_of("holdout"))
    return (number >> np.uint64(11)).astype(np.float64) * 2.0**-53 < fraction


@dataclass(frozen=True)
class JoinedBucket:
    """A bucket's rows in shuffled order, those for training first, then the held-out and the dropped ones.

    `rows` has the columns of the sidecar (id, smiles, group when any is given, reason:<modality>, labels, split) and
    `place:<modality>`, which of the modality's vectors is the row's (-1 where it is absent). `counts` are the rows of
    the three parts.
    """

    rows: pa.Table
    counts: tuple[int, int, int]


def join_bucket(
    sources: Mapping[str, pa.Table | None],
    table: pa.Table | None,
    *,
    columns: Mapping[str, pa.DataType],
    holdout: float,
    key: int,
    with_group: bool,
) -> JoinedBucket:
    """Join the rows of one bucket; every id stands once in each source. `columns` are the table's, with their types."""
    given = [found["id"].combine_chunks() for found in (*sources.values(), table) if found is not None]
    ids = shuffled_union(given, key=key)
    from_table = {name: pa.nulls(len(ids), kind) for name, kind in columns.items()}
    if table is not None:
        at = places(ids, table["id"].combine_chunks())
        from_table = {name: take_or_null(table[name].combine_chunks(), at) for name in columns}
    smiles, group = _listed(from_table, "smiles"), _listed(from_table, "group")
    cells, vectors = {}, {}
    for name, found in sources.items():
        reasons, place, texts = _align(ids, found)
        cells[REASON_PREFIX + name], vectors[PLACE_PREFIX + name] = pa.array(reasons), pa.array(place)
        smiles += _listed(texts, "smiles")
        group += _listed(texts, "group")
    smiles_column = _coalesce(smiles, len(ids))
    present = np.stack([column.to_numpy() == Reason.PRESENT for column in cells.values()])
    group_column = _coalesce(group, len(ids))
    part = np.where(choose_held_out(pc.coalesce(group_column, smiles_column, ids), holdout), 1, 0)
    part[~present.any(axis=0)] = 2
    labels = {name: column for name, column in from_table.items() if name not in ("smiles", "group")}
    groups = {"group": group_column} if with_group else {}
    rows = pa.table({"id": ids, "smiles": smiles_column, **groups, **cells, **labels, **vectors})
    counts = np.bincount(part, minlength=3).tolist()
    return JoinedBucket(rows.take(pa.array(np.argsort(part, kind="stable"))), (counts[0], counts[1], counts[2]))


def _align(ids: pa.Array, found: pa.Table | None) -> tuple[np.ndarray, np.ndarray, dict[str, pa.Array]]:
    """Of every id: the reason of a source's cell, the place of its vector (-1 = none), and the texts."""
    if found is None:
        return np.full(len(ids), Reason.NOT_GIVEN, np.uint8), np.full(len(ids), -1, np.int64), {}
    at = places(ids, found["id"].combine_chunks())
    reasons = np.append(found["reason"].to_numpy(), np.uint8(Reason.NOT_GIVEN))
    place = np.append(found["place"].to_numpy(), np.int64(-1))[at]
    there = [name for name in ("smiles", "group") if name in found.column_names]
    texts = {name: take_or_null(found[name].combine_chunks(), at) for name in there}
    return reasons[at], place, texts


def _listed(columns: Mapping[str, pa.Array], name: str) -> list[pa.Array]:
    return [columns[name]] if name in columns else []


def _coalesce(columns: Sequence[pa.Array], rows: int) -> pa.Array:
    return pc.coalesce(*columns, pa.nulls(rows, pa.string()))
