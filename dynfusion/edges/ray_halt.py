"""Ends a training run from outside, at once and whole: workers, controller, placement group and helpers.

    thread of the run: train_on_ray(..., halt) --> HaltedError
    another thread:    halt.pull() --> board: who is the controller? --> its `abort`, as Ray's own Ctrl-C does
                       halt.release(step) --> board --> workers that wait at this check go on

Whoever ends the run's own process instead leaves the placement group to Ray's cleaner, which needs the State API.
"""

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

_LOOK_SECONDS = 0.5


class HaltedError(Exception):
    """A run was ended from outside; its last checkpoint stays."""


class Halt:
    """Hand it to `train_on_ray`, and `pull` it. At the checks `held`, by step, the run waits until it is released."""

    def __init__(self, held: Collection[int] = ()) -> None:
        self.held = tuple(held)
        self._released = 0
        self.pulled = threading.Event()
        self._over = threading.Event()
        self._board: Any = None

    def pull(self) -> None:
        """End the run; returns at once when it has not begun, else as soon as its controller was told, or it ended.

        A run whose workers have not yet reported to their controller is waited for until they have.
        """
        self.pulled.set()
        board = self._board
        while board is not None and not self._over.is_set():
            try:
                controller = ray.get(board.reached.remote())
                if controller is not None:
                    ray.get(controller.abort.remote())
                    return
            except RayError:  # it is gone, which is what was asked for
                return
            self._over.wait(_LOOK_SECONDS)

    def release(self, step: int) -> None:
        """Let the run go on from a check at which it is held; nothing where it has ended."""
        self._released = step
        board = self._board
        if board is not None:
            board.release.remote(step)

    @contextmanager
    def ends_what_watches(self, board: Any) -> Iterator[None]:
        """Inside, the run that posts on this board can be ended. Raises HaltedError when it was."""
        self._board = board
        try:
            if self.pulled.is_set():  # asked last: whoever pulls from here on sees the board
                raise HaltedError
            board.release.remote(self._released)  # an attempt before this one may have been past it
            yield
        except RayError as error:
            if self.pulled.is_set():
                raise HaltedError from error
            raise
        finally:
            self._over.set()
            self._board = None  # which holds the controller's process
