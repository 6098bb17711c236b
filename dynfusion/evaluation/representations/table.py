"""Every line of a report, in the order of its tables."""

from itertools import combinations

import numpy as np
from jaxtyping import Float

from dynfusion.evaluation.representations.axes import principal_axes, random_axes
from dynfusion.evaluation.representations.features import (
    FINGERPRINT,
    FUSED,
    LATE_FUSION,
    PROJECTION_MEAN,
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
    principal, random = principal_axes(pool, dim), random_axes(sum(imputers.dims.values()), dim)
    return lines(imputers, principal, random, structures=structures)


def lines(
    imputers: Imputers,
    principal: Float[np.ndarray, "inputs _"],
    random: Float[np.ndarray, "inputs dim"],
    *,
    structures: bool,
) -> list[Contestant]:
    """The same from its fitted parts. Raises ValueError for a modality that is called as another line is."""
    modalities, dim = imputers.modalities, random.shape[1]
    singles = tuple(Single(name) for name in modalities)
    pairs = [Joined(chosen) for size in range(2, len(modalities)) for chosen in combinations(modalities, size)]
    alone: list[Representation] = [
        *singles,
        *pairs,
        MeanImputed(),
        RidgeImputed(imputers),
        Projected(f"pca-{dim}", principal),
        Projected(f"random-{dim}", random),
        *([Fingerprint()] if structures else []),
    ]
    taken = [*(one.name for one in alone), LATE_FUSION, FUSED, PROJECTION_MEAN]
    twice = [name for name in modalities if taken.count(name) > 1]
    if twice:
        raise ValueError(
            f"modality {twice[0]}: another line of an evaluation is called so, allowed is any name but "
            f"{', '.join(name for name in dict.fromkeys([*taken, FINGERPRINT]) if name not in modalities)}"
        )
    return [*(Contestant(one.name, (one,)) for one in alone), Contestant(LATE_FUSION, singles)]
