"""A probe in a process of its own, so that a disk, store or node that hangs is an answer too, and never a hang.

    ask --> python -m <module> <arguments as JSON> --> serve: one JSON object per line, as soon as something is known
        <-- facts so far, and what was being done when nothing came any more

A line is {"doing": "..."} before something that may take long, and facts by name, which add to those before.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

Fact = dict[str, Any]
_READ_BYTES = 1 << 16
_LOOK_SECONDS = 0.2
_END_SECONDS = 2.0
_END = "end"
"""The last line's only name: None, or what went wrong."""


@dataclass(frozen=True)
class Answer:
    """What a probe found out; `unanswered` is None, or what it was at when it fell silent or failed."""

    facts: Fact
    unanswered: str | None


@dataclass(frozen=True)
class Question:
    """Which module's probe is run, with what, and how long it may be silent."""

    module: str
    arguments: Mapping[str, Any]
    seconds: float


def ask(question: Question, given_up: threading.Event, *, debug: bool = False) -> Answer:
    """Run a probe and return what it says; when it is silent for too long it is ended, with all that it started.

    So it is when `given_up` is set from another thread. `debug` shows what it prints.
    """
    imports_from_here = {"", os.getcwd()} & {*sys.path}  # this process does, or not, and so does that one
    options = [] if imports_from_here else ["-P"]
    process = subprocess.Popen(
        [sys.executable, *options, "-m", question.module, json.dumps(question.arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=None if debug else subprocess.DEVNULL,
        start_new_session=True,
    )
    facts, doing = dict[str, Any](), "while it started"
    try:
        for line in _lines(process, question.seconds, given_up):
            said = json.loads(line)
            doing = said.pop("doing", doing)
            if _END in said:
                return Answer(facts, said[_END] and f"{said[_END]}, {doing}")
            facts.update(said)
    except TimeoutError:
        return Answer(facts, f"no answer within {question.seconds:.0f} s, {doing}")
    finally:
        _end(process)
    return Answer(facts, f"the process that looked died (exit code {process.returncode}), {doing}")


def _lines(process: subprocess.Popen[bytes], seconds: float, given_up: threading.Event) -> Iterator[bytes]:
    """What the process says, line by line. Raises TimeoutError when it says nothing for so long."""
    assert process.stdout is not None
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not given_up.is_set():
            if not selector.select(_LOOK_SECONDS):
                continue
            content = os.read(process.stdout.fileno(), _READ_BYTES)
            if not content:
                return
            *whole, rest = (rest + content).split(b"\n")
            yield from whole
            deadline = time.monotonic() + seconds
    raise TimeoutError


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process group; a process that waits for a dead disk cannot be ended and is left to itself."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_END_SECONDS)
    if process.stdout is not None:
        process.stdout.close()


def serve(probe: Callable[..., Iterator[Fact]]) -> None:
    """The other end, for a module's main: say what `probe(**arguments)` yields; what anything else prints goes to
    standard error."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(fact: Fact) -> None:
        channel.write(json.dumps(fact) + "\n")
        channel.flush()

    try:
        for fact in probe(**json.loads(sys.argv[1])):
            say(fact)
        say({_END: None})
    except Exception as error:  # whatever it was, the table has a line for it
        say({_END: " ".join([f"{type(error).__name__}:", *str(error).split()])})
        raise
