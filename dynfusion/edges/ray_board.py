"""What workers say, on its way to the driver: an actor that keeps posts until they are fetched.

worker: Voice --> Board (actor) --> driver: Watch
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray

Record = dict[str, Any]
_POLL_SECONDS = 0.3


@dataclass(frozen=True)
class Watch:
    """Where the driver shows what the workers say."""

    record: Callable[[Record], None]
    say: Callable[[str], None]


class Board:
    """What workers have to say, kept until the driver fetches it."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, Any]] = []
        self.failure: str | None = None

    def post(self, kind: str, content: Any) -> None:
        self.posts.append((kind, content))

    def fail(self, text: str) -> None:
        self.failure = self.failure or text  # the first is the cause

    def failed(self) -> str | None:
        return self.failure

    def take(self) -> list[tuple[str, Any]]:
        taken, self.posts = self.posts, []
        return taken


@dataclass(frozen=True)
class Voice:
    """A worker's end of the board; only rank 0 speaks, but what ends the run may be another's to say."""

    board: Any
    quiet: bool

    def record(self, made: Record) -> None:
        if not self.quiet:
            self.board.post.remote("record", made)

    def say(self, text: str) -> None:
        if not self.quiet:
            self.board.post.remote("say", text)

    def fail(self, text: str) -> None:
        """What ended the run for good, from any rank; returns once the board has it."""
        ray.get(self.board.fail.remote(text))


@contextmanager
def watched_board(watch: Watch) -> Iterator[Any]:
    """A new board for workers to post on; what they say reaches `watch` during the `with`.

    Raises ValueError at its end when a worker said what ended the run for good.
    """
    board = ray.remote(num_cpus=0)(Board).remote()
    done = threading.Event()

    def show() -> None:
        while not done.wait(_POLL_SECONDS):
            _take(board, watch)

    reader = threading.Thread(target=show, name="board-reader", daemon=True)
    reader.start()
    try:
        yield board
    finally:
        done.set()
        reader.join()
        _take(board, watch)
    failure = ray.get(board.failed.remote())
    if failure is not None:
        raise ValueError(failure)


def _take(board: Any, watch: Watch) -> None:
    for kind, content in ray.get(board.take.remote()):
        (watch.record if kind == "record" else watch.say)(content)
