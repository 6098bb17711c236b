"""When starting the workers again would only meet the same error again: the run ends, however many restarts are left.

    worker: ValueError, out of GPU memory --> board --+
    controller: an error for the third time in a row -+--> Ray Train's controller gives up; new workers would too

Ray Train itself counts failures only. What a process death, a lost connection or a preemption causes says nothing about
the next start, and is not counted.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError
from ray.train import Checkpoint, UserCallback
from torch import distributed

from dynfusion.edges.ray_board import ended_by
from dynfusion.edges.retry import FAILURES, one_line

MOST_ALIKE = 3


class RunFailedError(Exception):
    """Raised in Ray Train's controller, so that it does not start workers again."""


def final_sentence(error: ValueError | torch.OutOfMemoryError, rank: int) -> str | None:
    """What ends the run for good, None where a new start may do better.

    A file or a store that one node could not read may be read from the next one. A ValueError of a library, such as
    torch's when another rank has left, says nothing of that either way, and is left to `Repeats`.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return (
            f"worker {rank} has too little GPU memory: {one_line(error)}; more workers, a higher train.accumulation or "
            "a smaller train.global_batch_rows need less"
        )
    may_pass = not is_ours(error) or isinstance(error.__cause__, FAILURES)
    return None if may_pass else str(error)


def is_ours(error: ValueError) -> bool:
    """Whether the package itself raised it, and so what it says is meant for whoever began the run."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    here = frame is None or frame.tb_frame.f_globals.get("__name__", "").startswith("dynfusion.")
    return here and type(error) is ValueError


class Repeats:
    """Errors of failed worker groups, told apart by their text."""

    def __init__(self) -> None:
        self.alike: set[str] = set()
        self.times = 0

    def progress(self) -> None:
        """A checkpoint was made: the next start is from another step."""
        self.alike, self.times = set(), 0

    def failed(self, errors: Mapping[int, Exception]) -> str | None:
        """Count a failure of these ranks. Returns the text that it shares with as many before it as are too many."""
        texts = {_text(error) for error in errors.values() if _may_repeat(error)}
        if not texts or any(_is_rays(error) for error in errors.values()):
            self.progress()
            return None
        shared = self.alike & texts
        self.alike, self.times = (shared, self.times + 1) if shared else (texts, 1)
        return min(self.alike) if self.times >= MOST_ALIKE else None


class EndForGood(UserCallback):
    """In the controller: ends the run when a worker told the board why, or when an error keeps coming back.

    It also tells the board who the controller is, so that the run can be ended from outside (`ray_halt`).
    """

    def __init__(self, board: Any) -> None:
        self.board = board
        self.repeats = Repeats()
        self.is_reached = False

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        if checkpoint is not None:
            self.repeats.progress()
        if not self.is_reached:
            self.is_reached = True
            self.board.reach.remote(ray.get_runtime_context().current_actor)

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raises RunFailedError."""
        text = ended_by(self.board)
        if text is None:
            again = self.repeats.failed(worker_exceptions)
            if again is None:
                return
            text = f"training failed {MOST_ALIKE} times in a row at the same step with the same error: {again}"
            with suppress(RayActorError):  # without a board the error itself says it
                ray.get(self.board.fail.remote(text))
        raise RunFailedError(text)


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)}"


def _may_repeat(error: Exception) -> bool:
    """Whether this is the rank's own error and not that of a peer or a connection that is gone."""
    return not isinstance(error, (distributed.DistError, ConnectionError)) and "/gloo/" not in str(error)


def _is_rays(error: Exception) -> bool:
    """Whether Ray says this of a worker, whose process is gone, rather than the worker itself."""
    return type(error).__module__.startswith("ray.")
