"""Everything that changes a number of the report."""

from typing import Literal

from pydantic import Field, field_validator

from dynfusion.evaluation.insight.molecules import InsightSettings
from dynfusion.evaluation.probes.probe import ProbeSettings
from dynfusion.evaluation.representations.imputers import ImputerSettings
from dynfusion.evaluation.scores.resampling import StatisticsSettings
from dynfusion.evaluation.tasks.splits import SplitSettings
from dynfusion.settings import Settings


class HidingSettings(Settings):
    """The random ways of hiding, on the given split."""

    rates: tuple[float, ...] = Field(
        (0.1, 0.25, 0.5, 0.75), description="chances to hide a modality of a test molecule"
    )
    draws: int = Field(5, ge=1, description="random draws of every rate")
    training_rates: tuple[float, ...] = Field(
        (0.25, 0.5, 0.75), description="chances to hide a modality of a training molecule, beside 0"
    )

    @field_validator("rates", "training_rates")
    @classmethod
    def _open_interval(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        if list(rates) != sorted(set(rates)) or (rates and not 0 < rates[0] <= rates[-1] < 1):
            raise ValueError(f"found {rates}, allowed are ascending numbers between 0 and 1, both excluded")
        return rates


class EvaluationSettings(Settings):
    """Everything that changes a number of the report."""

    pool: str | tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="data the model was trained on, where it moved since training; a list of several",
    )
    split: SplitSettings = SplitSettings()
    hiding: HidingSettings = HidingSettings()
    probe: ProbeSettings = ProbeSettings()
    imputers: ImputerSettings = ImputerSettings()
    insight: InsightSettings = InsightSettings()
    statistics: StatisticsSettings = StatisticsSettings()
    extent: Literal["quick", "standard", "full"] = Field(
        "standard",
        description="quick: a linear probe on the given split, all subsets; standard: folds for it, and other probes "
        "and ways of hiding on the given split; full: everything on every fold",
    )
