"""The rows that rival imputers are fitted on: the fusion model's own training data."""

import numpy as np

from dynfusion.evaluation.representations.imputers import Pool, Statistics, hold_rows, standardise_present
from dynfusion.store.dataset import Dataset, Rows


def read_pool(dataset: Dataset, *, modalities: tuple[str, ...], statistics: Statistics, max_rows: int) -> Pool:
    """Training rows and held-out rows behind them, at most `max_rows` of each, evenly spaced over the (shuffled) pack.

    Raises ValueError when the pool does not have exactly these modalities.
    """
    found = tuple(spec.name for spec in dataset.manifest.modalities)
    if set(found) != set(modalities):
        raise ValueError(
            f"pool {dataset.uri}: its modalities are {', '.join(found)}, "
            f"allowed are the model's: {', '.join(modalities)}"
        )
    chosen = _evenly_spaced(dataset.manifest.rows, max_rows)
    parts = [
        dataset.read("train", chosen),
        dataset.read("holdout", _evenly_spaced(dataset.manifest.holdout_rows, max_rows)),
    ]
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


def _evenly_spaced(total: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, total - 1, min(total, most)).astype(np.int64))


def _joined(parts: list[Rows], name: str) -> np.ndarray:
    return np.concatenate([part.values[name] for part in parts])
