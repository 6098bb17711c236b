"""Molecules out of a CSV file."""

import csv
from pathlib import Path

from dynfusion.encoders.molecules import Molecules, RowError


def read_molecules(path: Path, *, smiles_column: str, id_column: str | None = None) -> Molecules:
    """The rows of a UTF-8 CSV with a header, in file order; without an id column a row's id is its number from 1.

    Blanks around an id or a SMILES are dropped; a SMILES may be empty, but not all of them.
    Raises ValueError naming the file, and the row or the column, when the file is missing, empty or no CSV, a column is
    missing or empty, a row is short, or an id is empty or repeated.
    """
    header, rows = _read_rows(path)
    smiles = _column(path, header, rows, smiles_column)
    if not any(smiles):
        raise ValueError(f"{path}: column {smiles_column!r} is empty in all {len(rows)} rows")
    ids = [str(row) for row in range(1, len(rows) + 1)]
    if id_column is not None:
        ids = _column(path, header, rows, id_column)
    try:
        return Molecules(tuple(ids), tuple(smiles))
    except RowError as error:
        raise RowError(f"{path}, {error}") from None


def _read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """The header and the rows under it, blank lines left out."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = [line for line in csv.reader(file) if line]
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file, expected a CSV file with a header") from None
    except IsADirectoryError:
        raise ValueError(f"{path}: is a folder, expected a CSV file with a header") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as a UTF-8 CSV file, {error}") from None
    if not lines:
        raise ValueError(f"{path}: the file is empty, expected a header and at least one row")
    header, *rows = lines
    if not rows:
        raise ValueError(f"{path}: no row under the header, at least one is needed")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise ValueError(f"{path}, row {number}: {len(row)} fields, but the header has {len(header)}")
    return header, rows


def _column(path: Path, header: list[str], rows: list[list[str]], name: str) -> list[str]:
    if header.count(name) != 1:
        raise ValueError(f"{path}: column {name!r} found {header.count(name)} times, columns are {', '.join(header)}")
    index = header.index(name)
    return [row[index].strip() for row in rows]
