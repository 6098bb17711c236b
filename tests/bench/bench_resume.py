"""pubchem.toml as it stands but for its size of cluster: deep inside an epoch of 100 million rows, killed, resumed.

    python -m tests.bench.bench_resume FOLDER [--rows 100000000] [--start 3150] [--kill 3300] [--stop 3350]

The data set is one real shard of random rows under thousands of names (hard links), so it takes 0.2 GB. A checkpoint of
fresh weights is put at step START; the run goes on from it, gets SIGKILL (its driver, and with it all workers) behind
step KILL, and the same command goes on to STOP. Prints one JSON line: seconds from the command to the first step, the
workers' memory early and late, and whether the steps that were done twice have the same losses to the last digit.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from dynfusion.edges.deepspeed_engine import DeepSpeedEngine
from dynfusion.run_settings import RunSettings, identity, read_run
from dynfusion.store.blocks import read_blocks, write_blocks
from dynfusion.store.dataset import Dataset, open_dataset
from dynfusion.store.manifest import FileSpec, with_fingerprint, write_manifest
from dynfusion.store.order import choose_layout
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs, PackSettings
from dynfusion.training.assemble import make_objective
from dynfusion.training.checkpoint import State, checkpoint_name, save_checkpoint
from tests.training.ranks import run_ranks

RUN = Path(__file__).parents[2] / "jobs" / "runs" / "pubchem.toml"
DIMS = {"smiles": 768, "selfies": 1024, "graph": 1024}
BLOCK_ROWS, SHARD_BLOCKS = 256, 128
SMALL = ["cluster.workers=2", "cluster.gpus=false", "cluster.cpus_per_worker=1", "train.log_every_steps=1"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--start", type=int, default=3150)
    parser.add_argument("--kill", type=int, default=3300)
    parser.add_argument("--stop", type=int, default=3350)
    parser.add_argument("--set", dest="overrides", nargs="*", default=[])
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    dataset = write_linked_pack(folder / "data", arguments.rows)
    overrides = [*SMALL, f"data.uri={dataset.uri}", f"cluster.storage={folder / 'runs'}", *arguments.overrides]
    run = folder / "runs" / "pubchem"
    put_checkpoint(read_run(RUN, overrides), dataset, arguments.start, folder / "ranks")
    first = train(overrides, arguments.kill)
    shutil.copyfile(run / "history.jsonl", folder / "before.jsonl")
    second = train(overrides, arguments.stop)
    before, after = losses(folder / "before.jsonl"), losses(run / "history.jsonl")
    twice = sorted(step for step in before if step in after and step > second["from_step"])
    result = {
        "benchmark": "resume",
        "figures": {
            "first_step_seconds": first["first_step_seconds"],
            "resumed_first_step_seconds": second["first_step_seconds"],
            "worker_memory_mb": {"before": first["memory_mb"], "after": second["memory_mb"]},
            "steps": len(before) + len(after) - len(twice),
            "steps_done_twice": len(twice),
            "equal_to_the_last_digit": all(before[step] == after[step] for step in twice),
            "rows_per_second": first["rows_per_second"],
        },
        "settings": {"rows": arguments.rows, "start": arguments.start, "overrides": overrides},
    }
    print(json.dumps(result))


def write_linked_pack(folder: Path, rows: int) -> Dataset:
    """A dataset of so many rows whose shards are all the same file."""
    target = folder / "packed"
    if (target / "manifest.json").exists():
        return open_dataset(target)
    count = BLOCK_ROWS * SHARD_BLOCKS
    chance = np.random.default_rng(0)
    for name, dim in DIMS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        np.save(folder / name / "embeddings.npy", chance.standard_normal((count, dim)).astype(np.float16))
        (folder / name / "ids.txt").write_text("".join(f"{row}\n" for row in range(count)))
    settings = PackSettings(block_rows=BLOCK_ROWS, lanes=1, shard_bytes=1 << 40)
    small = pack(PackInputs({name: folder / name for name in DIMS}), out=folder / "small", settings=settings)
    (shard,) = small.shards
    target.mkdir()
    shards = []
    for number in range(rows // count):
        names = f"train-{number:05d}.arrow", f"train-{number:05d}.rows.arrow"
        for of, name in zip((shard.path, shard.sidecar.path), names, strict=True):
            os.link(folder / "small" / of, target / name)
        sidecar = shard.sidecar.model_copy(update={"path": names[1]})
        shards.append(shard.model_copy(update={"path": names[0], "sidecar": sidecar}).model_dump(mode="json"))
    tables = [read_blocks(folder / "small", small)] * len(shards)
    write_blocks(target / "blocks.bin", tables)
    layout = choose_layout(len(shards) * count, block_rows=BLOCK_ROWS)
    size = (target / "blocks.bin").stat().st_size
    content = small.model_dump(mode="json") | {
        "rows": layout.rows,
        "lanes": layout.lanes,
        "window_blocks": layout.window_blocks,
        "shards": shards,
        "blocks": FileSpec(
            path="blocks.bin", rows=sum(map(len, tables)), bytes=size, sha256=small.blocks.sha256
        ).model_dump(),
    }
    write_manifest(with_fingerprint(content), target)
    return open_dataset(target)


def put_checkpoint(settings: RunSettings, dataset: Dataset, step: int, scratch: Path) -> None:
    """A checkpoint of fresh weights at a step, as two ranks would have written it."""
    target = Path(settings.cluster.storage) / settings.cluster.name / checkpoint_name(step, 1)
    if not target.exists():
        parts = run_ranks(2, scratch, save_part, settings.model_dump(mode="json"), dataset.uri, step, str(scratch))
        for part in parts:
            shutil.copytree(part, target, dirs_exist_ok=True)


def save_part(content: dict[str, object], uri: str, step: int, scratch: str) -> str:
    """What one rank saves."""
    settings, dataset = RunSettings(**content), open_dataset(uri)
    objective = make_objective(dataset.manifest.modalities, settings.model, settings.loss, seed=settings.train.seed)
    engine = DeepSpeedEngine(objective, settings.train, settings.engine, torch.device("cpu"))
    mine = identity(settings, dataset.manifest.fingerprint)
    state = State(step, mine.run, mine.data, engine.world_size, torch.get_rng_state().tolist())
    part = Path(scratch) / f"part-{engine.rank}"
    save_checkpoint(part, engine, objective.network, state, [{"step": step, "loss": 0.0}])
    return str(part)


def train(overrides: list[str], kill_behind: int) -> dict[str, float]:
    """Run the command until a step, then kill it; when it came to its first step, and its workers' memory."""
    started, first, memory, from_step, rate = time.monotonic(), None, [], 0, 0.0
    command = [sys.executable, "-m", "dynfusion", "train", str(RUN), *overrides]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            print(line, end="", file=sys.stderr)
            if found := re.search(r"continuing from .* at step (\d+)", line):
                from_step = int(found.group(1))
            if found := re.match(r"step (\d+)/.* ([\d,]+) rows/s", line):
                first = first or time.monotonic() - started
                rate = float(found.group(2).replace(",", ""))
                memory.append(worker_memory(driver.pid))
                if int(found.group(1)) >= kill_behind:
                    break
        left = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
    psutil.wait_procs(left, timeout=60)
    tenth = max(len(memory) // 10, 1)
    early, late = (round(float(np.median(part)) / 2**20) for part in (memory[tenth : 2 * tenth + 1], memory[-tenth:]))
    return {"first_step_seconds": first, "memory_mb": [early, late], "from_step": from_step, "rows_per_second": rate}


def worker_memory(driver: int) -> int:
    """Bytes that belong to the largest worker alone."""
    sizes = [0]
    for process in psutil.Process(driver).children(recursive=True):
        try:
            if process.cmdline() and process.cmdline()[0].startswith("ray::RayTrainWorker"):
                sizes.append(process.memory_full_info().uss)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return max(sizes)


def losses(path: Path) -> dict[int, float]:
    """The loss of each step in a history."""
    return {record["step"]: record["loss"] for record in map(json.loads, path.read_text().splitlines())}


if __name__ == "__main__":
    main()
