"""`python -m tests.fuzz.campaign --cases 1000000 --seed N`: mutated files for every parser, one JSON line each.

    parent --(parser, first, last)--> worker processes, each with its own examples on a disk in memory
    worker --number of the case it is at--> a file: when the process dies, that case killed it, and another goes on

A case is drawn from (seed, parser, number) alone. Each that is a fault is kept as files below `--out`.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fuzz.judge import Files, Parser, Tally, case_seed, judge
from tests.fuzz.parsers import NAMES

MEMORY_BYTES = 3 << 30
"""What a worker may ask for on top of what it has when it begins: a file of a few KB needs a fraction of that."""
KEPT = 20
"""Faults that are kept of one parser."""


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign, print a line for each parser, and return how many parsers have a fault."""
    options = _options(arguments)
    if options.worker is not None:
        return _work(options)
    names, each = options.parsers or NAMES, -(-options.cases // len(options.parsers or NAMES))
    begun, faulty = time.monotonic(), 0
    with ThreadPoolExecutor(options.processes) as pool:
        for record in pool.map(lambda name: _one_parser(name, each, options), names):
            print(json.dumps(record), flush=True)
            faulty += bool(record["undocumented"])
    seconds = time.monotonic() - begun
    total = {"cases": each * len(names), "seed": options.seed, "seconds": round(seconds, 1)}
    total["cases_a_second_and_process"] = round(total["cases"] / seconds / min(options.processes, len(names)))
    print(json.dumps(total), flush=True)
    return faulty


def _one_parser(name: str, cases: int, options: argparse.Namespace) -> dict[str, Any]:
    """All cases of one parser; a range in which a case kills the process is read again up to it and behind it."""
    tally, todo, peak, busy, killed = Tally(), [(0, cases)], 0.0, 0.0, 0
    while todo:
        first, last = todo.pop()
        with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_disk_in_memory()) as scratch:
            done = _begin_worker(name, first, last, Path(scratch), options)
            at, told = Path(scratch, "at"), Path(scratch, "told.json")
            number = int(at.read_text() or -1) if at.is_file() else -1
            found = json.loads(told.read_text()) if done.returncode == 0 else {}
        if done.returncode == 0:
            _add(tally, found)
            peak, busy = max(peak, found["peak_memory_mb"]), busy + found["seconds"]
            continue
        if number < first or killed == KEPT:
            raise RuntimeError(f"{name}: the worker ended with {done.returncode}: {done.stderr[-2000:]}")
        killed += 1
        tally.cases += 1
        tally.kinds[f"undocumented: the process died, {done.returncode}"] += 1
        _begin_worker(name, number, number + 1, None, options)
        todo += [part for part in ((number + 1, last), (first, number)) if part[0] < part[1]]
    return {"parser": name, **tally.record(), "peak_memory_mb": peak, "seconds": round(busy, 1)}


def _begin_worker(
    name: str, first: int, last: int, scratch: Path | None, options: argparse.Namespace
) -> subprocess.CompletedProcess[str]:
    """Cases [first, last) in a process; without a folder to tell in, they are kept as files and not read."""
    command = [sys.executable, "-m", "tests.fuzz.campaign", "--worker", name, "--out", str(options.out)]
    command += ["--first", str(first), "--last", str(last), "--seed", str(options.seed)]
    command += ["--scratch", str(scratch), "--die-at", str(options.die_at)] if scratch else []
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _add(tally: Tally, found: dict[str, Any]) -> None:
    tally.cases += found.get("cases", 0)
    tally.past += found.get("past", 0)
    tally.kinds.update(found.get("kinds", {}))
    tally.slowest_seconds = max(tally.slowest_seconds, found.get("slowest_seconds", 0.0))


def _work(options: argparse.Namespace) -> int:
    """What a worker does: its cases, one after another."""
    with _parser(options.worker) as parser:
        if options.scratch is None:
            for number in range(options.first, options.last):
                _keep(options, number, _case(parser, options.seed, number), "it killed the process")
            return 0
        told = Path(options.scratch, "told.json")
        _limit_memory()
        with Path(options.scratch, "at").open("w") as at:
            _read_all(parser, options, at, told)
    return 0


def _read_all(parser: Parser, options: argparse.Namespace, at: Any, told: Path) -> None:
    tally, kept, begun = Tally(), 0, time.monotonic()
    for number in range(options.first, options.last):
        os.pwrite(at.fileno(), b"%-20d" % number, 0)
        if number == options.die_at:
            os.abort()
        case = _case(parser, options.seed, number)
        outcome = judge(parser, case)
        tally.add(outcome)
        if outcome.is_fault and kept < KEPT:
            kept += 1
            _keep(options, number, case, f"{outcome.kind}: {outcome.sentence}")
    told.write_text(json.dumps(_counts(tally, time.monotonic() - begun)))


def _counts(tally: Tally, seconds: float) -> dict[str, Any]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    counts = {"cases": tally.cases, "past": tally.past, "kinds": dict(tally.kinds)}
    return {**counts, "slowest_seconds": tally.slowest_seconds, "seconds": seconds, "peak_memory_mb": round(peak)}


def _case(parser: Parser, seed: int, number: int) -> Files:
    return parser.make(random.Random(case_seed(seed, parser.name, number)))


@contextmanager
def _parser(name: str) -> Iterator[Parser]:
    """The parser, with examples in a folder of its own."""
    from tests.fuzz.examples import make_examples
    from tests.fuzz.parsers import all_parsers

    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_disk_in_memory()) as folder:
        yield all_parsers(make_examples(Path(folder)))[name]


def _limit_memory() -> None:
    """Beyond this, asking for memory fails, which shows as an error that nobody documented."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))


def _keep(options: argparse.Namespace, number: int, case: Files, why: str) -> None:
    folder = Path(options.out) / f"{options.worker.replace(' ', '-')}-{options.seed}-{number}"
    for name, content in case.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "why.txt").write_text(why + "\n", errors="backslashreplace")


def _disk_in_memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.campaign", description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=20_000, help="in all, the same number for every parser")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--parsers", nargs="*", choices=NAMES, help="some of them")
    parser.add_argument("--out", default="scratch/fuzz", help="folder for the files of faults")
    for name in ("--worker", "--scratch"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    for name in ("--first", "--last", "--die-at"):
        parser.add_argument(name, type=int, default=-1, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
