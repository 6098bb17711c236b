"""The files that a person writes to start a run or a sweep, and the folder that a run leaves."""

import hashlib
import json
import re
import tomllib
from random import Random
from typing import Any

import numpy as np
import tomli_w

from dynfusion.run_settings import RunSettings, reidentified
from dynfusion.settings import build, parse_overrides, read_toml
from dynfusion.training.checkpoint import complete, next_attempt, problem, read_history, read_state
from dynfusion.training.planning.calibration import Calibration, ProductRate, read_calibration
from dynfusion.training.run_folder import claim, finished
from dynfusion.tuning.space import read_space, sample
from tests.fuzz.examples import Examples
from tests.fuzz.judge import Files, Parser
from tests.fuzz.memory import MemoryStorage
from tests.fuzz.mutations import as_json, mutated_bytes, mutated_text, mutated_tree
from tests.fuzz.on_disk import Replaced, copied

SPACE = """["loss.alignment"]
loguniform = [0.005, 0.5]
["train.warmup_steps"]
randint = [1, 9]
step = 2
["masking.schedule"]
choice = ["linear", "cosine", "constant"]
["masking.start"]
uniform = [0.0, 0.3]
when = { "masking.schedule" = ["linear", "cosine"] }
"""
OVERRIDES = ("train.epochs=3", "loss.alignment=0.25", "engine.kind=torch", 'data.uri=["a", "b"]', "train.init=x")
_LIST_NAMES = ("files-00001-of-00002.json", "files-x-of-y.json", "files-0-of-0.json", "files-00000-of-00000.json")
NOT_JSON = re.compile("not readable as JSON")


def run_parsers(examples: Examples) -> list[Parser]:
    """Parsers of what starts runs and of a run's folder."""
    toml, lists = re.compile("not readable as TOML"), re.compile("no list of files|truncated")
    return [
        Parser("run file", _run_files(examples.run_file), _run_file_reader(examples), toml),
        Parser("space file", _tomls(SPACE, "space.toml"), _space_reader(examples), toml),
        Parser("checkpoint", _checkpoints(examples), _checkpoint_reader(examples), lists),
        Parser("state and history", _states(examples), _state_reader(examples), NOT_JSON),
        Parser("run folder", _run_folders(examples), _run_folder_reader(examples), NOT_JSON),
        Parser("calibration", _calibrations, _calibration_reader(examples), NOT_JSON),
    ]


def _tomls(text: str, name: str) -> Any:
    tree = tomllib.loads(text)

    def make(draw: Random) -> Files:
        if draw.random() < 0.35:
            return {name: mutated_text(text, draw).encode("utf-8", "surrogatepass")}
        try:
            return {name: tomli_w.dumps(mutated_tree(tree, draw)).encode("utf-8", "surrogatepass")}
        except (TypeError, AttributeError, ValueError):  # TOML has no null and no other names than texts
            return {name: mutated_text(text, draw).encode("utf-8", "surrogatepass")}

    return make


def _run_files(text: str) -> Any:
    """A run file, or what stands behind it on the command line."""
    file = _tomls(text, "run.toml")

    def make(draw: Random) -> Files:
        if draw.random() < 0.75:
            return {**file(draw), "overrides": b""}
        lines = [mutated_text(line, draw) if draw.random() < 0.5 else line for line in OVERRIDES]
        return {"run.toml": text.encode(), "overrides": "\0".join(lines).encode("utf-8", "surrogatepass")}

    return make


def _run_file_reader(examples: Examples) -> Any:
    path = examples.scratch / "run.toml"

    def read(files: Files) -> None:
        path.write_bytes(files["run.toml"])
        overrides = files["overrides"].decode("utf-8", "surrogatepass")
        build(RunSettings, read_toml(path), parse_overrides(overrides.split("\0") if overrides else ()))

    return read


