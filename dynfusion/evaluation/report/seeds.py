"""Training runs of one fusion model that differ by their seed become one line: bootstrap nested in seeds.

Every resample of the molecules draws as many runs as there are, with replacement, and averages what they score. The
draws are the same for all tasks and folds and for all lines of one fusion model, since a run is one model for all of
them, and independent between fusion models, whose runs have nothing in common; what needs no fusion model has one run,
which every draw hits. So a difference's interval contains the spread between runs as far as
they show it: with few runs it is still too narrow, three show two thirds of their variance.
"""

import zlib
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from dynfusion.evaluation.protocol.groups import CellGroup, GroupResult


def over_seeds(results: Iterable[GroupResult], *, seed: int) -> tuple[GroupResult, ...]:
    """Groups that differ by their training run only as one group each, in the order of the first; `seed` draws runs.

    The scores are those of the first run.
    """
    runs: dict[CellGroup, list[GroupResult]] = {}
    for result in results:
        runs.setdefault(replace(result.group, seed=0, key=""), []).append(result)
    return tuple(found[0] if len(found) == 1 else _merged(found, seed) for found in runs.values())


def _merged(runs: list[GroupResult], seed: int) -> GroupResult:
    resampled = {}
    for metric, first in runs[0].resampled.items():
        shares = drawn_shares(len(runs), first.shape[-1], seed=seed, model=str(runs[0].group.model))
        stacked = np.stack([run.resampled[metric] for run in runs])
        resampled[metric] = np.einsum("spr,sr->pr", stacked, shares)
    return replace(runs[0], resampled=resampled)


def drawn_shares(runs: int, resamples: int, *, seed: int, model: str) -> Float[np.ndarray, "runs resamples"]:
    """Weight of every run in every resample; in the first, which is the value itself, all weigh the same."""
    draws = np.random.default_rng([seed, zlib.crc32(model.encode()), runs]).integers(0, runs, (resamples, runs))
    shares = np.stack([(draws == run).mean(axis=1) for run in range(runs)])
    shares[:, 0] = 1 / runs
    return shares
