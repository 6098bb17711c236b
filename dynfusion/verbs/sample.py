"""`dynfusion sample`: some rows of a packed dataset, for a person to read."""

from typing import Any

import numpy as np

from dynfusion.edges.datasets import open_dataset
from dynfusion.printable import printable
from dynfusion.store.dataset import Dataset
from dynfusion.store.join import REASON_PREFIX
from dynfusion.store.reasons import Reason

_NUMBERS = 5


def sample(uri: str, *, rows: int = 5, seed: int = 0) -> list[dict[str, Any]]:
    """Print some training rows, drawn by the seed: what is known of each and the first numbers of each vector.

    Raises ValueError when there is no valid dataset, or for less than one row.
    """
    if rows < 1:
        raise ValueError(f"rows: found {rows}, at least 1 is needed")
    dataset = open_dataset(uri)
    found = sample_rows(dataset, rows=rows, seed=seed)
    for row in found:
        known = [printable(f"{name} {value}") for name, value in row["known"].items() if value is not None]
        print(f"row {row['row']}: {', '.join(known)}")
        for name, text in row["modalities"].items():
            print(f"  {name:<{max(map(len, dataset.manifest.names))}}  {text}")
    return found


def sample_rows(dataset: Dataset, *, rows: int, seed: int) -> list[dict[str, Any]]:
    """Rows in ascending order: their number, the sidecar's columns, and one line of text for each modality."""
    manifest = dataset.manifest
    numbers = np.sort(np.random.default_rng(seed).choice(manifest.rows, min(rows, manifest.rows), replace=False))
    read, table = dataset.read("train", numbers), dataset.table("train").take(numbers).to_pylist()
    return [
        {
            "row": int(number),
            "known": {name: value for name, value in known.items() if not name.startswith(REASON_PREFIX)},
            "modalities": {
                name: _vector(read.values[name][place])
                if read.present[place, m]
                else f"absent: {Reason(known[REASON_PREFIX + name]).label}"
                for m, name in enumerate(manifest.names)
            },
        }
        for place, (number, known) in enumerate(zip(numbers, table, strict=True))
    ]


def _vector(values: np.ndarray) -> str:
    exact = values.astype(np.float64)
    first = " ".join(f"{value:.3g}" for value in exact[:_NUMBERS])
    more = f" ... ({len(exact)} numbers, length {np.linalg.norm(exact):.3g})" if len(exact) > _NUMBERS else ""
    return first + more
