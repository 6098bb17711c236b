"""What is lost when modalities are absent, as single numbers.

Every function works inside each bootstrap resample (the last axis), so `interval` of what comes back is the interval of
the number itself. None of them depends on which other representations are in a table.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import factorial

import numpy as np
from jaxtyping import Float


def relative_drop(
    full: Float[np.ndarray, "*cells"], hidden: Float[np.ndarray, "*cells"], *, higher_is_better: bool = True
) -> Float[np.ndarray, "*cells"]:
    """Per cent of the metric with everything present that is lost: 100 (full - hidden) / full, 0 nothing, 100 all.

    For an error (lower is better) it is the per cent by which it grows. NaN where `full` is not positive. A metric
    whose chance is not 0 can never lose 100 %: 0.80 to 0.70 is 12.5 % here, and a third of what was above chance.

    Source: the paper's Figure 2.
    """
    lost = full - hidden if higher_is_better else hidden - full
    return 100 * _quotient(lost, full, full > 0)


def chance_corrected_drop(
    full: Float[np.ndarray, "*cells"],
    hidden: Float[np.ndarray, "*cells"],
    chance: float | Float[np.ndarray, "*cells"],
    *,
    higher_is_better: bool = True,
) -> Float[np.ndarray, "*cells"]:
    """Per cent of what was better than chance that is lost: 100 (full - hidden) / (full - chance).

    100 is a fall to chance, more a fall below it. NaN where `full` is no better than chance; where it is hardly
    better the quotient is large and its interval wide, as it should be.
    """
    gained = full - chance
    return 100 * _quotient(full - hidden, gained, gained > 0 if higher_is_better else gained < 0)


def curve_area(
    values: Float[np.ndarray, "levels *cells"], levels: Float[np.ndarray, "levels"]
) -> Float[np.ndarray, "*cells"]:
    """Area under the metric over the share of what is absent, divided by the range: reads as a mean metric.

    Source: relative robustness of MultiBench (Liang et al. 2021, eval_scripts/robustness.py), a trapezoid sum; divided
    here by the range of levels, and without its normalisation over the methods of a table.

    Raises ValueError where levels are fewer than two or do not ascend.
    """
    if len(levels) < 2 or not (np.diff(levels) > 0).all():
        raise ValueError(f"levels: found {np.round(levels, 4).tolist()}, allowed are two or more that ascend")
    steps = np.diff(levels).reshape(-1, *[1] * (values.ndim - 1))
    return (steps * (values[1:] + values[:-1]) / 2).sum(axis=0) / (levels[-1] - levels[0])


def effective_robustness(
    values: Float[np.ndarray, "levels *cells"], late_fusion: Float[np.ndarray, "levels *cells"]
) -> Float[np.ndarray, "*cells"]:
    """How much less is lost than by late fusion: mean over levels of f_i - (LF_i + f_0 - LF_0); 0 for late fusion.

    In units of the metric; positive is more robust where higher is better. Level 0 is the first, nothing absent.

    Source: effective robustness of MultiBench (Liang et al. 2021, eval_scripts/robustness.py), divided here by the
    number of levels, and without its normalisation over the methods of a table.
    """
    return (values - values[0] - (late_fusion - late_fusion[0])).mean(axis=0)


def worst_subset(
    values: Float[np.ndarray, "subsets resamples"], *, higher_is_better: bool = True
) -> tuple[int, Float[np.ndarray, "resamples"]]:
    """Number of the subset that is worst in the sample, and the worst value of every resample.

    The worst is looked for again in every resample, as it was in the sample, so the interval covers the choice too
    (and lies a little towards the bad side where several subsets are level).
    """
    worst = values.min(axis=0) if higher_is_better else values.max(axis=0)
    first = values[:, 0]
    return int(np.argmin(first) if higher_is_better else np.argmax(first)), worst


def shapley(
    values: Mapping[frozenset[str], Float[np.ndarray, "*cells"]], modalities: Sequence[str]
) -> dict[str, Float[np.ndarray, "*cells"]]:
    """What each modality adds to the metric, averaged over all orders in which modalities could arrive.

    `values` has every subset of the modalities; the empty one holds the metric of a constant, chance. The parts add up
    to the metric of all modalities less chance. Descriptive only where absence is not at random.

    Source: Shapley (1953), A Value for n-Person Games; exact, over all 2^M subsets.

    Raises ValueError where a subset is missing.
    """
    count = len(modalities)
    subsets = [frozenset(chosen) for size in range(count + 1) for chosen in combinations(modalities, size)]
    missing = [subset for subset in subsets if subset not in values]
    if missing:
        named = " + ".join(sorted(missing[0])) or "nothing"
        raise ValueError(f"values: found none for {named}, {len(subsets)} subsets of {count} modalities are needed")
    found = {}
    for modality in modalities:
        parts = [
            factorial(len(subset)) * factorial(count - len(subset) - 1) * (values[subset | {modality}] - values[subset])
            for subset in subsets
            if modality not in subset
        ]
        found[modality] = np.sum(parts, axis=0) / factorial(count)
    return found


def _quotient(top: np.ndarray, bottom: np.ndarray, defined: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.full(np.shape(bottom), np.nan), where=defined)
