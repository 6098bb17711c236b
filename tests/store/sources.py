"""Small sources to pack: random vectors with a share of absent rows, ids of their own."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dynfusion.store.dataset import Dataset, open_dataset
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs, PackSettings

DIMS = {"tall": 6, "odd": 5, "wide": 16}


def vectors(rows: int, dim: int, *, seed: int, absent: float = 0.2) -> np.ndarray:
    """Normal float16 numbers; about a share `absent` of the rows is NaN, never the first."""
    random = np.random.default_rng(seed)
    values = random.standard_normal((rows, dim)).astype(np.float16)
    values[np.flatnonzero(random.random(rows) < absent)[1:]] = np.nan
    return values


def write_folder(folder: Path, values: np.ndarray, ids: Sequence[str]) -> Path:
    """A folder as `embed` writes it."""
    folder.mkdir(parents=True)
    np.save(folder / "embeddings.npy", values)
    (folder / "ids.txt").write_text("".join(f"{name}\n" for name in ids), encoding="utf-8")
    (folder / "encoder.txt").write_text("random numbers, version 1\n", encoding="utf-8")
    return folder


def write_sources(folder: Path, rows: int) -> dict[str, Path]:
    """Three modalities of the same molecules."""
    ids = [f"m{number:06d}" for number in range(rows)]
    return {
        name: write_folder(folder / name, vectors(rows, dim, seed=number), ids)
        for number, (name, dim) in enumerate(DIMS.items())
    }


def packed(folder: Path, rows: int, settings: PackSettings | None = None) -> Dataset:
    """A packed dataset of so many molecules (a few fewer where nothing is present)."""
    pack(PackInputs(write_sources(folder / "sources", rows)), out=folder / "packed", settings=settings)
    return open_dataset(folder / "packed")
