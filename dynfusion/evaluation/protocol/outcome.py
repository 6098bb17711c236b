"""What is left of one task when its groups are finished: numbers, and no embeddings of the molecules."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from dynfusion.evaluation.protocol.groups import GroupResult
from dynfusion.evaluation.tasks.task import Kind

Record = Mapping[str, object]


@dataclass(frozen=True)
class TaskOutcome:
    """One task of the report."""

    name: str
    kind: Kind
    label_names: tuple[str, ...]
    class_names: tuple[str, ...]
    given_split: str
    """"given", or "hashed" where the task has no split column."""
    folds: int
    """How many folds the section `folds` has; 1 where it is the given split itself."""
    repeats: int
    molecules: Mapping[str, int]
    """By part of the given split."""
    in_no_part: int
    """Molecules whose row of the split column is empty: nothing is fitted on or scored with them, folds included."""
    present: Mapping[str, float]
    """Share of molecules that have the modality, 0..1."""
    nothing_present_test: int
    base_rate: float | None
    """Share of positives among the known labels, None unless the labels are binary."""
    leaks: tuple[Record, ...]
    results: tuple[GroupResult, ...]
    reconstruction: tuple[Record, ...]
    alignment: tuple[Record, ...]
    collapse: tuple[Record, ...]
    labels_known: Mapping[str, float]
    """Share of known labels by part of the given split, 0..1."""
    undefined_draws: float = 0.0
    """Share of (label, resample) pairs of the given split's test molecules that have one class only, 0..1."""
    test_labels: Float[np.ndarray, "molecules labels"] | None = None
    """Of the given split's test molecules, in the order of their scores; None where nobody asks whether the heads'
    probabilities are true."""
