"""`dynfusion embed`: a CSV of molecules -> a folder of embeddings."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from dynfusion.encoders.embed import embed as embed_molecules
from dynfusion.encoders.molecule_table import read_molecules
from dynfusion.encoders.molecules import Molecules, RowError
from dynfusion.verbs.display import progress


def embed(
    input: Path,
    *,
    smiles_column: str,
    id_column: str | None,
    encoder: str,
    out: Path,
    workers: int | None = None,
    on_bad: Literal["error", "absent"] = "error",
) -> Path:
    """`out`, the folder of embeddings (dynfusion.encoders.folder), a row for each row of the CSV file `input`.

    Raises ValueError with one sentence that names the file and the row, column or
    setting; nothing half-written stays behind.
    """
    molecules = read_molecules(input, smiles_column=smiles_column, id_column=id_column)
    try:
        with progress(f"embed {input.name} with {encoder}") as advance:
            return embed_molecules(
                molecules.ids,
                molecules.smiles,
                encoder=encoder,
                out=out,
                workers=workers or os.cpu_count() or 1,
                on_bad=on_bad,
                progress=advance,
            )
    except RowError as error:
        raise RowError(f"{input}, {error}") from None


def embed_with_all(name: str, molecules: Molecules, encoders: Sequence[str], *, out: Path) -> dict[str, Path]:
    """The folder `out/<encoder>` of each encoder; a molecule that it cannot read is absent there. `name` is shown."""
    folders = {}
    for encoder in encoders:
        with progress(f"embed {name} with {encoder}") as advance:
            folders[encoder] = embed_molecules(
                molecules.ids,
                molecules.smiles,
                encoder=encoder,
                out=out / encoder,
                workers=os.cpu_count() or 1,
                on_bad="absent",
                progress=advance,
            )
    return folders
