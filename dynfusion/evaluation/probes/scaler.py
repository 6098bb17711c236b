"""Mean and scale of features, by scikit-learn."""

import numpy as np
from jaxtyping import Float


def mean_and_scale(
    values: Float[np.ndarray, "rows dim"],
) -> tuple[Float[np.ndarray, " dim"], Float[np.ndarray, " dim"]]:
    """Of every column, in double precision; the scale is 1 where a column is constant.

    Every process of a training run imports the linear probe, and only the one that checks fits it: scikit-learn, half
    of the seconds of a check's imports, is imported by whoever fits.
    """
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(values.astype(np.float64))
    return scaler.mean_, scaler.scale_
