"""A probe in a process of its own, so that a disk, store or node that hangs is an answer too, and never a hang.

    ask --> python -m <module> <arguments as JSON> --> serve: one JSON object per line, as soon as something is known
        <-- facts so far, and what was being done when nothing came any more

A line is {"doing": "..."} before something that may take long, else facts by name, which add to those before.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

Fact = dict[str, Any]
_READ_BYTES = 1 << 16
_END_SECONDS = 2.0


@dataclass(frozen=True)
class Answer:
    """What a probe found out; `unanswered` is None, or what it was at when it fell silent or failed."""

    facts: Fact
    unanswered: str | None


def ask(module: str, arguments: Mapping[str, Any], *, seconds: float, debug: bool = False) -> Answer:
    """Run a module's probe and return what it says; after `seconds` without a word it is ended, with all it started.

    `debug` shows what it prints.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", module, json.dumps(arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=None if debug else subprocess.DEVNULL,
        start_new_session=True,
    )
    facts: Fact = {}
    doing, silent = "starting", False
    try:
        for line in _lines(process, seconds):
            silent = line is None
            if line is not None:
                said = json.loads(line)
                doing = said.pop("doing", doing)
                facts.update(said)
        if not silent:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_END_SECONDS)
    finally:
        _end(process)
    if silent:
        return Answer(facts, f"no answer within {seconds:.0f} s, {doing}")
    failed = facts.pop("failed", None)
    if failed is not None or not facts.pop("ended", False):
        return Answer(facts, f"{failed or f'the probe died (exit code {process.returncode})'}, {doing}")
    return Answer(facts, None)


def _lines(process: subprocess.Popen[bytes], seconds: float) -> Iterator[bytes | None]:
    """What the process says, line by line; None at the end when it fell silent before it closed its output."""
    assert process.stdout is not None
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        deadline = time.monotonic() + seconds
        while selector.select(max(0.0, deadline - time.monotonic())):
            content = os.read(process.stdout.fileno(), _READ_BYTES)
            if not content:
                return
            *whole, rest = (rest + content).split(b"\n")
            yield from whole
            deadline = time.monotonic() + seconds
    yield None


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
        say({"ended": True})
    except Exception as error:  # whatever it was, the table has a line for it
        say({"failed": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"})
        raise
