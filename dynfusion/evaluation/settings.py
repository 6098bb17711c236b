"""Everything that changes a number of the report.

Every process of a cluster reads this, so it imports nothing that takes time.
"""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, field_validator

from dynfusion.settings import Settings


class SplitSettings(Settings):
    """How tasks are cut into what is trained on and what is scored; one kind for all tasks of a report."""

    kind: Literal["given", "scaffold", "scaffold-cv"] = Field(
        "scaffold-cv",
        description="given: the task's own parts; scaffold: 80/10/10 by Murcko scaffold, the rare ones tested; "
        "scaffold-cv: repeated cross-validation that cuts no scaffold group",
    )
    repeats: int = Field(5, ge=1, le=100, description="of the cross-validation, each with other folds")
    folds: int = Field(2, ge=2, le=100, description="of the cross-validation; each molecule is tested once a repeat")
    seed: int = Field(0, ge=0, description="of the cross-validation's folds")
    per_task: dict[str, tuple[PositiveInt, Annotated[int, Field(ge=2)]]] = Field(
        {"hiv": (1, 5)}, description="repeats and folds of the cross-validation for single tasks, by name"
    )


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


class ProbeSettings(Settings):
    """How the heads are fitted; the same for every representation."""

    inverse_penalties: tuple[float, ...] = Field(
        (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1), min_length=1, description="grid for C of the linear probe"
    )
    neighbours: tuple[int, ...] = Field((1, 3, 5, 9, 15, 31), min_length=1, description="grid for k of the kNN probe")
    rounds: tuple[int, ...] = Field(
        (25, 50, 100), min_length=1, description="grid for the number of trees of the gradient boosting probe"
    )
    folds: int = Field(
        3, ge=2, le=20, description="inner folds that choose from a grid where the task has no validation rows"
    )
    max_iterations: int = Field(2000, ge=100, description="most L-BFGS iterations of one fit of the linear probe")

    @field_validator("inverse_penalties", "neighbours", "rounds")
    @classmethod
    def _positive_and_ascending(cls, grid: tuple[float, ...] | tuple[int, ...]) -> tuple[float, ...] | tuple[int, ...]:
        if list(grid) != sorted(set(grid)) or grid[0] <= 0:
            raise ValueError(f"found {grid}, allowed are positive numbers in ascending order")
        return grid


class ImputerSettings(Settings):
    """How the imputers are fitted."""

    pool_rows: int = Field(50_000, ge=100, description="most pool rows that imputers are fitted on")
    alphas: tuple[float, ...] = Field(
        (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0),
        min_length=1,
        description="penalties tried, each multiplied by the rows fitted",
    )
    neighbours: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (1, 2, 5, 10, 20, 50), min_length=1, description="numbers of neighbours tried"
    )
    neighbour_queries: int = Field(
        2000, ge=1, description="most held pool rows that the number of neighbours is chosen on, evenly spaced"
    )


class InsightSettings(Settings):
    """How many molecules are looked at."""

    reconstruction_rows: int = Field(
        10_000, ge=2, description="most test molecules of a task that reconstruction is scored on, evenly spaced"
    )
    candidates: int = Field(
        10_000,
        ge=2,
        description="candidates of retrieval: for reconstructed embeddings filled up to this with pool molecules, for "
        "alignment and collapse at most this many test molecules, evenly spaced",
    )
    seed: int = Field(0, ge=0, description="seed of the shuffling of a modality over molecules")


class StatisticsSettings(Settings):
    """How uncertain the numbers are said to be."""

    resamples: int = Field(1000, ge=1000, le=100_000, description="bootstrap resamples of the test molecules")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="coverage of every interval")
    seed: int = Field(0, ge=0, description="seed of the resampling")


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
