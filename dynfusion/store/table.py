"""The optional metadata table of `pack`: SMILES, labels and a split by id, from CSV, Parquet or Arrow."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from dynfusion.printable import printable
from dynfusion.store.files import LOCAL, Files
from dynfusion.store.source import TEXTS, Chunk, Piece, blank_to_null
from dynfusion.store.table_files import Read, check_once, open_table
from dynfusion.store.texts import as_text

_SPELLINGS = {"train": "train", "training": "train", "test": "test"}
_SPELLINGS |= dict.fromkeys(("valid", "val", "validation", "dev"), "valid")
"""What splits are called, in lower case."""


@dataclass(frozen=True)
class Table:
    """An opened table: its pieces and the type of each column that goes into the sidecar (smiles, group, labels,
    split): float64 (null = missing) or text. The split is train, valid or test, however it was spelt."""

    uri: str
    ids_at: str
    columns: dict[str, pa.DataType]
    pieces: tuple[Piece, ...]
    split_column: str | None = None


def open_metadata(
    uri: str,
    *,
    id_column: str,
    labels: Sequence[str],
    split_column: str | None,
    files: Files = LOCAL,
    known: Mapping[str, pa.DataType] | None = None,
) -> Table:
    """Ids as text; `smiles` and `group` columns when there; labels as float64, or text for classes.

    A label that a dataset has as text already (`known`) is read as text, also where it is blank or made of digits.

    Raises ValueError for a missing file or column, or an unreadable file.
    """
    paths = files.find(uri)
    if not paths:
        raise ValueError(f"table {uri}: no such file")
    classes = [name for name in labels if (known or {}).get(name) == pa.string()]
    texts = [id_column, *TEXTS, *([split_column] if split_column else []), *classes]
    columns: dict[str, pa.DataType] = {}
    pieces = []
    for file in paths:
        schema, parts = open_table("table", file, files, texts=texts, wanted={*texts, *labels})
        wanted = [id_column, *labels, *([split_column] if split_column else [])]
        missing = [name for name in wanted if name not in schema.names]
        if missing:
            found = printable(", ".join(schema.names))
            raise ValueError(f"table {file}: no column {', '.join(missing)}, found {found}")
        check_once(f"table {file}", schema, [*wanted, *TEXTS])
        here = {name: pa.string() for name in TEXTS if name in schema.names}
        here |= {name: _label_type(schema.field(name).type, f"table {file}, column {name}") for name in labels}
        here |= {name: pa.string() for name in classes if pa.types.is_null(schema.field(name).type)}
        if split_column:
            here[split_column] = pa.string()
        if columns and here != columns:
            raise ValueError(f"table {file}: its columns hold other things than those of {paths[0]}")
        columns = here
        pieces += [
            Piece(
                file,
                part.first_row,
                part.rows,
                part.bytes,
                partial(_read, file, part.read, id_column, split_column, here),
            )
            for part in parts
        ]
    return Table(uri, f"table {uri}, column {id_column},", columns, tuple(pieces), split_column)


def _read(
    uri: str,
    read: Read,
    id_column: str,
    split_column: str | None,
    columns: dict[str, pa.DataType],
    files: Files,
    chunk_rows: int,
) -> Iterator[Chunk]:
    for batch in read(files, chunk_rows):
        texts = {
            name: _text(batch.column(name), f"table {uri}, column {name},", numbers="any")
            if kind == pa.string()
            else _number(batch.column(name), f"table {uri}, column {name}")
            for name, kind in columns.items()
        }
        ids = _text(batch.column(id_column), f"table {uri}, column {id_column},", numbers="whole")
        if split_column:
            texts[split_column] = _split(texts[split_column], ids, f"table {uri}, column {split_column},")
        yield Chunk(ids, None, None, texts)


def usual_split(column: pa.Array) -> pa.Array:
    """Every usual spelling as train, valid or test; anything else as it is."""
    found = pc.index_in(pc.utf8_lower(pc.utf8_trim_whitespace(column)), value_set=pa.array(list(_SPELLINGS)))
    return pc.coalesce(pa.array(list(_SPELLINGS.values())).take(found), column)


def _split(column: pa.Array, ids: pa.Array, where: str) -> pa.Array:
    """Every usual spelling as train, valid or test; null stays null."""
    found = pc.index_in(pc.utf8_lower(pc.utf8_trim_whitespace(column)), value_set=pa.array(list(_SPELLINGS)))
    wrong = pc.and_(pc.is_null(found), pc.is_valid(column)).to_numpy(zero_copy_only=False)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"{where} holds {column[row].as_py()!r} for id {ids[row].as_py()!r}, allowed are train, valid, test"
        )
    return pa.array(list(_SPELLINGS.values())).take(found)


def _text(column: pa.Array, where: str, *, numbers: Literal["whole", "any"]) -> pa.Array:
    return blank_to_null(as_text(column, where, numbers=numbers))


def _label_type(kind: pa.DataType, where: str) -> pa.DataType:
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind):
        return pa.float64()
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.string()
    raise ValueError(f"{where}: holds {kind}, a label is a number, true/false or text")


def _number(column: pa.Array, where: str) -> pa.Array:
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    try:
        numbers = column.cast(pa.float64())
    except pa.ArrowInvalid:
        raise ValueError(f"{where}: a label is a whole number beyond 2**53, allowed are smaller ones or text") from None
    numbers = pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)
    if pc.any(pc.is_inf(numbers)).as_py():
        raise ValueError(f"{where}: a label is infinite, allowed are finite numbers or nothing")
    return numbers
