"""The composed tree of one run: every settings model beside the code it drives, put together once."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dynfusion.evaluation.settings import EvaluationSettings
from dynfusion.evaluation.validation_settings import ValidationSettings
from dynfusion.fusion.losses import LossSettings
from dynfusion.fusion.masking import MaskingSettings
from dynfusion.fusion.model import ModelSettings
from dynfusion.settings import Settings, build, fingerprint, parse_overrides, read_toml
from dynfusion.training.config import ClusterSettings, DataSettings, EngineSettings, TrackingSettings, TrainSettings
from dynfusion.training.run_folder import Identity


class RunSettings(Settings):
    """Everything a run file may say."""

    data: DataSettings
    model: ModelSettings = ModelSettings()
    loss: LossSettings = LossSettings()
    masking: MaskingSettings = MaskingSettings()
    train: TrainSettings = TrainSettings()
    engine: EngineSettings = EngineSettings()
    cluster: ClusterSettings = ClusterSettings()
    tracking: TrackingSettings = TrackingSettings()
    validation: ValidationSettings = ValidationSettings()
    evaluation: EvaluationSettings = EvaluationSettings()


def read_run(path: str | Path, overrides: Iterable[str] = ()) -> RunSettings:
    """The tree of a run file with the command line's `name=value` on top.

    A run that names no `cluster.name` is called after its file. Raises ValueError naming the first wrong setting.
    """
    name: dict[str, Any] = {"cluster": {"name": Path(path).stem}}
    return build(RunSettings, name, read_toml(path), parse_overrides(overrides))


def identity(settings: RunSettings, data_fingerprint: str) -> Identity:
    """What decides a run's global batches and steps.

    Not where it is kept, how often it is watched and saved, how it is evaluated, nor how many workers share it: with
    another number of them the same global batches follow, and the weights differ by rounding. Validation only watches,
    unless `validation.patience` ends the run: then what the score depends on and when it is taken decide the steps;
    `validation.reference` is no part of the score.
    """
    return Identity(_fingerprint(settings), _fingerprint(settings, epochs=1), data_fingerprint)


def reidentified(recorded: dict[str, Any], data_fingerprint: str) -> Identity:
    """The identity of a run whose settings another version recorded; what that one did not know has its default.

    Raises ValueError when they are no settings of this version.
    """
    return identity(build(RunSettings, recorded), data_fingerprint)


def completed(recorded: dict[str, Any]) -> dict[str, Any]:
    """Recorded settings with the defaults of those that an earlier version did not know.

    They stay as they are where this version refuses them: whoever compares them names what it has no more.
    """
    try:
        return build(RunSettings, recorded).model_dump(mode="json")
    except ValueError:
        return recorded


def _fingerprint(settings: RunSettings, **train: int) -> str:
    stops = settings.validation.patience > 0
    unseen = {**train, "keep_checkpoints": 1, "log_every_steps": 1}
    validation = settings.validation.model_copy(
        update={"keep_best_by": "none", "export": "last", "timeout_seconds": 1800.0, "reference": None}
    )
    decisive = {
        "data": DataSettings(uri="-", group_rows=settings.data.group_rows, weights=settings.data.weights),
        "train": settings.train.model_copy(update=unseen if stops else {**unseen, "checkpoint_every_steps": 1}),
        "cluster": ClusterSettings(),
        "tracking": TrackingSettings(),
        "validation": validation if stops else ValidationSettings(),
        "evaluation": EvaluationSettings(),
    }
    return fingerprint(settings.model_copy(update=decisive))
