"""`dynfusion embed`: a CSV of molecules -> a folder of embeddings."""

import sys
from pathlib import Path
from typing import Literal

from dynfusion.encoders.embed import CHUNK_ROWS
from dynfusion.encoders.embed import embed as embed_molecules
from dynfusion.encoders.molecule_table import read_molecules
from dynfusion.encoders.molecules import RowError


def embed(
    input: Path,
    *,
    smiles_column: str,
    id_column: str | None,
    encoder: str,
    out: Path,
    workers: int,
    on_bad: Literal["error", "absent"] = "error",
) -> Path:
    """`out`, the folder of embeddings (dynfusion.encoders.folder), a row for each row of the CSV file `input`.

    Progress goes to standard error. Raises ValueError with one sentence that names the file and the row, column or
    setting; nothing half-written stays behind.
    """
    molecules = read_molecules(input, smiles_column=smiles_column, id_column=id_column)
    try:
        return embed_molecules(
            molecules.ids,
            molecules.smiles,
            encoder=encoder,
            out=out,
            workers=workers,
            on_bad=on_bad,
            progress=_show,
        )
    except RowError as error:
        raise RowError(f"{input}, {error}") from None


def _show(done: int, total: int) -> None:
    """On a terminal one line that is rewritten; in a log about ten lines."""
    if sys.stderr.isatty():
        print(f"\rembedded {done:,} of {total:,}", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif done == total or done // CHUNK_ROWS % max(1, total // (10 * CHUNK_ROWS)) == 0:
        print(f"embedded {done:,} of {total:,}", file=sys.stderr, flush=True)
