"""Settings of an evaluation from a command line, by the names that they have in a run file."""

from collections.abc import Iterable

from dynfusion.evaluation.settings import EvaluationSettings
from dynfusion.settings import Settings, build, parse_overrides


class _Overrides(Settings):
    """The part of a run's tree that an evaluation reads, so that its settings have the same names everywhere."""

    evaluation: EvaluationSettings = EvaluationSettings()


def read_settings(overrides: Iterable[str]) -> EvaluationSettings:
    """The settings of an evaluation from a command line's `evaluation.name=value`. Raises ValueError for others."""
    return build(_Overrides, parse_overrides(overrides)).evaluation
