"""Whether the heads' probabilities stay true when modalities disappear."""

from collections.abc import Iterable

from dynfusion.evaluation.protocol.outcome import TaskOutcome
from dynfusion.evaluation.report.curves import Record
from dynfusion.evaluation.scores.calibration import brier, calibration_error, confidence
from dynfusion.evaluation.scores.resampling import once

MEASURES = {"brier": brier, "ece": calibration_error, "confidence": confidence}
LINEAR = "linear"


def calibration_records(outcomes: Iterable[TaskOutcome]) -> list[Record]:
    """One record for every binary task, representation and visible subset, on the given split with the linear probe.

    `brier`: mean squared error of the probabilities; `ece`: their mean distance from the share of positives among 15
    bins of equal mass; both 0 for perfect ones. `confidence`: mean probability of the likelier side, 0.5..1; it should
    not rise as modalities are removed.
    """
    records = []
    for outcome in outcomes:
        labels = outcome.test_labels
        if outcome.kind != "binary" or labels is None:
            continue
        for result in outcome.results:
            group = result.group
            plain = group.section in ("folds", "given") and group.fitting == "transferred" and group.probe == LINEAR
            if plain and group.fold == outcome.given_split:
                for pattern, scores in zip(group.patterns, result.scores, strict=True):
                    found = {name: float(of(scores, labels, once(len(labels)))[0]) for name, of in MEASURES.items()}
                    place = {"section": group.section, "task": outcome.name, "representation": group.representation}
                    records.append({**place, "visible": list(pattern.visible), **found})
    return records
