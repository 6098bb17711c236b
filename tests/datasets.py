"""Small packed data sets with structure: three modalities that share latent factors, some cells absent."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dynfusion.store.dataset import Dataset, open_dataset
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs, PackSettings

DIMS = {"a": 12, "b": 20, "c": 16}


def write_folders(
    folder: Path, *, rows: int, seed: int = 0, absent: float = 0.15, dims: Mapping[str, int] = DIMS
) -> dict[str, Path]:
    """Folders as `embed` writes them; a row of NaN is absent, and no row is absent everywhere."""
    draw = np.random.default_rng(seed)
    factors = draw.normal(size=(rows, 5))
    lost = draw.random((rows, len(dims))) < absent
    lost[lost.all(axis=1), 0] = False
    made = {}
    for column, (name, dim) in enumerate(dims.items()):
        values = factors @ draw.normal(size=(5, dim)) + 0.3 * draw.normal(size=(rows, dim))
        values[lost[:, column]] = np.nan
        made[name] = folder / name
        made[name].mkdir(parents=True)
        np.save(made[name] / "embeddings.npy", values.astype(np.float16))
        (made[name] / "ids.txt").write_text("".join(f"m{row}\n" for row in range(rows)))
    return made


def packed(
    folder: Path, *, rows: int = 700, seed: int = 0, holdout: float = 0.0, dims: Mapping[str, int] = DIMS
) -> Dataset:
    """A packed data set of such molecules."""
    folders = write_folders(folder / "embeddings", rows=rows, seed=seed, dims=dims)
    pack(PackInputs(folders), out=folder / "packed", settings=PackSettings(holdout=holdout))
    return open_dataset(folder / "packed")
