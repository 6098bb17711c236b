"""How long packing takes beside copying the same bytes twice with `cp`, and in how much memory.

    python -m tests.bench.bench_pack [rows] [narrow_rows]

The contestants take turns, all files warm; every figure is the median of the rounds. The narrow run is one, in a
process of its own whose resident memory is the figure.
"""

import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs, PackSettings
from dynfusion.store.run_jobs import available_cores

DIMS = {"first": 768, "second": 1024, "third": 1024}
NARROW = {"left": 16, "right": 8}
ROUNDS = 5
NARROW_MEMORY_BYTES = 2 << 30


def main(size: int = 262_144, narrow_rows: int = 10_000_000, *, rounds: int = ROUNDS) -> dict[str, Any]:
    """Measure with `size` rows of 5.6 KB, then `narrow_rows` of 48 B, in a temporary folder; print one JSON line and
    return what it says."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size_bytes = _write_sources(folder / "wide", DIMS, size)
        turns = {"copy_twice": lambda: _copy_twice(folder), "pack": lambda: _pack(folder)}
        seconds = _take_turns(turns, folder, rounds)
        shutil.rmtree(folder / "wide")
        narrow = _pack_narrow(folder, narrow_rows)
    result = {
        "benchmark": "pack",
        "figures": {
            "pack_seconds": seconds["pack"],
            "pack_over_two_copies": seconds["pack"] / seconds["copy_twice"],
            "pack_gb_per_second": size_bytes / 1e9 / seconds["pack"],
            "pack_cpu_seconds": seconds["pack_cpu"],
            **narrow,
        },
        "ceilings": {"two_copies_seconds": seconds["copy_twice"], **_checksum_rates()},
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "pyarrow": pa.__version__,
        },
        "hardware": {"cores": available_cores(), "machine": platform.machine(), "system": platform.system()},
        "settings": {
            "rows": size,
            "dims": list(DIMS.values()),
            "rounds": rounds,
            "narrow_rows": narrow_rows,
            "narrow_dims": list(NARROW.values()),
            "narrow_memory_mb": NARROW_MEMORY_BYTES >> 20,
        },
    }
    print(json.dumps(result))
    return result


def _write_sources(folder: Path, dims: dict[str, int], rows: int) -> int:
    """Folders as `embed` writes them, every second one in another order of the rows; their bytes."""
    noise = np.random.default_rng(0).standard_normal((4096, max(dims.values()))).astype(np.float16)
    for number, (name, dim) in enumerate(dims.items()):
        (folder / name).mkdir(parents=True)
        with (folder / name / "ids.txt").open("w") as file:
            for start in range(0, rows, 1 << 16):
                stop = min(start + (1 << 16), rows)
                ids = range(start, stop) if number % 2 == 0 else range(rows - 1 - start, rows - 1 - stop, -1)
                file.write("".join(f"{row:09d}\n" for row in ids))
        vectors = np.lib.format.open_memmap(folder / name / "embeddings.npy", "w+", np.float16, (rows, dim))
        for start in range(0, rows, len(noise)):
            piece = vectors[start : start + len(noise)]
            piece[:] = noise[: len(piece), :dim]
        vectors.flush()
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _copy_twice(folder: Path) -> None:
    for number in range(2):
        subprocess.run(["cp", "-r", "--reflink=never", folder / "wide", folder / f"out-{number}"], check=True)


def _pack(folder: Path) -> None:
    pack(PackInputs({name: folder / "wide" / name for name in DIMS}), out=folder / "out-packed")


def _take_turns(turns: dict[str, Callable[[], None]], folder: Path, rounds: int) -> dict[str, float]:
    """Median seconds of each contestant, and this process's own CPU seconds of `pack`."""
    taken: dict[str, list[float]] = {name: [] for name in [*turns, "pack_cpu"]}
    for _ in range(rounds):
        for name, turn in turns.items():
            before, started = os.times(), time.perf_counter()
            turn()
            taken[name].append(time.perf_counter() - started)
            after = os.times()
            if name == "pack":
                taken["pack_cpu"].append(after.user - before.user + after.system - before.system)
            for made in folder.glob("out-*"):
                shutil.rmtree(made)
    return {name: statistics.median(times) for name, times in taken.items()}


def _pack_narrow(folder: Path, rows: int) -> dict[str, float]:
    """Seconds, rows a second and the most resident memory of one pack of so many narrow rows."""
    _write_sources(folder / "narrow", NARROW, rows)
    started = time.perf_counter()
    command = [sys.executable, "-m", "tests.bench.bench_pack", "--narrow", str(folder / "narrow"), str(folder / "n")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    return {
        "narrow_seconds": seconds,
        "narrow_rows_per_second": rows / seconds,
        "narrow_peak_rss_mb": int(done.stdout) / 1024,
    }


def _tell_narrow(source: Path, out: Path) -> None:
    """What the process of its own does: pack, and print its largest resident size in KB."""
    pack(
        PackInputs({name: source / name for name in NARROW}),
        out=out,
        settings=PackSettings(memory_bytes=NARROW_MEMORY_BYTES),
    )
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(peak.split()[1])


def _checksum_rates() -> dict[str, float]:
    """GB a second of the two checksums on one thread."""
    content = np.random.default_rng(0).integers(0, 256, 1 << 24, np.uint8)
    rates = {}
    for name, digest in {"sha256": lambda: hashlib.sha256(content), "crc32": lambda: zlib.crc32(content)}.items():
        times = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            digest()
            times.append(time.perf_counter() - started)
        rates[f"{name}_gb_per_second"] = content.nbytes / 1e9 / statistics.median(times)
    return rates


if __name__ == "__main__":
    if sys.argv[1:2] == ["--narrow"]:
        _tell_narrow(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main(*map(int, sys.argv[1:]))
