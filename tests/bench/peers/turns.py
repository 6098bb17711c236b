"""The part that every contestant shares: it waits for its turn and counts the rows of whole batches.

    python CONTESTANT.py prepare RAW WORK     bring the bytes of RAW (one .npy per modality) into its own format
    python CONTESTANT.py serve RAW WORK BATCH then, a line each on stdin: SETTING SECONDS -> {"rows", "seconds"}

No line is read ahead of its turn, and nothing but the standard library is needed, so it runs in any environment.
"""

import contextlib
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

Epoch = Callable[[Path, Path, int], Iterator[int]]


def take_part(prepare: Callable[[Path, Path], None], settings: dict[str, Epoch]) -> None:
    """Run as the command line says. A setting makes one shuffled epoch, an iterator of rows per batch."""
    verb, raw, work = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr
    if verb == "prepare":
        work.mkdir(parents=True, exist_ok=True)
        prepare(raw, work)
        return
    batch_rows = int(sys.argv[4])
    print(json.dumps(sorted(settings)), file=answers, flush=True)
    for line in sys.stdin:
        name, seconds = line.split()
        answer = _turn(lambda name=name: settings[name](raw, work, batch_rows), float(seconds))
        print(json.dumps(answer), file=answers, flush=True)


def _turn(epoch: Callable[[], Iterator[int]], seconds: float) -> dict[str, float]:
    """Whole batches for at least so long. Starting an epoch, up to its first batch, is never counted.

    That favours whoever starts slowly and reads ahead meanwhile.
    """
    gc.collect()
    batches = epoch()
    next(batches)
    rows, spent, resumed = 0, 0.0, time.perf_counter()
    while spent + time.perf_counter() - resumed < seconds or not rows:
        try:
            rows += next(batches)
        except StopIteration:
            spent += time.perf_counter() - resumed
            batches = epoch()
            next(batches)
            resumed = time.perf_counter()
    spent += time.perf_counter() - resumed
    with contextlib.suppress(AttributeError):
        batches.close()
    return {"rows": rows, "seconds": spent}


def nothing(raw: Path, work: Path) -> None:
    """It reads the raw files."""
