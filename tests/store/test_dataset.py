"""Reading any rows of an opened dataset."""

from pathlib import Path

import numpy as np
import pytest

from tests.datasets import packed


def test_a_mask_chooses_rows_and_must_fit(tmp_path: Path) -> None:
    dataset = packed(tmp_path)
    mask = np.zeros(dataset.manifest.rows, bool)
    mask[[3, 8]] = True
    assert dataset.read("train", mask).row_ids.tolist() == [3, 8]
    with pytest.raises(ValueError, match=r"found a mask of \(3,\)"):
        dataset.read("train", mask[:3])
