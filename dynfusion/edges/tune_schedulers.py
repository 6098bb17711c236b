"""Ray Tune's schedulers as judges of a sweep: functions of the reports they have heard, by our own trial ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, TrialScheduler

from dynfusion.tuning.records import Sweep

_TIME, _VALUE = "samples_seen", "value"


@dataclass(frozen=True)
class _Named:
    """All that the schedulers used here know a trial by."""

    trial_id: str


class NeverStops:
    """FIFO: every trial runs to its end."""

    def __call__(self, trial: str, samples_seen: int, value: float) -> bool:
        return False


class TuneJudge:
    """A scheduler of Ray Tune that stops trials and never pauses them; it hears nothing of a trial before `since`."""

    def __init__(self, scheduler: TrialScheduler, *, since: float = 0.0) -> None:
        self.scheduler: Any = scheduler
        self.since = since
        self.known: set[str] = set()

    def __call__(self, trial: str, samples_seen: int, value: float) -> bool:
        if samples_seen < self.since:
            return False
        named = _Named(trial)
        if trial not in self.known:
            self.known.add(trial)
            self.scheduler.on_trial_add(None, named)
        decision = self.scheduler.on_trial_result(None, named, {_TIME: samples_seen, _VALUE: value})
        assert decision in (TrialScheduler.CONTINUE, TrialScheduler.STOP)
        return bool(decision == TrialScheduler.STOP)


def decisive(sweep: Sweep, longest: int, checks: Sequence[int]) -> tuple[int, ...]:
    """Which of a trial's checks, by molecules seen and in order, can end it; its last one has nothing left to end.

    For asha those that reach a rung, of which the first is the grace and each is `reduction` times the one before; for
    median all from the grace on.
    """
    if sweep.scheduler == "fifo":
        return ()
    assert sweep.grace is not None
    grace = max(1, sweep.grace * longest)
    if sweep.scheduler == "median":
        return tuple(seen for seen in checks[:-1] if seen >= grace)
    assert sweep.reduction is not None
    rungs = [grace]
    while rungs[-1] * sweep.reduction <= longest:
        rungs.append(rungs[-1] * sweep.reduction)
    return tuple(seen for before, seen in pairwise((0, *checks[:-1])) if any(before < rung <= seen for rung in rungs))


def make_judge(sweep: Sweep, longest: int) -> NeverStops | TuneJudge:
    """The judge of a sweep whose longest trial sees so many molecules. Of several objectives none is judged."""
    mode = sweep.objectives[0].direction
    if sweep.scheduler == "fifo":
        return NeverStops()
    assert sweep.grace is not None
    grace = max(1, sweep.grace * longest)
    if sweep.scheduler == "asha":
        assert sweep.reduction is not None
        return TuneJudge(
            AsyncHyperBandScheduler(
                time_attr=_TIME,
                metric=_VALUE,
                mode=mode,
                max_t=longest,
                grace_period=grace,
                reduction_factor=sweep.reduction,
                stop_last_trials=False,
            )
        )
    # It would pause trials, which ours cannot, to let others catch up, but for an endless time slice. It holds the best
    # that a trial ever was against means over what others were, so reports of the ramp would keep gentle starts alive.
    return TuneJudge(
        MedianStoppingRule(time_attr=_TIME, metric=_VALUE, mode=mode, grace_period=grace, min_time_slice=inf),
        since=grace,
    )
