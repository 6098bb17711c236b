"""Embeddings of real molecules from pretrained encoders that are not part of the product, as `pack` reads them.

    python -m tests.bench.embed_pretrained ENCODERS MOLECULES OUT [--molecules 200000]

ENCODERS holds `embed.py` with `load(name).embed(list of SMILES) -> float32 [molecules, dim]`, zeros where it failed,
for smiles, selfies and graph. MOLECULES is a text of SMILES, one a line, .gz or not, drawn from in a fixed random
order; or a folder of train.csv, valid.csv and test.csv, taken whole. OUT gets a folder for each encoder and table.csv.
"""

import argparse
import csv
import gzip
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

ENCODERS = ("smiles", "selfies", "graph")
CHUNK = 8192


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoders", type=Path)
    parser.add_argument("molecules", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--molecules", dest="number", type=int, default=200_000)
    arguments = parser.parse_args()
    table = (
        read_csvs(arguments.molecules) if arguments.molecules.is_dir() else draw(arguments.molecules, arguments.number)
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    encoders = load_module(arguments.encoders / "embed.py")
    for name in ENCODERS:
        embed(encoders.load(name), table, arguments.out / name)


def draw(path: Path, number: int) -> list[dict[str, Any]]:
    """`number` molecules of a text, in the order of a fixed permutation."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        smiles = [line.split()[0] for line in file if line.strip()]
    chosen = np.random.default_rng(0).permutation(len(smiles))[:number]
    return [{"id": str(row), "smiles": smiles[row]} for row in chosen]


def read_csvs(folder: Path) -> list[dict[str, Any]]:
    """The rows of a given split, every column but the SMILES kept as it is."""
    table = []
    for split in ("train", "valid", "test"):
        with (folder / f"{split}.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                smiles = next(row.pop(name) for name in list(row) if name.lower() in ("smiles", "mol"))
                table.append({"id": str(len(table)), "smiles": smiles, "split": split, **row})
    return table


def embed(encoder: Any, table: list[dict[str, Any]], out: Path) -> None:
    """A folder that `dynfusion pack --modality NAME=FOLDER --zero-rows absent` reads."""
    if (out / "ids.txt").exists():
        return
    out.mkdir(exist_ok=True)
    smiles = [row["smiles"] for row in table]
    values = np.concatenate([encoder.embed(smiles[at : at + CHUNK]) for at in range(0, len(smiles), CHUNK)])
    np.save(out / "embeddings.npy", values.astype(np.float16))
    (out / "ids.txt").write_text("".join(f"{row['id']}\n" for row in table), encoding="utf-8")


def load_module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
