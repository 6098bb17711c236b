"""What lies beside a shard row for row: ids, SMILES, reasons of absence, labels, the split; small things."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from dynfusion.store.join import REASON_PREFIX
from dynfusion.store.manifest import FileSpec, Manifest

BATCH_ROWS = 1 << 16


class SidecarWriter:
    """Writes tables one after another as Arrow IPC in batches of `BATCH_ROWS`, however the tables are cut."""

    def __init__(self, folder: Path, name: str, schema: pa.Schema) -> None:
        self._path, self._name, self._rows = folder / name, name, 0
        self._waiting = schema.empty_table()
        self._sink = pa.OSFile(str(self._path), "wb")
        self._writer = pa.ipc.new_file(self._sink, schema)

    def append(self, table: pa.Table) -> None:
        """The next rows, of the same columns."""
        self._waiting = pa.concat_tables([self._waiting, table])
        while self._waiting.num_rows >= BATCH_ROWS:
            self._put(self._waiting.slice(0, BATCH_ROWS))
            self._waiting = self._waiting.slice(BATCH_ROWS)

    def close(self) -> FileSpec:
        """Write what is left and describe the file."""
        if self._waiting.num_rows or not self._rows:
            self._put(self._waiting)
        self._writer.close()
        self._sink.close()
        return describe_file(self._path, rows=self._rows)

    def _put(self, table: pa.Table) -> None:
        """One batch; a column's buffers are made anew, so that what they were cut from leaves no trace in the file."""
        columns = [pa.concat_arrays([pa.array([], field.type), *table[field.name].chunks]) for field in table.schema]
        self._writer.write_batch(pa.record_batch(columns, schema=table.schema))
        self._rows += table.num_rows


def describe_file(path: Path, *, rows: int) -> FileSpec:
    """The description of a written file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileSpec(path=path.name, rows=rows, bytes=path.stat().st_size, sha256=digest)


def write_sidecar(table: pa.Table, folder: Path, name: str) -> FileSpec:
    """Write the table as Arrow IPC under `folder / name` and describe the file."""
    writer = SidecarWriter(folder, name, table.schema)
    writer.append(table)
    return writer.close()


def wrong_digest(where: str | Path) -> str:
    """The sentence about a damaged small file."""
    return (
        f"{where}: its SHA-256 is not the manifest's, the file is damaged; copy or pack the data set again "
        "(`dynfusion verify` names all that is wrong)"
    )


def read_sidecars(folder: Path, files: Sequence[FileSpec], manifest: Manifest, *, checked: set[str]) -> pa.Table:
    """The tables of several sidecars, one after another; the hash of each is compared once: `checked` has the paths of
    those whose is known to be right and gets the others.

    Raises ValueError for a file that is missing, damaged, lacks a column, or has another number of rows than the
    manifest says.
    """
    tables = [_read(folder / file.path, file, manifest, checked) for file in files]
    for table, file in zip(tables, files, strict=True):
        if table.schema != tables[0].schema:
            raise ValueError(f"sidecar {folder / file.path}: its columns are not those of {files[0].path}")
    return pa.concat_tables(tables)


def check_columns(where: str, schema: pa.Schema, manifest: Manifest) -> None:
    """Raise ValueError unless a sidecar has the columns that FORMAT.md gives it, each once and of the right type."""
    labels = dict.fromkeys(manifest.label_columns, (pa.float64(), pa.string()))
    texts = ("id", "smiles", *([manifest.split_column] if manifest.split_column else []))
    reasons = {REASON_PREFIX + name: (pa.uint8(),) for name in manifest.names}
    for name, kinds in {**labels, **dict.fromkeys(texts, (pa.string(),)), **reasons}.items():
        found = [str(field.type) for field in schema if field.name == name]
        if len(found) != 1 or found[0] not in map(str, kinds):
            raise ValueError(
                f"sidecar {where}, column {name}: found {' and '.join(found) or 'none'}, allowed is one of "
                f"{' or '.join(map(str, kinds))}"
            )


def checked_batch(where: str, batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same batch once every text in it was found to lie where the batch says and to be UTF-8.

    Raises ValueError, opening with `where`, when not: Arrow would follow a wrong offset out of the file.
    """
    try:
        batch.validate(full=True)
    except pa.ArrowException as error:
        raise ValueError(f"{where}: not valid Arrow, {str(error).partition(chr(10))[0]}") from None
    return batch


def _read(path: Path, file: FileSpec, manifest: Manifest, checked: set[str]) -> pa.Table:
    where = f"sidecar {path}"
    try:
        new = file.path not in checked
        if new and describe_file(path, rows=file.rows).sha256 != file.sha256:
            raise ValueError(wrong_digest(where))
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            check_columns(str(path), reader.schema, manifest)
            batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        table = pa.Table.from_batches(
            [checked_batch(where, batch) if new else batch for batch in batches], reader.schema
        )
        checked.add(file.path)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(
            f"{where}: missing or not readable as Arrow IPC, {str(error).partition(chr(10))[0]}"
        ) from error
    if table.num_rows != file.rows:
        raise ValueError(f"{where}: found {table.num_rows} rows, the manifest says {file.rows}")
    return table
