"""The optional metadata table of `pack`: SMILES, labels and a split by id, from CSV or Parquet."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from dynfusion.store.sources import check_ids, read_parquet_table


@dataclass(frozen=True)
class Metadata:
    """The table's rows: `ids` and the columns that go into the sidecar (smiles, group, labels, split)."""

    ids: pa.Array
    columns: dict[str, pa.Array]


def read_metadata(path: Path, *, id_column: str, labels: Sequence[str], split_column: str | None) -> Metadata:
    """Ids as text; `smiles` and `group` columns when there; labels as float64 (null = missing), or text for classes.

    Raises ValueError for a missing file or column, an unreadable file, or duplicate ids.
    """
    if not path.is_file():
        raise ValueError(f"table {path}: no such file")
    text_columns = [id_column, "smiles", "group", *([split_column] if split_column else [])]
    table = read_parquet_table(path, "table") if path.suffix == ".parquet" else _read_csv(path, text_columns)
    wanted = [id_column, *labels, *([split_column] if split_column else [])]
    missing = [name for name in wanted if name not in table.column_names]
    if missing:
        raise ValueError(f"table {path}: no column {', '.join(missing)}, found {', '.join(table.column_names)}")
    ids = _text(table.column(id_column))
    check_ids(ids, f"table {path}, column {id_column},")
    columns = {name: _text(table.column(name)) for name in ("smiles", "group") if name in table.column_names}
    columns |= {name: _label(table.column(name), f"table {path}, column {name}") for name in labels}
    if split_column:
        columns[split_column] = _text(table.column(split_column))
    return Metadata(ids, columns)


def _read_csv(path: Path, text_columns: Sequence[str]) -> pa.Table:
    options = pa.csv.ConvertOptions(column_types=dict.fromkeys(text_columns, pa.string()))
    try:
        return pa.csv.read_csv(path, convert_options=options)
    except pa.ArrowInvalid as error:
        raise ValueError(f"table {path}: not readable as CSV, {str(error).splitlines()[0].rstrip('.')}") from None


def _one(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _text(column: pa.ChunkedArray) -> pa.Array:
    text = _one(column).cast(pa.string())
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def _label(column: pa.ChunkedArray, where: str) -> pa.Array:
    kind = column.type
    if pa.types.is_boolean(kind):
        return _one(column).cast(pa.uint8()).cast(pa.float64())
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind):
        numbers = _one(column).cast(pa.float64())
        numbers = pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)
        if pc.any(pc.is_inf(numbers)).as_py():
            raise ValueError(f"{where}: a label is infinite, allowed are finite numbers or nothing")
        return numbers
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _text(column)
    raise ValueError(f"{where}: holds {kind}, a label is a number, true/false or text")
