"""A CSV with SMILES and labels as a task: embedded with the model's own encoders and packed."""

import csv
from collections.abc import Sequence
from pathlib import Path

from dynfusion.encoders.embed import ENCODERS
from dynfusion.encoders.folder import read_folder
from dynfusion.encoders.molecule_table import read_molecules
from dynfusion.encoders.molecules import Molecules
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs
from dynfusion.verbs.display import console
from dynfusion.verbs.embed import embed_with_all

BINARY = ({"0", "1"}, {"0.0", "1.0"})


def pack_csv(name: str, path: Path, *, encoders: tuple[str, ...], out: Path, labels: Sequence[str] = ()) -> str:
    """The packed dataset of a CSV, under `out/tasks/name`, made once.

    Columns `smiles`, and if there are any `id` and `split` (train, valid, test), have their meaning. Without `labels`
    the one other column of 0, 1 and gaps is the label.

    Raises ValueError for a modality that no local encoder makes, a label column that is missing, labels that cannot be
    told, and as `embed` and `pack` do.
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
    labels = _labels(path, header, rows, labels)
    console.print(f"task {name}: labels {', '.join(labels)}")
    folder = out / "tasks" / name
    modalities = embed_with_all(name, molecules, encoders, out=folder / "embeddings")
    _say_unreadable(name, molecules, read_folder(next(iter(modalities.values()))).groups)
    split = ["split"] if "split" in header else []
    with (folder / "table.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "smiles", *labels, *split])
        for identity, smiles, row in zip(molecules.ids, molecules.smiles, rows, strict=True):
            writer.writerow([identity, smiles, *(row[column] for column in (*labels, *split))])
    inputs = PackInputs(modalities, folder / "table.csv", labels=tuple(labels), split_column="split" if split else None)
    pack(inputs, out=folder / "packed")
    return str(folder / "packed")


def _labels(path: Path, header: list[str], rows: list[dict[str, str]], named: Sequence[str]) -> list[str]:
    for column in named:
        if column not in header:
            raise ValueError(f"{path}: no column {column!r} for --labels, it has {', '.join(header)}")
    if named:
        return list(named)
    others = [column for column in header if column not in ("id", "smiles", "split")]
    binary = [column for column in others if {row[column] for row in rows} - {""} in BINARY]
    if len(binary) != 1:
        found = f"{len(binary)} columns of 0 and 1" + (f" ({', '.join(binary[:5])})" if binary else "")
        raise ValueError(f"{path}: found {found} beside id, smiles and split, so name the labels with --labels A,B")
    return binary


def _say_unreadable(name: str, molecules: Molecules, groups: Sequence[str]) -> None:
    """A molecule that cannot be read stays in its task, with nothing present; the person is told."""
    rows = [row for row, group in enumerate(groups, start=1) if not group]
    if rows:
        console.print(
            f"task {name}: {len(rows)} of {len(molecules)} SMILES cannot be read, the first is row {rows[0]} "
            f"({molecules.smiles[rows[0] - 1]!r}); with nothing present they are scored by the training prior"
        )


def _header(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file), [])
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file, expected a CSV file with a header") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as a UTF-8 CSV file, {error}") from None
