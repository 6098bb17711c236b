"""The rows that rival imputers are fitted on: the fusion model's own training data."""

from collections.abc import Sequence

import numpy as np

from dynfusion.evaluation.representations.imputers import Pool, Statistics, hold_rows, standardise_present
from dynfusion.store.dataset import Dataset, Rows
from dynfusion.store.part import Part


def read_pool(
    datasets: Sequence[Dataset], *, modalities: tuple[str, ...], statistics: Statistics, max_rows: int
) -> Pool:
    """Training rows and held-out rows behind them, at most `max_rows` of each, evenly spaced over the (shuffled) packs.

    Raises ValueError when the pool does not have exactly these modalities.
    """
    found = tuple(spec.name for spec in datasets[0].manifest.modalities)
    if set(found) != set(modalities):
        raise ValueError(
            f"pool {datasets[0].uri}: its modalities are {', '.join(found)}, "
            f"allowed are the model's: {', '.join(modalities)}"
        )
    trained = _read(datasets, "train", [dataset.manifest.rows for dataset in datasets], max_rows)
    held = _read(datasets, "holdout", [dataset.manifest.holdout_rows for dataset in datasets], max_rows)
    parts = [*trained, *held]
    columns = [found.index(name) for name in modalities]
    present = np.concatenate([part.present for part in parts])[:, columns]
    values = {name: _joined(parts, name) for name in modalities}
    return Pool(
        modalities=tuple(modalities),
        values=standardise_present(values, present, modalities=tuple(modalities), statistics=statistics),
        present=present,
        held=hold_rows(len(present), sum(len(part.present) for part in held)),
        trained=np.arange(len(present)) < sum(len(part.present) for part in trained),
    )


def _read(datasets: Sequence[Dataset], part: Part, sizes: Sequence[int], most: int) -> list[Rows]:
    """Evenly spaced rows of all data sets laid end to end."""
    chosen = _evenly_spaced(sum(sizes), most)
    starts = np.cumsum([0, *sizes])
    bounds = np.searchsorted(chosen, starts)
    return [
        dataset.read(part, chosen[first:last] - start)
        for dataset, start, first, last in zip(datasets, starts[:-1], bounds[:-1], bounds[1:], strict=True)
    ]


def _evenly_spaced(total: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, total - 1, min(total, most)).astype(np.int64))


def _joined(parts: list[Rows], name: str) -> np.ndarray:
    return np.concatenate([part.values[name] for part in parts])