def _space_reader(examples: Examples) -> Any:
    path = examples.scratch / "space.toml"

    def read(files: Files) -> None:
        path.write_bytes(files["space.toml"])
        sample(read_space(path), np.random.default_rng(0))

    return read


def _checkpoints(examples: Examples) -> Any:
    """The list of files changed as a tree or as bytes, or a listed file changed, with or without its hash."""
    (name,) = (name for name in examples.checkpoint if name.startswith("files-"))

    def make(draw: Random) -> Files:
        listed = json.loads(examples.checkpoint[name])
        if draw.random() < 0.15:
            return {name: mutated_bytes(examples.checkpoint[name], draw)}
        if draw.random() < 0.6:
            other = draw.choice(
                (name, name, name, "files-00001-of-00002.json", "files-x-of-y.json", "files-0-of-0.json")
            )
            return {other: as_json(mutated_tree(listed, draw), draw)}
        changed = draw.choice(list(listed))
        content = mutated_bytes(examples.checkpoint[changed], draw)
        listed[changed] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        return {changed: content, name: json.dumps(listed).encode()}

    return make


def _checkpoint_reader(examples: Examples) -> Any:
    folder = copied(examples, "checkpoint", examples.checkpoint)

    def read(files: Files) -> None:
        with Replaced(folder, files, examples.checkpoint):
            complete(folder)
            found = problem(folder)
        if found is not None:
            raise ValueError(found)

    return read


def _states(examples: Examples) -> Any:
    def make(draw: Random) -> Files:
        name = draw.choice(("state.json", "history.jsonl"))
        content = examples.checkpoint[name]
        if draw.random() < 0.2:
            return {name: mutated_bytes(content, draw)}
        if name == "state.json":
            return {name: as_json(mutated_tree(json.loads(content), draw), draw)}
        lines = [as_json(mutated_tree(json.loads(line), draw), draw) for line in content.splitlines()]
        return {name: b"\n".join(lines)}

    return make


def _state_reader(examples: Examples) -> Any:
    folder = copied(examples, "state", examples.checkpoint)

    def read(files: Files) -> None:
        with Replaced(folder, files, examples.checkpoint):
            read_state(folder)
            read_history(folder)

    return read


def _run_folders(examples: Examples) -> Any:
    valid = {**examples.run, "model/training.json": examples.model["training.json"]}

    def make(draw: Random) -> Files:
        name = draw.choice(list(valid))
        tree = json.loads(valid[name])
        changed = mutated_bytes(valid[name], draw) if draw.random() < 0.2 else as_json(mutated_tree(tree, draw), draw)
        return {**valid, name: changed}

    return make


def _run_folder_reader(examples: Examples) -> Any:
    settings, mine = examples.settings.model_dump(mode="json"), examples.identity

    def read(files: Files) -> None:
        storage = MemoryStorage(files)
        finished(storage, 3)
        next_attempt(storage)
        claim(storage, settings, mine, lambda sentence: None, lambda tree: reidentified(tree, mine.data))

    return read


def _calibrations(draw: Random) -> Files:
    rates = [
        ProductRate(rows=size, inner=64, columns=64, precision="fp32", flops_per_second=1e10) for size in (512, 1024)
    ]
    speeds = {"pass_rate": 1e10, "gather_rate": 5e9, "call_seconds": 1e-5}
    made = Calibration(
        processor="AVX2", cores=2, memory_bytes=1 << 34, threads=1, workers=2, products=tuple(rates), **speeds
    )
    text = made.model_dump_json(indent=1)
    if draw.random() < 0.2:
        return {"calibration.json": mutated_bytes(text.encode(), draw)}
    return {"calibration.json": as_json(mutated_tree(json.loads(text), draw), draw)}


def _calibration_reader(examples: Examples) -> Any:
    path = examples.scratch / "calibration.json"

    def read(files: Files) -> None:
        path.write_bytes(files["calibration.json"])
        read_calibration(path)

    return read
