"""What passes between a sweep's driver and its trials."""

from dataclasses import dataclass
from typing import Any, Literal

JOB, TOLD = "job", "told"
"""Where they lie in what a sweep's driver and its trials' processes hand each other: a `Job`; a `Report` or `Ended`."""


@dataclass(frozen=True)
class Job:
    """One training run to be made: the driver's order."""

    id: str
    settings: dict[str, Any]
    """The full tree of the run."""
    sweep: str
    """Address of the sweep's folder."""
    held: tuple[int, ...] = ()
    """Steps of the checks that may end it: there it waits for the verdict, so that nothing is trained in vain."""


@dataclass(frozen=True)
class Report:
    """A check of a running job."""

    step: int
    samples_seen: int
    metrics: dict[str, float]
    seconds: float
    """Of training, by this attempt."""


@dataclass(frozen=True)
class Ended:
    """How a job ended of itself; `postponed`: for a reason that may pass, so that it is to be begun again."""

    state: Literal["finished", "failed", "postponed"]
    reason: str | None
    seconds: float
