"""What workers say, on its way to the driver: an actor that keeps posts until they are fetched.

worker: Voice --> Board (actor on the driver's node) --> driver: Watch

Watching ends no run: a board that is lost is said once, and training, its end and its model go on without it.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

Record = dict[str, Any]
_POLL_SECONDS = 0.3
_LAST_TRIES = 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Watch:
    """Where the driver shows what the workers say."""

    record: Callable[[Record], None]
    say: Callable[[str], None]
    validated: Callable[[Record], None] = lambda _: None
    """Gets {"step", "validation"} as soon as a check is scored; `record` gets what training says, without it."""


class Board:
    """What workers have to say, kept until the driver fetches it."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, Any]] = []
        self.gone = 0
        """How many posts the driver has had before these."""
        self.failure: str | None = None
        self.controller: Any = None
        self.released = 0

    def post(self, kind: str, content: Any) -> None:
        self.posts.append((kind, content))

    def fail(self, text: str) -> None:
        self.failure = self.failure or text  # the first is the cause

    def failed(self) -> str | None:
        return self.failure

    def reach(self, controller: Any) -> None:
        self.controller = controller

    def reached(self) -> Any:
        """Ray Train's controller of the run, None before its workers' first report."""
        return self.controller

    def release(self, step: int) -> None:
        """Let the run go on from a check at which it is held, and from those before it."""
        self.released = max(self.released, step)

    def is_released(self, step: int) -> bool:
        return self.released >= step

    def take(self, after: int) -> list[tuple[str, Any]]:
        """The posts behind the first `after`, which the driver has; asked again, it gives the same again."""
        del self.posts[: max(0, after - self.gone)]
        self.gone = max(self.gone, after)
        return list(self.posts)


@dataclass(frozen=True)
class Voice:
    """A worker's end of the board. Only rank 0 speaks, but what ends the run may be another's to say.

    Without the board what is said is lost, and nothing fails.
    """

    board: Any
    quiet: bool

    def record(self, made: Record) -> None:
        if not self.quiet:
            self.board.post.remote("record", made)

    def say(self, text: str) -> None:
        if not self.quiet:
            self.board.post.remote("say", text)

    def validated(self, made: Record) -> None:
        if not self.quiet:
            self.board.post.remote("validated", made)

    def fail(self, text: str) -> None:
        """What ended the run for good, from any rank; returns once the board has it.

        Raises ValueError with the text when there is no board any more: then the worker's own end has to say it.
        """
        try:
            ray.get(self.board.fail.remote(text))
        except RayActorError:
            raise ValueError(text) from None


def ended_by(board: Any) -> str | None:
    """What a worker said ended the run for good; None where none did, or where there is no board any more."""
    try:
        return ray.get(board.failed.remote())
    except RayActorError:
        return None


@contextmanager
def watched_board(watch: Watch) -> Iterator[Any]:
    """A new board for workers to post on; what they say reaches `watch` during the `with`.

    Raises ValueError at its end when a worker said what ended the run for good.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = ray.remote(num_cpus=0, scheduling_strategy=here)(Board).remote()
    reader = _Reader(board, watch)
    thread = threading.Thread(target=reader.run, name="board-reader", daemon=True)
    thread.start()
    try:
        yield board
    finally:
        reader.done.set()
        thread.join()
        reader.take_last()
    failure = reader.failure()
    if failure is not None:
        raise ValueError(failure)


class _Reader:
    """Carries posts from a board to a watch until `done`, or until the board is lost."""

    def __init__(self, board: Any, watch: Watch) -> None:
        self.board, self.watch = board, watch
        self.done = threading.Event()
        self.is_lost = False
        self.is_away = False
        self.shown = 0

    def run(self) -> None:
        while not self.done.wait(_POLL_SECONDS) and not self.is_lost:
            self.take()

    def take(self) -> None:
        """Show what has been posted since the last time; an answer that was lost on its way comes with the next."""
        shows: dict[str, Callable[[Any], None]] = {
            "record": self.watch.record,
            "say": self.watch.say,
            "validated": self.watch.validated,
        }
        for kind, content in self._ask("take", self.shown) or []:
            self.shown += 1
            _show(shows[kind], content)

    def take_last(self) -> None:
        """Show all that is left, also when the board cannot be reached for a moment."""
        for _ in range(_LAST_TRIES):
            self.is_away = False
            self.take()
            if not self.is_away:
                return
            time.sleep(_POLL_SECONDS)

    def failure(self) -> str | None:
        """What a worker said ended the run for good."""
        return self._ask("failed")

    def _ask(self, what: str, *arguments: Any) -> Any:
        """The board's answer, None when it has none."""
        if self.is_lost:
            return None
        try:
            return ray.get(getattr(self.board, what).remote(*arguments))
        except ActorUnavailableError:  # for now
            self.is_away = True
            return None
        except RayActorError:
            self.is_lost = True
            _show(
                self.watch.say,
                "watching has ended, its Ray actor is lost; training goes on, its records come at its end",
            )
            return None


def _show(show: Callable[[Any], None], content: Any) -> None:
    try:
        show(content)
    except Exception:  # whatever a display or a full disk says: what comes next is still to be shown
        _log.warning("a worker's message was not shown: %s", content, exc_info=True)
