"""What is looked at while training goes on; light, since every process of a cluster reads it."""

from typing import Literal

from pydantic import Field, model_validator

from dynfusion.settings import Settings

METRICS = {
    "score": "mean of reconstruction, retrieval and probe, as far as there are any",
    "reconstruction": "1 - MSE / MSE of the pool mean, over (visible subset, absent modality): 1 perfect, 0 the mean",
    "retrieval": "share of molecules whose z from a subset is nearest to their own z from everything, over subsets",
    "over_ridge": "1 - MSE / MSE of ridge regression, over the same: 1 perfect, 0 level; where there is a reference",
    "probe": "ROC-AUC on valid rows of a head fitted on train rows, all present and each modality absent, over tasks",
    "probe_all": "the part of probe with all present",
    "probe_one_absent": "the part of probe with one modality absent, mean over which",
}


class ValidationSettings(Settings):
    """What is looked at while training goes on, and what follows from it."""

    every_checkpoints: int | None = Field(
        None,
        ge=0,
        description="checkpoints between two checks, 0 never; by default 1 where the data set has held-out rows or "
        "tasks are named, else never",
    )
    rows: int = Field(2048, ge=2, description="most held-out molecules that are looked at; the same ones every time")
    tasks: dict[str, str] = Field({}, description="packed labelled sets for a probe, name = address; test rows unread")
    reference: str | None = Field(
        None, description="address of a ridge regression's errors on these molecules, as a sweep makes it: over_ridge"
    )
    timeout_seconds: float = Field(
        1800.0, gt=0, description="how long one check may take, and training waits for it, before it is given up"
    )
    patience: int = Field(0, ge=0, description="checks without a better score that end the run; 0 never does")
    min_improvement: float = Field(0.0, ge=0, description="a better score is higher than the best by more than this")
    keep_best_by: Literal[
        "none",
        "loss",
        "score",
        "reconstruction",
        "retrieval",
        "over_ridge",
        "probe",
        "probe_all",
        "probe_one_absent",
    ] = Field("none", description="which checkpoints stay beside the last one: the latest, or the best by this number")
    export: Literal["last", "best"] = Field("last", description="which of the kept checkpoints becomes the model")

    @model_validator(mode="after")
    def _parts_fit(self) -> "ValidationSettings":
        if self.export == "best" and self.keep_best_by == "none":
            raise ValueError("export best needs keep_best_by, found none, allowed is loss or a validation metric")
        if self.every_checkpoints == 0 and (self.patience or self.keep_best_by in METRICS):
            raise ValueError("every_checkpoints 0 gives no score for patience or keep_best_by, leave one of them out")
        return self

    @property
    def asked_for(self) -> bool:
        """Whether something depends on a check."""
        depends = (self.every_checkpoints, self.patience, self.tasks, self.reference, self.keep_best_by in METRICS)
        return any(depends)
