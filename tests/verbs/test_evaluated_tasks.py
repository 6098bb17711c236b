"""What cannot be a task of a model is refused before any work."""

from pathlib import Path

import pytest

from dynfusion.evaluation.settings import EvaluationSettings, SplitSettings
from dynfusion.verbs.evaluated_tasks import check_task
from tests.datasets import DIMS, packed

GIVEN = EvaluationSettings(split=SplitSettings(kind="given"))


def test_modalities_and_smiles_are_asked_for_before_anything_is_fitted(tmp_path: Path) -> None:
    uri = packed(tmp_path, rows=60).uri
    check_task("t", uri, {name: DIMS[name] for name in reversed(DIMS)}, GIVEN)
    check_task("t", uri, DIMS, EvaluationSettings(extent="quick"))
    with pytest.raises(
        ValueError, match=r"task t: .* has the modalities a 12, b 20, c 16, allowed are the model's: a 12"
    ):
        check_task("t", uri, {"a": 12}, GIVEN)
    with pytest.raises(ValueError, match=r"task t: .* has no SMILES, .*allowed is evaluation\.split\.kind=given"):
        check_task("t", uri, DIMS, EvaluationSettings())
