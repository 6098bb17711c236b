"""A CSV with SMILES and labels as a task: embedded with the model's own encoders and packed."""

import csv
import os
from pathlib import Path

from dynfusion.encoders.embed import ENCODERS, embed
from dynfusion.encoders.molecule_table import read_molecules
from dynfusion.evaluation.tasks import MAX_CLASSES
from dynfusion.store.pack import PackInputs, pack
from dynfusion.verbs.display import progress


def pack_csv(name: str, path: Path, *, encoders: tuple[str, ...], out: Path) -> str:
    """The packed dataset of a CSV, under `out/tasks/name`, made once.

    Columns `smiles`, and if there are any `id` and `split` (train, valid, test), have their meaning; every other column
    of at most 20 different values is a label.

    Raises ValueError for a modality that no local encoder makes, a CSV without labels, and as `embed` and `pack` do.
    """
    unknown = [modality for modality in encoders if modality not in ENCODERS]
    if unknown:
        raise ValueError(
            f"task {name}: the model's modality {unknown[0]} has no local encoder, allowed for a CSV are "
            f"{', '.join(ENCODERS)}; pack the task's own embeddings instead"
        )
    header = _header(path)
    molecules = read_molecules(path, smiles_column="smiles", id_column="id" if "id" in header else None)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    known = {"id", "smiles", "split"}
    labels = [c for c in header if c not in known and len({row[c] for row in rows if row[c]}) <= MAX_CLASSES]
    if not labels:
        raise ValueError(f"{path}: no label column, allowed is one with at most {MAX_CLASSES} different values")
    folder = out / "tasks" / name
    modalities = {}
    for encoder in encoders:
        with progress(f"embed {name} with {encoder}") as advance:
            modalities[encoder] = embed(
                molecules.ids,
                molecules.smiles,
                encoder=encoder,
                out=folder / "embeddings" / encoder,
                workers=os.cpu_count() or 1,
                on_bad="absent",
                progress=advance,
            )
    split = ["split"] if "split" in header else []
    with (folder / "table.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "smiles", *labels, *split])
        for identity, smiles, row in zip(molecules.ids, molecules.smiles, rows, strict=True):
            writer.writerow([identity, smiles, *(row[column] for column in (*labels, *split))])
    inputs = PackInputs(modalities, folder / "table.csv", labels=tuple(labels), split_column="split" if split else None)
    pack(inputs, out=folder / "packed")
    return str(folder / "packed")


def _header(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file), [])
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file, expected a CSV file with a header") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as a UTF-8 CSV file, {error}") from None
