"""No trial may be judged before its masking has hardened, or schedules would be ranked by how gently they start."""

from dynfusion.run_settings import RunSettings
from dynfusion.tuning.config import SweepSettings
from dynfusion.tuning.space import Space

SCHEDULE, RAMP, EPOCHS = "masking.schedule", "masking.ramp_share", "train.epochs"


def check_grace(settings: SweepSettings, space: Space, run: RunSettings) -> None:
    """Raises ValueError when a scheduler that ends trials early could do so on some sample's ramp."""
    if settings.scheduler == "fifo":
        return
    latest, where = _latest_ramp(space, run)
    if settings.grace < latest:
        raise ValueError(
            f"grace: found {settings.grace:g}, allowed with {settings.scheduler} is {latest:g} or more, since "
            f"masking.ramp_share of {where} lets the ramp last until there; trials that are judged before that are "
            "ranked by how gently they start"
        )


def longest_samples(space: Space, total: int, run: RunSettings) -> int:
    """Molecules that the longest possible trial sees, `total` being those of the base run."""
    searched = space.get(EPOCHS)
    if searched is None:
        return total
    most = max(searched.choices) if searched.choices else searched.high
    assert isinstance(most, int | float)
    return round(total * float(most) / run.train.epochs)


def _latest_ramp(space: Space, run: RunSettings) -> tuple[float, str]:
    """The largest share of a trial during which its masking can still climb, and whose setting that is."""
    schedules = space[SCHEDULE].choices if SCHEDULE in space else (run.masking.schedule,)
    if all(schedule == "constant" for schedule in schedules or ()):
        return 0.0, "the run"
    searched = space.get(RAMP)
    ours = run.masking.ramp_share
    if searched is None:
        return ours, "the run"
    values = searched.choices or (searched.high,)
    latest = max(float(value) for value in values if value is not None)
    climbing = {schedule for schedule in schedules or () if schedule != "constant"}
    if searched.when and not climbing <= _always_searched(searched.when):  # elsewhere the run's own share holds
        return (ours, "the run") if ours > latest else (latest, "the space")
    return latest, "the space"


def _always_searched(when: dict[str, object]) -> set[object]:
    """The schedules with which the ramp's share is searched, if nothing else decides that."""
    wanted = when.get(SCHEDULE) if set(when) == {SCHEDULE} else None
    return set(wanted) if isinstance(wanted, list) else {wanted}
