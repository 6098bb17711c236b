"""The feed beside other loaders on the same bytes: shuffled batches, all contestants in turns.

    python -m tests.bench.peers_setup DIR
    python -m tests.bench.bench_feed_peers [ROWS] [--environments DIR] [--folder PLACE_FOR_DATA]

Every contestant is a process of its own (of its own environment when it has pins of its own) that has brought the bytes
into its own format beforehand and is given its best of several settings. Within a round each setting gets its seconds
while the others wait; a figure is the median of the rounds.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

DIMS = {"first": 768, "second": 1024, "third": 1024}
ROUNDS = 5
_HOPELESS = 0.6
HERE = Path(__file__).parent / "peers"

# Contestant -> (script, the folder of its environment or None for this one).
CONTESTANTS = {
    "dynfusion": ("dynfusion_feed.py", None),
    "torch": ("torch_loader.py", None),
    "ray": ("ray_data.py", None),
    "hugging_face": ("hugging_face.py", "hugging_face"),
    "mosaic": ("mosaic.py", "mosaic"),
    "lance": ("lance_take.py", "lance"),
    "litdata": ("litdata_loader.py", "litdata"),
    "webdataset": ("webdataset_loader.py", "webdataset"),
}

# Figure -> the settings that compete for it: all of a contestant's that begin so.
RIVALS = {
    "over_torch_batched": ("torch", "batched"),
    "over_torch_per_sample": ("torch", "sample"),
    "over_ray_read": ("ray", "read"),
    "over_ray_materialised": ("ray", "materialised"),
    "over_hf": ("hugging_face", ""),
    "over_mosaic": ("mosaic", ""),
    "over_lance": ("lance", ""),
    "over_litdata": ("litdata", ""),
    "over_webdataset": ("webdataset", ""),
}

Rates = dict[tuple[str, str], list[float]]


@dataclass(frozen=True)
class Contestant:
    """A process that waits for its turns, and its settings."""

    process: subprocess.Popen[str]
    settings: tuple[str, ...]

    def turn(self, setting: str, seconds: float) -> float:
        """Rows per second."""
        answer = self._ask(f"{setting} {seconds}")
        return answer["rows"] / answer["seconds"]

    def _ask(self, line: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(line, file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()


def main(
    rows: int = 131_072,
    *,
    environments: Path | None = None,
    folder: Path | None = None,
    batch_rows: int = 4096,
    round_seconds: float = 1.0,
    only: tuple[str, ...] = tuple(CONTESTANTS),
) -> dict[str, Any]:
    """Measure; print one JSON line and return what it says. `folder` keeps the data for another run of that size."""
    skipped: dict[str, str] = {}
    with ExitStack() as stack:
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        raw = _write_raw(place / f"raw-{rows}", rows)
        contestants = {}
        for name in only:
            started = _start(name, raw, place / f"{name}-{rows}", environments=environments, batch_rows=batch_rows)
            if isinstance(started, str):
                skipped[name] = started
                continue
            stack.callback(started.close)
            contestants[name] = started
        rates = _take_turns(contestants, round_seconds)
    result = _result(rates, skipped, {"rows": rows, "batch_rows": batch_rows, "round_seconds": round_seconds})
    print(json.dumps(result))
    return result


def _start(name: str, raw: Path, work: Path, *, environments: Path | None, batch_rows: int) -> "Contestant | str":
    """The contestant, its data prepared; a sentence when it cannot take part."""
    script, environment = CONTESTANTS[name]
    python = Path(sys.executable)
    if environment is not None:
        if environments is None:
            return "no --environments were given, python -m tests.bench.peers_setup makes them"
        python = environments / environment / "bin" / "python"
        if not python.exists():
            return f"{python} is missing, python -m tests.bench.peers_setup makes it"
    root = str(Path(__file__).parents[2])
    variables = {**os.environ, "PYTHONPATH": root if environment is None else ""}
    command = [str(python), str(HERE / script)]
    if not (work / "prepared").exists():
        shutil.rmtree(work, ignore_errors=True)  # half of an interrupted one
        done = subprocess.run(
            [*command, "prepare", str(raw), str(work)], env=variables, capture_output=True, text=True, check=False
        )
        if done.returncode:
            return f"it could not prepare its data: {_last_line(done.stderr)}"
        (work / "prepared").touch()
    process = subprocess.Popen(
        [*command, "serve", str(raw), str(work), str(batch_rows)],
        env=variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    if not first:
        process.communicate()
        return f"it ended with {process.returncode} before its first turn"
    return Contestant(process, tuple(json.loads(first)))


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]


def _take_turns(contestants: Mapping[str, Contestant], seconds: float) -> Rates:
    """Rows per second by contestant and setting, one number per round.

    A first round warms up, and settings that come nowhere near the best of their figure leave after it.
    """
    turns = [(name, setting) for name, contestant in contestants.items() for setting in contestant.settings]
    first = {(name, setting): contestants[name].turn(setting, seconds) for name, setting in turns}
    groups = {("dynfusion", "feed"), ("dynfusion", "memcpy"), *RIVALS.values()}
    best = {group: max((first[turn] for turn in turns if _in(turn, group)), default=0.0) for group in groups}
    staying = [
        turn for turn in turns if any(_in(turn, group) and first[turn] > _HOPELESS * best[group] for group in groups)
    ]
    rates: Rates = {turn: [] for turn in staying}
    for _ in range(ROUNDS):
        for name, setting in staying:
            rates[name, setting].append(contestants[name].turn(setting, seconds))
    return rates


def _in(turn: tuple[str, str], group: tuple[str, str]) -> bool:
    return turn[0] == group[0] and turn[1].startswith(group[1])


def _result(rates: Rates, skipped: dict[str, str], settings: dict[str, Any]) -> dict[str, Any]:
    medians = {key: statistics.median(found) for key, found in rates.items()}
    ours = _best(medians, "dynfusion", "feed")
    figures = {"rows_per_second": ours}
    for figure, (name, prefix) in RIVALS.items():
        if name not in skipped and any(key[0] == name for key in medians):
            figures[figure] = ours / _best(medians, name, prefix)
    return {
        "benchmark": "feed_peers",
        "figures": figures,
        "ceilings": {"memcpy_rows_per_second": medians["dynfusion", "memcpy"]},
        "rows_per_second": {f"{name} {setting}": round(rate) for (name, setting), rate in medians.items()},
        "skipped": skipped,
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "hardware": {"cores": os.cpu_count(), "machine": platform.machine(), "system": platform.system()},
        "settings": {**settings, "dims": list(DIMS.values()), "rounds": ROUNDS},
    }


def _best(medians: dict[tuple[str, str], float], name: str, prefix: str) -> float:
    return max(rate for turn, rate in medians.items() if _in(turn, (name, prefix)))


def _write_raw(folder: Path, rows: int) -> Path:
    """One .npy per modality, float16 noise, a piece of it over and over: what it holds does not matter to a copy."""
    if (folder / "written").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).standard_normal((4096, 1024)).astype(np.float16)
    for name, dim in DIMS.items():
        array = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float16, (rows, dim))
        for start in range(0, rows, len(noise)):
            piece = array[start : start + len(noise)]
            piece[:] = noise[: len(piece), :dim]
        array.flush()
    (folder / "written").touch()
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="?", type=int, default=131_072)
    parser.add_argument("--environments", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", nargs="*", choices=list(CONTESTANTS), default=list(CONTESTANTS))
    chosen = parser.parse_args()
    main(chosen.rows, environments=chosen.environments, folder=chosen.folder, only=tuple(chosen.only))
