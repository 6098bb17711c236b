"""Every line of a report, in the order of its tables."""

from itertools import combinations

from dynfusion.evaluation.representations.axes import principal_axes, random_axes
from dynfusion.evaluation.representations.features import (
    LATE_FUSION,
    Contestant,
    Fingerprint,
    Joined,
    MeanImputed,
    Projected,
    Representation,
    RidgeImputed,
    Single,
)
from dynfusion.evaluation.representations.imputers import Imputers, Pool


def rivals(imputers: Imputers, pool: Pool, *, dim: int, structures: bool) -> list[Contestant]:
    """What a fusion model of width `dim` is compared with; ECFP where the molecules' structures are known."""
    modalities = imputers.modalities
    singles = tuple(Single(name) for name in modalities)
    width = sum(imputers.dims.values())
    pairs = [Joined(chosen) for size in range(2, len(modalities)) for chosen in combinations(modalities, size)]
    alone: list[Representation] = [
        *singles,
        *pairs,
        MeanImputed(),
        RidgeImputed(imputers),
        Projected(f"pca-{dim}", principal_axes(pool, dim)),
        Projected(f"random-{dim}", random_axes(width, dim)),
        *([Fingerprint()] if structures else []),
    ]
    return [*(Contestant(one.name, (one,)) for one in alone), Contestant(LATE_FUSION, singles)]
