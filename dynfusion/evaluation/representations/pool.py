"""The rows that rival imputers are fitted on: the fusion model's own training data."""

import numpy as np

from dynfusion.evaluation.representations.imputers import Pool, Statistics, hold_rows, standardise_present
from dynfusion.store.dataset import Dataset, Rows


def read_pool(dataset: Dataset, *, modalities: tuple[str, ...], statistics: Statistics, max_rows: int) -> Pool:
    """At most `max_rows` training rows, evenly spaced over the (shuffled) pack, and its held-out rows behind them.

    Raises ValueError when the pool does not have exactly these modalities.
    """
    found = tuple(spec.name for spec in dataset.manifest.modalities)
    if set(found) != set(modalities):
        raise ValueError(
            f"pool {dataset.uri}: its modalities are {', '.join(found)}, "
            f"allowed are the model's: {', '.join(modalities)}"
        )
    total = dataset.manifest.rows
    chosen = np.unique(np.linspace(0, total - 1, min(total, max_rows)).astype(np.int64))
    parts = [dataset.read("train", chosen), dataset.read("holdout")]
    columns = [found.index(name) for name in modalities]
    present = np.concatenate([part.present for part in parts])[:, columns]
    values = {name: _joined(parts, name) for name in modalities}
    return Pool(
        modalities=tuple(modalities),
        values=standardise_present(values, present, modalities=tuple(modalities), statistics=statistics),
        present=present,
        held=hold_rows(len(present), len(parts[1].present)),
        trained=np.arange(len(present)) < len(chosen),
    )


def _joined(parts: list[Rows], name: str) -> np.ndarray:
    return np.concatenate([part.values[name] for part in parts])
