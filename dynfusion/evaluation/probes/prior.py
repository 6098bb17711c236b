"""What is said of a molecule about which nothing is known."""

import numpy as np
from jaxtyping import Float

from dynfusion.evaluation.probes.labelled import ProbeTask


def prior(labels: Float[np.ndarray, "rows labels"], target: ProbeTask) -> Float[np.ndarray, " outputs"]:
    """Share of every class, or mean of every label, among known training labels.

    A label of which nothing is known is said to be 0.5 where it is binary and 0 where it is a real number.
    """
    if target.kind == "multiclass":
        known = labels[~np.isnan(labels[:, 0]), 0]
        return np.bincount(known.astype(int), minlength=target.classes) / max(len(known), 1)
    unknown = 0.5 if target.kind == "binary" else 0.0
    return np.array(
        [column[~np.isnan(column)].mean() if not np.isnan(column).all() else unknown for column in labels.T]
    )
