import numpy as np
import pytest

from dynfusion.evaluation.probes.prior import prior
from dynfusion.evaluation.probes.probe import ProbeSettings, ProbeTask


def test_the_prior_is_the_share_of_each_class_and_the_mean_of_each_number_among_known_labels():
    gaps = np.array([[1, 0, np.nan], [0, np.nan, np.nan], [1, 1.0, np.nan], [1, 1, np.nan]])
    np.testing.assert_array_equal(prior(gaps, ProbeTask("binary")), [0.75, 2 / 3, 0.5])
    np.testing.assert_array_equal(prior(gaps, ProbeTask("regression")), [0.75, 2 / 3, 0])
    np.testing.assert_array_equal(
        prior(np.array([[0.0], [2], [2], [1]]), ProbeTask("multiclass", 3)), [0.25, 0.25, 0.5]
    )


@pytest.mark.parametrize(
    "wrong",
    [{"inverse_penalties": (1.0, 0.1)}, {"neighbours": (0, 1)}, {"rounds": (50, 50)}, {"inverse_penalties": ()}],
)
def test_a_grid_that_is_empty_out_of_order_or_not_positive_is_refused(wrong):
    with pytest.raises(ValueError, match=r"ascending|at least 1 item"):
        ProbeSettings(**wrong)
