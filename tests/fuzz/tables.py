"""Tables that are nearly right: a column renamed, dropped, repeated, retyped, shortened, or with strange entries."""

from random import Random
from typing import Any

import pyarrow as pa

from tests.fuzz.mutations import TEXTS, strange_value

_TYPES: tuple[pa.DataType, ...] = (
    *(pa.string(), pa.large_string(), pa.binary(), pa.int8(), pa.uint8(), pa.int64(), pa.uint64(), pa.bool_()),
    *(pa.float16(), pa.float32(), pa.float64(), pa.null(), pa.date32(), pa.timestamp("us"), pa.decimal128(20, 3)),
    *(pa.binary(4), pa.list_(pa.float32()), pa.list_(pa.float16(), 2), pa.large_list(pa.float64())),
    *(pa.dictionary(pa.int8(), pa.string()), pa.struct([("x", pa.int8())]), pa.list_(pa.list_(pa.float32()))),
)


def odd_table(table: pa.Table, draw: Random) -> pa.Table:
    """The table, changed in one or two columns."""
    for _ in range(draw.choice((1, 1, 2))):
        if not table.num_columns:
            break
        table = _CHANGES[draw.randrange(len(_CHANGES))](table, draw.randrange(table.num_columns), draw)
    return table


def _rename(table: pa.Table, at: int, draw: Random) -> pa.Table:
    name = draw.choice((*TEXTS, "id", "smiles", "group", "Unnamed: 0", "index", *table.column_names))
    return table.rename_columns([name if number == at else old for number, old in enumerate(table.column_names)])


def _drop(table: pa.Table, at: int, draw: Random) -> pa.Table:
    return table.remove_column(at)


def _repeat(table: pa.Table, at: int, draw: Random) -> pa.Table:
    return table.append_column(table.schema.field(at), table.column(at))


def _retype(table: pa.Table, at: int, draw: Random) -> pa.Table:
    kind = draw.choice(_TYPES)
    try:
        made = table.column(at).cast(kind)
    except (pa.ArrowException, OSError):
        made = pa.nulls(table.num_rows, kind)
    return table.set_column(at, pa.field(table.column_names[at], kind, metadata=_metadata(draw)), made)


def _slice(table: pa.Table, at: int, draw: Random) -> pa.Table:
    rows = draw.randrange(table.num_rows + 1)
    return draw.choice((table.slice(0, rows), table.slice(rows), pa.concat_tables([table, table])))


def _strange_entry(table: pa.Table, at: int, draw: Random) -> pa.Table:
    entries: list[Any] = table.column(at).to_pylist()
    if not entries:
        return table
    place = draw.randrange(len(entries))
    old = entries[place]
    new = strange_value(draw)
    entries[place] = draw.choice((None, [*old, new], old[:-1], [new] * len(old))) if isinstance(old, list) else new
    try:
        made = pa.array(entries, draw.choice((None, table.schema.field(at).type)))
    except (pa.ArrowException, OverflowError, UnicodeError, TypeError, ValueError):
        return table
    return table.set_column(at, table.column_names[at], made)


def _reorder(table: pa.Table, at: int, draw: Random) -> pa.Table:
    return table.select([at, *(number for number in range(table.num_columns) if number != at)])


def _metadata(draw: Random) -> dict[bytes, bytes] | None:
    return draw.choice((None, {b"dtype": draw.choice((b"float16", b"bfloat16", b"\xff", b"int8", b""))}))


_CHANGES = (_rename, _drop, _repeat, _retype, _retype, _slice, _strange_entry, _strange_entry, _reorder)
