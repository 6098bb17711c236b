"""A CSV or Parquet file with SMILES and labels as a task: embedded with the model's own encoders and packed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dynfusion.encoders.embed import ENCODERS
from dynfusion.encoders.folder import read_folder
from dynfusion.encoders.molecules import Molecules, RowError
from dynfusion.evaluation.tasks.moleculenet import MOLECULENET
from dynfusion.printable import printable
from dynfusion.store.files import LOCAL
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs
from dynfusion.store.table_files import KINDS, check_once, open_table
from dynfusion.store.texts import as_text
from dynfusion.verbs.display import console
from dynfusion.verbs.embed import embed_with_all

READ_ROWS = 1 << 16


@dataclass(frozen=True)
class TableColumns:
    """What the columns of a labelled table are called.

    Without `id` that is "id" if there is such a column, else rows are numbered from 1; without `split`, "split" if
    there is such a column (train, valid, test). Without `labels` those of a MoleculeNet set where the table has its
    name and columns, else the one other column of 0, 1 and gaps.
    """

    smiles: str = "smiles"
    id: str | None = None
    split: str | None = None
    labels: tuple[str, ...] = ()


def is_table(uri: str) -> bool:
    """Whether an address names a file that `pack_table` reads, by its ending."""
    return Path(uri).suffix.lower().removeprefix(".") in KINDS


def parse_tasks(text: str) -> dict[str, str]:
    """`"a=packed/a,sets/b.csv"` as addresses by name; a table without a name has that of its file, without the ending.

    Raises ValueError for anything else, and for a name given twice.
    """
    tasks: dict[str, str] = {}
    for part in map(str.strip, text.split(",")):
        name, equals, uri = part.partition("=")
        if not equals and is_table(part):
            name, uri = Path(part).stem, part
        if not (name and uri):
            raise ValueError(
                f"tasks: found {part!r}, expected NAME=URI or a CSV or Parquet file, such as freesolv=packed/freesolv"
            )
        if name in (".", "..") or set(name) & set("/\\\0"):
            raise ValueError(f"tasks: found the name {name!r}, also a folder's; allowed is one without / and \\")
        if name in tasks:
            raise ValueError(f"tasks: {name} is given twice, each name stands for one data set")
        tasks[name] = uri
    return tasks


def pack_table(
    name: str, path: Path, *, encoders: tuple[str, ...], out: Path, columns: TableColumns | None = None
) -> str:
    """The packed dataset of a table, under `out/tasks/name`, made once.

    Raises ValueError for a modality that no local encoder makes, a column that is missing, labels that cannot be told,
    and as `embed` and `pack` do.
    """
    unknown = [modality for modality in encoders if modality not in ENCODERS]
    if unknown:
        raise ValueError(
            f"task {name}: the model's modality {unknown[0]} has no local encoder, allowed for a table are "
            f"{', '.join(ENCODERS)}; pack the task's own embeddings instead"
        )
    columns = columns or TableColumns()
    table, labels, split = read_labelled(name, path, columns)
    console.print(f"task {name}: labels {', '.join(labels)}")
    molecules = _molecules(path, table, columns)
    folder = out / "tasks" / name
    modalities = embed_with_all(name, molecules, encoders, out=folder / "embeddings")
    _say_unreadable(name, molecules, read_folder(next(iter(modalities.values()))).groups)
    kept = [*labels, *([split] if split else [])]
    arrays = {"id": pa.array(molecules.ids), "smiles": pa.array(molecules.smiles)}
    pq.write_table(pa.table(arrays | {column: table[column] for column in kept}), folder / "table.parquet")
    pack(
        PackInputs(modalities, folder / "table.parquet", labels=tuple(labels), split_column=split),
        out=folder / "packed",
    )
    return str(folder / "packed")


def read_labelled(name: str, path: Path, columns: TableColumns) -> tuple[pa.Table, list[str], str | None]:
    """A labelled table as it lies, its label columns and its split column. Raises ValueError as `pack_table` does."""
    table = _read(path, columns)
    return table, _labels(name, path, table, columns), columns.split or _if_there("split", table)


def _read(path: Path, columns: TableColumns) -> pa.Table:
    """The whole file, ids, SMILES and split as text. Raises ValueError for a column that is missing or there twice."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected a CSV or Parquet file with SMILES and labels")
    texts = [columns.smiles, columns.id or "id", columns.split or "split"]
    schema, pieces = open_table("task", str(path), LOCAL, texts=texts)
    named = [("smiles-column", columns.smiles), ("id-column", columns.id), ("split-column", columns.split)]
    for option, column in [*named, *(("labels", label) for label in columns.labels)]:
        if column is not None and column not in schema.names:
            found = printable(", ".join(schema.names))
            raise ValueError(f"{path}: no column {column!r} for --{option}, it has {found}")
    check_once(str(path), schema, schema.names)
    batches = [batch for piece in pieces for batch in piece.read(LOCAL, READ_ROWS)]
    return pa.Table.from_batches(batches, schema=schema)


