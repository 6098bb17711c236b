"""What a run, a sweep, a model and an evaluation leave, and the files that a person writes to start them."""

import hashlib
import json
import re
import tomllib
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import tomli_w
import torch
from safetensors.torch import load, save
from torch import Tensor

from dynfusion.evaluation.hiding.patterns import Pattern
from dynfusion.evaluation.protocol.cells import read_choice, read_result, write_choice, write_result
from dynfusion.evaluation.protocol.groups import CellGroup, GroupResult
from dynfusion.evaluation.protocol.jobs import Choice
from dynfusion.fusion.api import FusionModel
from dynfusion.run_settings import RunSettings
from dynfusion.settings import build, parse_overrides, read_toml
from dynfusion.training.checkpoint import complete, next_attempt, problem, read_history, read_state
from dynfusion.training.run_folder import claim, finished
from dynfusion.tuning.records import read_curves, read_finals, read_sweep, read_trials
from dynfusion.tuning.space import read_space, sample
from dynfusion.verbs.evaluated_models import read_training
from tests.fuzz.examples import Examples
from tests.fuzz.judge import Files, FirstCheckError, Parser
from tests.fuzz.memory import MemoryStorage
from tests.fuzz.mutations import as_json, mutated_bytes, mutated_text, mutated_tree, with_changed_numbers

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
    """Parsers of what runs leave and what starts them."""
    toml = re.compile("not readable as TOML")
    lists, model = re.compile("no list of files|truncated"), re.compile("not readable as|not a model of this version")
    return [
        Parser("run file", _run_files(examples.run_file), _run_file_reader(examples), toml),
        Parser("space file", _tomls(SPACE, "space.toml"), _space_reader(examples), toml),
        Parser("checkpoint", _checkpoints(examples), _checkpoint_reader(examples), lists),
        Parser("state and history", _states(examples), _state_reader(examples), NOT_JSON),
        Parser("run folder", _run_folders(examples), _run_folder_reader(examples), NOT_JSON),
        Parser("model", _models(examples), _model_reader(examples), model),
        Parser("sweep records", _sweeps(examples), _read_sweep, NOT_JSON),
        Parser("evaluation cells", _cells(examples), _cells_reader(examples), re.compile("(?!)")),
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
    folder = _copied(examples, "checkpoint", examples.checkpoint)

    def read(files: Files) -> None:
        with _replaced(folder, files, examples.checkpoint):
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
    folder = _copied(examples, "state", examples.checkpoint)

    def read(files: Files) -> None:
        with _replaced(folder, files, examples.checkpoint):
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
        claim(storage, settings, mine, lambda sentence: None)

    return read


def _models(examples: Examples) -> Any:
    """Its settings, what it says of training, or its weights: other tensors, numbers, a header, any bytes."""
    weights = examples.model["model.safetensors"]
    size = int.from_bytes(weights[:8], "little")
    header, numbers = json.loads(weights[8 : 8 + size]), weights[8 + size :]
    tensors = load(weights)

    def make(draw: Random) -> Files:
        name = draw.choice(("config.json", "config.json", "model.safetensors", "training.json"))
        if name == "model.safetensors":
            kind = draw.random()
            if kind < 0.4:
                return {name: save(_other_tensors(tensors, draw))}
            if kind < 0.7:
                return {name: with_changed_numbers(weights, draw, start=8 + size)}
            if kind < 0.8:
                return {name: mutated_bytes(weights, draw)}
            text = json.dumps(mutated_tree(header, draw)).encode("utf-8", "surrogatepass")
            return {name: len(text).to_bytes(8, "little") + text + numbers}
        if draw.random() < 0.1:
            return {name: mutated_bytes(examples.model[name], draw)}
        return {name: as_json(mutated_tree(json.loads(examples.model[name]), draw), draw)}

    return make


def _other_tensors(tensors: dict[str, Tensor], draw: Random) -> dict[str, Tensor]:
    """One of them dropped, called otherwise, of another type or of another shape."""
    name = draw.choice(list(tensors))
    tensor = tensors[name]
    kinds = (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8)
    changed = draw.choice((tensor[None], tensor.flatten()[:0], tensor.to(draw.choice(kinds)), tensor * float("nan")))
    others = {key: value for key, value in tensors.items() if key != name}
    return draw.choice((others, {**others, name: changed.contiguous()}, {**others, f"{name}.more": tensor}))


def _model_reader(examples: Examples) -> Any:
    folder = _copied(examples, "model", examples.model)

    def read(files: Files) -> None:
        with _replaced(folder, files, examples.model):
            if "training.json" in files:
                read_training(folder)
            else:
                FusionModel.load(folder)

    return read


def _sweeps(examples: Examples) -> Any:
    names = list(examples.sweep)

    def make(draw: Random) -> Files:
        name = draw.choice(("sweep.json", "finals.json", draw.choice(names), draw.choice(names)))
        content = examples.sweep[name]
        if draw.random() < 0.15:
            return {name: mutated_bytes(content, draw)}
        if not name.endswith(".jsonl"):
            return {name: as_json(mutated_tree(json.loads(content), draw), draw)}
        lines = content.splitlines()
        at = draw.randrange(len(lines))
        lines[at] = as_json(mutated_tree(json.loads(lines[at]), draw), draw)
        return {name: b"\n".join(lines) + draw.choice((b"\n", b""))}

    return make


def _read_sweep(files: Files) -> None:
    storage = MemoryStorage(files)
    if "sweep.json" in files:
        read_sweep(storage)
    read_finals(storage)
    read_trials(storage)
    read_curves(storage)


def _cells(examples: Examples) -> Any:
    """A finished group and a choice; the record's hash of its arrays is made right again."""
    valid = _finished_cells(examples)
    array_name, record_name, choice_name = valid

    def make(draw: Random) -> Files:
        if draw.random() < 0.3:
            return {choice_name: as_json(mutated_tree(json.loads(valid[choice_name]), draw), draw)}
        arrays, record = valid[array_name], json.loads(valid[record_name])
        if draw.random() < 0.5:
            arrays = mutated_bytes(arrays, draw) if draw.random() < 0.5 else with_changed_numbers(arrays, draw)
        else:
            record = mutated_tree(record, draw)
        if isinstance(record, dict):
            record = {**record, "sha256": hashlib.sha256(arrays).hexdigest()}
        return {array_name: arrays, record_name: as_json(record, draw)}

    return make


def group() -> CellGroup:
    pattern = Pattern("subset", ("a", "b"))
    return CellGroup("folds", "t", "0", "fused", "m", "linear", 0, "transferred", pattern, False, (pattern,), "k" * 16)


def finished_group() -> GroupResult:
    """A group of one pattern and three molecules."""
    chosen = {"fused": {"C": 1.0}}
    return GroupResult(group(), np.zeros((1, 3, 1)), {"roc_auc": np.zeros((1, 5))}, (0,), (0.0,), chosen)


def choice() -> Choice:
    return Choice("t", "0", "fused", "linear", "k" * 16)


def _finished_cells(examples: Examples) -> Files:
    folder = examples.scratch / "cells"
    result = finished_group()
    write_result(folder, result)
    write_choice(folder, choice(), {"C": 1.0})
    paths = (f"{result.group.name}.npz", f"{result.group.name}.json", f"{choice().name}.json")
    return {name: (folder / name).read_bytes() for name in paths}


def _cells_reader(examples: Examples) -> Any:
    valid = _finished_cells(examples)
    folder, (array_name, record_name, choice_name) = examples.scratch / "cells", valid

    def read(files: Files) -> None:
        with _replaced(folder, files, valid):
            if choice_name in files:
                found: object = read_choice(folder, choice())
            else:
                found = read_result(folder, group())
        whole = record_name not in files or _is_whole(files[array_name], files[record_name])
        if found is None and not whole:
            raise FirstCheckError

    return read


def _is_whole(arrays: bytes, record: bytes) -> bool:
    """What the reader's own first check asks: JSON with the hash of the arrays."""
    try:
        return json.loads(record)["sha256"] == hashlib.sha256(arrays).hexdigest()
    except (ValueError, TypeError, LookupError, RecursionError):
        return False


def _copied(examples: Examples, name: str, files: Files) -> Path:
    folder = examples.scratch / f"copy-{name}"
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


class _replaced:  # noqa: N801, it reads as a statement
    """Inside the `with` the folder has these files in place of the valid ones."""

    def __init__(self, folder: Path, files: Files, valid: Files) -> None:
        self.folder, self.files, self.valid = folder, files, valid

    def __enter__(self) -> None:
        for name, content in self.files.items():
            (self.folder / name).write_bytes(content)

    def __exit__(self, *_: object) -> None:
        for name in self.files:
            if name in self.valid:
                (self.folder / name).write_bytes(self.valid[name])
            else:
                (self.folder / name).unlink()
