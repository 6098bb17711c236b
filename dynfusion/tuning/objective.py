"""What a sweep makes as good as it can: numbers put together from a validation's metrics, and never from a test row.

    validation's metrics {"over_ridge": .21, "probe": .78, ...} --objectives_of--> {"score": .99}
    names, tasks --describe--> the line that is printed and kept in sweep.json

To add one: a row here, of what it is and of the metrics that it is the sum of.
"""

from collections.abc import Collection, Mapping, Sequence

from dynfusion.evaluation.validation_settings import ValidationSettings
from dynfusion.settings import nearest
from dynfusion.store.manifest import Manifest

OBJECTIVES: Mapping[str, str] = {
    "score": "reconstruction skill over ridge regression, plus the probe's ROC-AUC where validation.tasks are named",
    "all_present": "the probe's ROC-AUC with all modalities present",
    "one_absent": "the probe's ROC-AUC with one modality absent, mean over which",
    "reconstruction": "reconstruction skill over ridge regression, mean over visible subsets",
    "probe": "the probe's ROC-AUC, mean over all present and each modality absent",
}
METRICS: Mapping[str, tuple[str, ...]] = {
    "score": ("over_ridge", "probe"),
    "all_present": ("probe_all",),
    "one_absent": ("probe_one_absent",),
    "reconstruction": ("over_ridge",),
    "probe": ("probe",),
}
"""What each is the sum of."""
OPTIONAL = {"score": "probe"}
"""What is left out of a sum where there is none."""
_SKILL = "mean over visible subsets of the reconstruction skill over ridge regression on{rows} held-out molecules"
_PHRASES = {
    "over_ridge": _SKILL,
    "probe": "the probe's mean ROC-AUC on the validation rows of {tasks}",
    "probe_all": "the probe's ROC-AUC with all modalities present on the validation rows of {tasks}",
    "probe_one_absent": "the probe's mean ROC-AUC with one modality absent on the validation rows of {tasks}",
}


def describe(names: Sequence[str], tasks: Collection[str], *, rows: int | None = None) -> str:
    """What is made as good as possible, in one line; of several objectives each with its name.

    `tasks` are the names of `validation.tasks`, `rows` how many held-out molecules are looked at. Raises ValueError as
    `check_names` does.
    """
    check_names(names)
    values = {"tasks": ", ".join(tasks) or "no task", "rows": "" if rows is None else f" {rows:,}"}
    parts = []
    for name in names:
        left_out = OPTIONAL.get(name) if not tasks else None
        phrases = [_PHRASES[metric].format(**values) for metric in METRICS[name] if metric != left_out]
        text = ", plus ".join(phrases) + (", without a probe since no validation.tasks are named" if left_out else "")
        parts.append(f"{name}: {text}" if len(names) > 1 else text)
    return "; ".join([*parts, "no test row is read"])


def objectives_of(metrics: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """The objectives of one check, more is better; `score` of a check without a probe is the skill alone.

    Raises ValueError naming the metric that is lacking, and what would bring it.
    """
    found = {}
    for name in names:
        wanted = [metric for metric in METRICS[name] if metric in metrics or metric != OPTIONAL.get(name)]
        for metric in wanted:
            if metric not in metrics:
                raise ValueError(f"objective {name}: the validation has no {metric}, it comes from {_source(metric)}")
        found[name] = sum(metrics[metric] for metric in wanted)
    return found


def check_objectives(names: Sequence[str], settings: ValidationSettings, manifest: Manifest) -> None:
    """Whether every check of a run with these settings and data can compute the objectives, its reference apart.

    Raises ValueError for names as `check_names` does, and naming the objective that cannot be computed and what would
    bring it.
    """
    check_names(names)
    if settings.every_checkpoints == 0:
        raise ValueError("validation.every_checkpoints: found 0, which never gives a number to search by, leave it out")
    for name in names:
        needed = [metric for metric in METRICS[name] if metric != OPTIONAL.get(name)]
        for metric in needed:
            if not _computable(metric, settings, manifest):
                raise ValueError(
                    f"objective {name}: it needs {_source(metric)}; found {manifest.holdout_rows} held-out rows, "
                    f"{len(manifest.modalities)} modalities and {len(settings.tasks)} tasks"
                )


def check_names(names: Sequence[str]) -> None:
    """Raises ValueError unless these are objectives, one or more, each once."""
    if not names:
        raise ValueError(f"objectives: found none, allowed are {', '.join(OBJECTIVES)}")
    for name in names:
        if name not in OBJECTIVES:
            raise ValueError(f"objectives: found {name!r}, {nearest(name, list(OBJECTIVES))}")
    if len(set(names)) < len(names):
        raise ValueError(f"objectives: found {', '.join(names)}, allowed is each of them once")


def _computable(metric: str, settings: ValidationSettings, manifest: Manifest) -> bool:
    several = len(manifest.modalities) > 1
    if metric == "over_ridge":
        return several and manifest.holdout_rows > 0
    return bool(settings.tasks) and (several or metric != "probe_one_absent")


def _source(metric: str) -> str:
    """What brings a metric."""
    if metric == "over_ridge":
        return (
            "held-out rows of two or more modalities, `dynfusion pack --holdout 0.01`, and the reference that a sweep "
            "makes of them, validation.reference"
        )
    several = " of two or more modalities" if metric == "probe_one_absent" else ""
    return f"validation.tasks, name = address of a packed labelled set{several}"
