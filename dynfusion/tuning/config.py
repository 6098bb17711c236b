"""The settings of a sweep: what is searched with, how long, and what follows."""

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from dynfusion.settings import Settings
from dynfusion.tuning.objective import check_names

SCHEDULERS = ("fifo", "asha", "median")
SEARCHES = ("random", "optuna")
_CLONES = "pauses trials and clones them, which a trial that is an ordinary training run cannot be"
_REFUSED = {
    "pbt": _CLONES,
    "pb2": _CLONES,
    "hyperband": "pauses trials until others have caught up, which an ordinary run cannot do; asha never waits",
    "bohb": "pauses trials as hyperband does, and the library that it samples with is no longer kept up",
    "bayesopt": "knows neither choices nor conditions",
    "hyperopt": "is what optuna's TPE does, with conditions and a seed",
}
"""What people ask for and the reason why it is not there."""


class SweepSettings(Settings):
    """Everything about a sweep but its space and its run."""

    name: str = Field("sweep", description="folder of the sweep in cluster.storage; by default called as the space")
    search: Literal["random", "optuna"] = Field("random", description="how samples are drawn; optuna learns from them")
    scheduler: Literal["fifo", "asha", "median"] = Field("fifo", description="which trials end early; fifo: none does")
    samples: int = Field(32, ge=1, description="trials in all; raise it to go on with a finished sweep")
    seed: int = Field(0, ge=0, description="of the samples")
    objectives: tuple[str, ...] = Field(("score",), description="what is made as good as possible; the first decides")
    top_k: int = Field(3, ge=0, description="best trials that are run again, beside the default; 0: none is")
    rerun_seeds: int = Field(3, ge=1, description="fresh seeds with which they are run again")
    grace: float = Field(0.2, gt=0, lt=1, description="share of a trial's samples before which none ends early")
    reduction: int = Field(4, ge=2, description="asha: one of so many trials goes on at each rung")
    at_once: int | None = Field(None, ge=1, description="trials at the same time; by default as many as there is room")

    @field_validator("scheduler", "search", mode="before")
    @classmethod
    def _is_offered(cls, found: Any) -> Any:
        why = _REFUSED.get(str(found).lower())
        if why is not None:
            allowed = f"schedulers {', '.join(SCHEDULERS)} and searches {', '.join(SEARCHES)}"
            raise ValueError(f"{found} {why}; allowed are {allowed}")
        return found

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError(
                f"found {name!r}, allowed are letters, digits, dots, dashes and underscores, a letter or digit first"
            )
        return name

    @model_validator(mode="after")
    def _parts_fit(self) -> "SweepSettings":
        check_names(self.objectives)
        if len(self.objectives) > 1 and self.scheduler != "fifo":
            raise ValueError(
                f"scheduler {self.scheduler} with objectives {', '.join(self.objectives)}: it ranks by one number, "
                "allowed is fifo, or one objective"
            )
        return self