def _molecules(path: Path, table: pa.Table, columns: TableColumns) -> Molecules:
    named = columns.id or _if_there("id", table)
    smiles = _texts(path, table, columns.smiles)
    ids = _texts(path, table, named) if named else tuple(str(row) for row in range(1, table.num_rows + 1))
    if not any(smiles):
        raise ValueError(f"{path}: column {columns.smiles!r} is empty in all {len(smiles)} rows")
    try:
        return Molecules(ids, smiles)
    except RowError as error:
        raise RowError(f"{path}, {error}") from None


def _texts(path: Path, table: pa.Table, column: str) -> tuple[str, ...]:
    """The column as text, blanks around it dropped, empty where there is nothing."""
    text = as_text(table[column].combine_chunks(), f"{path}, column {column},", numbers="whole")
    return tuple(pc.utf8_trim_whitespace(pc.fill_null(text, "")).to_pylist())


def _labels(name: str, path: Path, table: pa.Table, columns: TableColumns) -> list[str]:
    taken = (columns.smiles, columns.id or "id", columns.split or "split")
    wrong = [label for label in columns.labels if label in taken]
    if wrong:
        raise ValueError(f"{path}: found {wrong[0]} in --labels, allowed is any column but {', '.join(taken)}")
    if columns.labels:
        return list(columns.labels)
    published = MOLECULENET[name].labels if name in MOLECULENET else ()
    if published and set(published) <= set(table.column_names):
        return list(published)
    binary = [column for column in table.column_names if column not in taken and _is_binary(table[column])]
    if len(binary) != 1:
        found = f"{len(binary)} columns of 0 and 1" + (f" ({', '.join(binary[:5])})" if binary else "")
        raise ValueError(f"{path}: found {found} beside id, smiles and split, so name the labels with --labels A,B")
    return binary


def _is_binary(column: pa.ChunkedArray) -> bool:
    kind = column.type
    if not (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return False
    numbers = column.cast(pa.uint8()) if pa.types.is_boolean(kind) else column
    return {float(value) for value in pc.unique(numbers.drop_null()).to_pylist() if value == value} == {0.0, 1.0}


def _if_there(column: str, table: pa.Table) -> str | None:
    return column if column in table.column_names else None


def _say_unreadable(name: str, molecules: Molecules, groups: Sequence[str]) -> None:
    """A molecule that cannot be read stays in its task, with nothing present; the person is told."""
    rows = [row for row, group in enumerate(groups, start=1) if not group]
    if rows:
        console.print(
            f"task {name}: {len(rows)} of {len(molecules)} SMILES cannot be read, the first is row {rows[0]} "
            f"({molecules.smiles[rows[0] - 1]!r}); with nothing present they are scored by the training prior"
        )
