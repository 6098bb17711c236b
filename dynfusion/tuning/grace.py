"""No trial may be judged before its masking has hardened, or schedules would be ranked by how gently they start."""

from collections.abc import Set
from typing import Any

from dynfusion.run_settings import RunSettings
from dynfusion.tuning.config import SweepSettings
from dynfusion.tuning.records import Distribution
from dynfusion.tuning.space import Space

SCHEDULE, RAMP, SUBSETS, EPOCHS = "masking.schedule", "masking.ramp_share", "masking.subset_share", "train.epochs"


def check_grace(settings: SweepSettings, space: Space, run: RunSettings) -> None:
    """Raises ValueError when a scheduler that ends trials early could do so on some sample's ramp."""
    if settings.scheduler == "fifo":
        return
    if EPOCHS in space:
        raise ValueError(
            f"space: {EPOCHS} is searched, allowed with fifo, not with {settings.scheduler}: a trial of few epochs has "
            "lowered its learning rate where one of many has not, and the two would be compared"
        )
    latest, where = _latest_ramp(space, run)
    if settings.grace < latest:
        raise ValueError(
            f"grace: found {settings.grace:g}, allowed with {settings.scheduler} is {latest:g} or more, since "
            f"masking.ramp_share of {where} lets the ramp last until there; trials that are judged before that are "
            "ranked by how gently they start"
        )


def _latest_ramp(space: Space, run: RunSettings) -> tuple[float, str]:
    """The largest share of a trial after which its masking can still become harder, and whose setting that is."""
    schedules = set(space[SCHEDULE].choices or ()) if SCHEDULE in space else {run.masking.schedule}
    if not run.masking.subset_share and SUBSETS not in space:  # else subsets begin at the ramp's end, also without ramp
        schedules -= {"constant"}
    if not schedules:
        return 0.0, "the run"
    ours, searched = (run.masking.ramp_share, "the run"), space.get(RAMP)
    if searched is None:
        return ours
    values = searched.choices or (searched.high,)
    theirs = (max(float(value) for value in values if value is not None), "the space")
    return theirs if schedules <= _searched_with(searched, schedules) else max(ours, theirs)


def _searched_with(one: Distribution, schedules: Set[Any]) -> Set[Any]:
    """The schedules with which a setting is surely searched."""
    if not one.when:
        return schedules
    wanted = one.when.get(SCHEDULE) if set(one.when) == {SCHEDULE} else []
    return set(wanted if isinstance(wanted, list) else [wanted])
