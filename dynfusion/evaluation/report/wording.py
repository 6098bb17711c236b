"""The report in words: sentences made from its numbers, and what its terms mean."""

from collections.abc import Mapping, Sequence
from typing import Any

from dynfusion.evaluation.report.curves import ALL_PRESENT
from dynfusion.evaluation.representations.features import CONCAT_MEAN, CONCAT_RIDGE, FUSED

NAMES = {
    CONCAT_MEAN: "mean-imputed concatenation",
    CONCAT_RIDGE: "ridge-imputed concatenation",
    FUSED: "fused",
}
METRIC_NAMES = {"roc_auc": "ROC-AUC", "pr_auc": "PR-AUC"}
GLOSSARY = (
    (
        "ROC-AUC",
        "Chance that a random positive molecule is scored above a random negative one: 0.5 is guessing, 1 is perfect. "
        "Several labels: mean over those with both classes. Classes: mean of each against the rest.",
    ),
    ("PR-AUC", "Area under the precision-recall curve (average precision); guessing gives the share of positives."),
    (
        "All present, one absent, ...",
        "How many modalities are hidden in the test molecules, averaged over every way of choosing them. “Any absent” "
        "averages over all of these subsets. Molecules lack some modalities by nature as well; these stay lacking.",
    ),
    (
        "Fused",
        "The fusion model's embedding of whatever is visible. The model never saw a label, and the head fitted on it "
        "never saw a hidden modality.",
    ),
    (
        "Mean-imputed, ridge-imputed concatenation",
        "All modalities side by side; an invisible one is replaced by its mean, or by a linear prediction from the "
        "visible ones, fitted on the same pool of molecules as the fusion model.",
    ),
    (
        "Interval [low, high]",
        "What remains when the test molecules are drawn again, many times. Differences are paired: both sides are "
        "scored on the same draws. A value is bold when its interval of difference from the next best excludes zero; "
        "values marked ≈ cannot be told apart from the best.",
    ),
    (
        "Skill over mean, over ridge",
        "1 − (squared error of the model / squared error of the rival). 1 is perfect, 0 is level, negative is worse. "
        "The rivals are the pool's mean and ridge regression from the same visible modalities.",
    ),
    (
        "Cosine and centred cosine",
        "Mean cosine between true and reconstructed embedding, raw and after the pool's mean is taken away. Raw cosine "
        "can be high for a constant.",
    ),
    ("Hidden rate", "Share of present modalities that training hides on purpose, so that it learns to do without."),
    ("Attention share", "Mean weight of a modality in the fused embedding where it is visible beside another."),
    ("Gate", "How far the model opens a modality's features, 0 to 1, averaged."),
)


def any_absent_column(columns: Sequence[str]) -> str:
    """The column over all subsets with something absent: the last one."""
    return columns[-1]


def find_comparison(report: Mapping[str, Any], *, against: str, column: str) -> Mapping[str, Any] | None:
    """The ROC-AUC difference of the first fused model over all tasks, or None."""
    for record in report["comparisons"]:
        wanted = (record["metric"], record["task"], record["against"], record["column"])
        if wanted == ("roc_auc", None, against, column):
            return record
    return None


def summary(report: Mapping[str, Any]) -> list[str]:
    """Plain sentences from the numbers, the headline first; none when there is nothing to compare."""
    if not report["tables"]:
        return []
    columns = report["tables"][0]["columns"]
    sentences = []
    for against in (CONCAT_MEAN, CONCAT_RIDGE):
        found = find_comparison(report, against=against, column=any_absent_column(columns))
        if len(columns) > 1 and found is not None:
            where = "over the subsets with something missing"
            sentences.append(f"{_verdict(found)} {where}.")
    found = find_comparison(report, against=CONCAT_MEAN, column=ALL_PRESENT)
    if found is not None:
        dims = report["dims"]
        widths = f"{dims.get(found['representation'])} against {dims.get(CONCAT_MEAN)} dimensions"
        sentences.append(f"With all modalities present, {_verdict(found, 'concatenation')} ({widths}).")
    return sentences


def _verdict(found: Mapping[str, Any], name: str | None = None) -> str:
    ours, other = found["representation"], name or NAMES.get(found["against"], found["against"])
    if found["difference"] is None or found["low"] is None:
        return f"{ours} cannot be compared with {other}"
    numbers = f"[{found['low']:+.3f}, {found['high']:+.3f}]"
    size = abs(found["difference"])
    if found["tie"]:
        return f"{ours} is level with {other} (difference {found['difference']:+.3f} {numbers})".replace("-0.", "−0.")
    verb = "beats" if found["difference"] > 0 else "loses to"
    bounds = sorted((abs(found["low"]), abs(found["high"])))
    return f"{ours} {verb} {other} by {size:.3f} [{bounds[0]:.3f}, {bounds[1]:.3f}] ROC-AUC"
