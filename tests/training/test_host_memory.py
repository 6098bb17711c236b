"""A step's memory stays with the process, in whichever thread the step runs."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, threading, torch
from dynfusion.training.host_memory import keep_freed_memory

def step():
    kept = [torch.zeros(1 << 20) for _ in range(40)]  # 4 MB each
    return [part + 1 for part in kept]

def count():
    for _ in range(3):
        step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

torch.set_num_threads(1)
assert keep_freed_memory()
if sys.argv[1] == "first":
    count()
else:
    thread = threading.Thread(target=count)
    thread.start()
    thread.join()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
@pytest.mark.parametrize("thread", ["first", "another"])  # Ray Train runs the training loop in another
def test_memory_that_was_freed_is_not_faulted_in_again(thread: str) -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS, thread], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2_000  # of the 400,000 pages that five steps touch
