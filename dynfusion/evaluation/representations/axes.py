"""Fixed linear maps of the concatenation, as wide as the fused embedding: principal axes of the pool, random axes."""

import numpy as np
from jaxtyping import Float
from scipy.linalg import eigh
from threadpoolctl import threadpool_limits

from dynfusion.evaluation.representations.imputers import Pool


def principal_axes(pool: Pool, dim: int) -> Float[np.ndarray, "inputs outputs"]:
    """The `dim` leading principal axes of the standardised pool rows, absent ones at the mean.

    Same numbers on any number of cores; the largest entry of an axis is positive.
    """
    rows = np.concatenate([pool.values[name] for name in pool.modalities], axis=1)[pool.trained]
    width = rows.shape[1]
    with threadpool_limits(limits=1):
        centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
        chosen = [max(width - dim, 0), width - 1]
        _, vectors = eigh(centred.T @ centred, subset_by_index=chosen, overwrite_a=True, check_finite=False)
    axes = vectors[:, ::-1]
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])]
    return np.ascontiguousarray(axes * np.sign(largest), dtype=np.float32)


def random_axes(width: int, dim: int) -> Float[np.ndarray, "inputs outputs"]:
    """Independent normal entries of variance 1 / `dim` (Johnson and Lindenstrauss 1984)."""
    return (np.random.default_rng(0).normal(size=(width, dim)) / np.sqrt(dim)).astype(np.float32)
