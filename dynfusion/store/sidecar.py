"""What lies beside a shard row for row: ids, SMILES, reasons of absence, labels, the split; small things."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from dynfusion.store.manifest import FileSpec

REASON_PREFIX = "reason:"


def write_sidecar(table: pa.Table, folder: Path, name: str) -> FileSpec:
    """Write the table as Arrow IPC under `folder / name` and describe the file."""
    path = folder / name
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileSpec(path=name, rows=table.num_rows, bytes=path.stat().st_size, sha256=digest)


def read_sidecars(folder: Path, files: Sequence[FileSpec]) -> pa.Table:
    """The tables of several sidecars, one after another.

    Raises ValueError for a file that is missing, damaged, or has another number of rows than the manifest says.
    """
    return pa.concat_tables([_read(folder / file.path, file.rows) for file in files])


def _read(path: Path, rows: int) -> pa.Table:
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"sidecar {path}: missing or not readable as Arrow IPC, {error}") from None
    if table.num_rows != rows:
        raise ValueError(f"sidecar {path}: found {table.num_rows} rows, the manifest says {rows}")
    return table
