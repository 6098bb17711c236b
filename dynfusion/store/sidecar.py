"""What lies beside a shard row for row: ids, SMILES, reasons of absence, labels, the split; small things."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from dynfusion.store.manifest import FileSpec

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


def read_sidecars(folder: Path, files: Sequence[FileSpec], *, checked: set[str]) -> pa.Table:
    """The tables of several sidecars, one after another; the hash of each is compared once: `checked` has the paths of
    those whose is known to be right and gets the others.

    Raises ValueError for a file that is missing, damaged, or has another number of rows than the manifest says.
    """
    return pa.concat_tables([_read(folder / file.path, file, checked) for file in files])


def _read(path: Path, file: FileSpec, checked: set[str]) -> pa.Table:
    try:
        if file.path not in checked:
            if describe_file(path, rows=file.rows).sha256 != file.sha256:
                raise ValueError(wrong_digest(f"sidecar {path}"))
            checked.add(file.path)
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"sidecar {path}: missing or not readable as Arrow IPC, {error}") from error
    if table.num_rows != file.rows:
        raise ValueError(f"sidecar {path}: found {table.num_rows} rows, the manifest says {file.rows}")
    return table
