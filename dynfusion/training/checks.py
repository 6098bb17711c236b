"""When a run is validated, when it has seen enough, and which checkpoint is its best: functions of steps and scores.

    history:  ... {"step": 12, "loss": ...}  {"step": 8, "validation": {"score": ...}} ...

The score of a check enters the history at the next check, so that the clock decides nothing: the decision at a check
follows from the history that its checkpoint holds, and a run that continues from there decides the same.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from dynfusion.training.loop import Record

VALIDATION = "validation"
SCORE = "score"


@dataclass(frozen=True)
class Checks:
    """At which steps a run's checkpoints are validated: every `every_steps` (0 never), and at the end."""

    every_steps: int
    total_steps: int

    def due(self, step: int) -> bool:
        """Whether the checkpoint at this step is validated."""
        return self.every_steps > 0 and (step % self.every_steps == 0 or step == self.total_steps)

    def steps(self) -> tuple[int, ...]:
        """All of them, in order."""
        if self.every_steps == 0:
            return ()
        return (*range(self.every_steps, self.total_steps, self.every_steps), self.total_steps)

    def before(self, step: int) -> int | None:
        """The last check before a step, None when there is none."""
        return (step - 1) // self.every_steps * self.every_steps or None if self.every_steps else None


@dataclass(frozen=True)
class Patience:
    """How long a run goes on without getting better."""

    checks: int
    """Checks without improvement that end it; 0 never ends it."""
    min_improvement: float
    """By how much more than this a score must exceed the best so far to count."""

    def ended_by(self, validated: Sequence[Record]) -> str | None:
        """Why a run with these checks behind it stops, in one phrase; None when it goes on.

        A score that is not a number is no improvement.
        """
        if self.checks == 0:
            return None
        best, best_step, waited = -math.inf, 0, 0
        for record in validated:
            score = record[VALIDATION][SCORE]
            waited += 1
            if score > best + self.min_improvement:
                best, best_step, waited = score, record["step"], 0
        if waited < self.checks:
            return None
        times = f"{waited} check{'s' if waited > 1 else ''}"
        return f"the validation score has not risen above {best:.4f}, that of step {best_step}, for {times}"


def validated(history: Sequence[Record]) -> list[Record]:
    """The checks among a history's records, `{"step": ..., "validation": {...}}`."""
    return [record for record in history if VALIDATION in record]


def trained(history: Sequence[Record]) -> list[Record]:
    """What training itself recorded."""
    return [record for record in history if VALIDATION not in record]


def best_step(history: Sequence[Record], metric: str, *, kept: Collection[int]) -> int | None:
    """Which of the `kept` steps is best: least `loss`, or most of a validation metric; None when none has a number.

    The later of two that are level, since that is the one that stays when checkpoints are dropped for lack of room.
    """
    found = [(value, step) for step, value in _values(history, metric) if step in kept and math.isfinite(value)]
    return max(found)[1] if found else None


def _values(history: Sequence[Record], metric: str) -> list[tuple[int, Any]]:
    if metric == "loss":
        return [(record["step"], -record["loss"]) for record in trained(history)]
    return [(r["step"], r[VALIDATION][metric]) for r in validated(history) if metric in r[VALIDATION]]
