"""What `dynfusion plan evaluate` expects of an evaluation beside what it takes, task by task.

    python -m tests.bench.bench_plan MODEL TASK=PACKED[,TASK=PACKED] [evaluation.NAME=VALUE ...]

Each task is evaluated by itself into an empty folder on all CPUs; measured are the seconds in which its molecules are
embedded and its heads fitted and scored, as the command prints them. Imputers are fitted once an evaluation and are not
part of either.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from dynfusion.verbs.plan_evaluate import plan_evaluate

ROOT = Path(__file__).parents[2]


def main(model: str, tasks: str, *overrides: str) -> None:
    """Prints one line for every task. Raises CalledProcessError when an evaluation fails."""
    for task in tasks.split(","):
        expected = plan_evaluate([model], tasks=task, overrides=overrides)
        with tempfile.TemporaryDirectory() as out:
            arguments = ["evaluate", "--model", model, "--tasks", task, "--out", out, *overrides]
            command = [sys.executable, "-m", "dynfusion", *arguments]
            told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        name = task.partition("=")[0]
        steps = re.findall(rf"^{re.escape(name)}: (?:embed|fit and score).*done in ([\d.]+) s$", told, re.MULTILINE)
        measured = sum(map(float, steps))
        print(
            f"{name}: expected {expected.seconds:.0f} s, measured {measured:.0f} s, "
            f"{expected.seconds / measured - 1:+.0%}",
            flush=True,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
