"""What runs, sweeps and evaluations end with: a model, records of trials, cells."""

import hashlib
import json
import re
from random import Random
from typing import Any

import numpy as np
import ray
import torch
from safetensors.torch import load, save
from torch import Tensor

from dynfusion.edges.ray_snapshot import mend_snapshot
from dynfusion.evaluation.held_out import rows_looked_at
from dynfusion.evaluation.hiding.patterns import Pattern
from dynfusion.evaluation.protocol.cells import read_choice, read_result, write_choice, write_result
from dynfusion.evaluation.protocol.groups import CellGroup, GroupResult
from dynfusion.evaluation.protocol.jobs import Choice
from dynfusion.evaluation.reference import Reference, RidgeError, read, write
from dynfusion.fusion.api import FusionModel
from dynfusion.training.checkpoint import REGISTERED
from dynfusion.tuning.records import read_curves, read_finals, read_sweep, read_trials
from dynfusion.verbs.evaluated_models import read_training
from tests.fuzz.examples import Examples
from tests.fuzz.judge import Files, FirstCheckError, Parser
from tests.fuzz.memory import MemoryStorage
from tests.fuzz.mutations import as_json, mutated_bytes, mutated_tree, with_changed_numbers
from tests.fuzz.on_disk import Replaced, copied

_CHECKPOINTS = [f"checkpoint-{step:08d}-001" for step in (8, 16, 24)]


def result_parsers(examples: Examples) -> list[Parser]:
    """Parsers of what runs, sweeps and evaluations end with."""
    not_json, model = re.compile("not readable as JSON"), re.compile("not readable as|not a model of this version")
    return [
        Parser("model", _models(examples), _model_reader(examples), model),
        Parser("sweep records", _sweeps(examples), _read_sweep, not_json),
        Parser("reference", _references(examples), _reference_reader(examples), re.compile("Invalid JSON")),
        Parser("Ray's record", _snapshots(), _read_snapshot, re.compile("not readable as JSON")),
        Parser("evaluation cells", _cells(examples), _cells_reader(examples), re.compile("(?!)")),
    ]


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
    folder = copied(examples, "model", examples.model)

    def read(files: Files) -> None:
        with Replaced(folder, files, examples.model):
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


def _references(examples: Examples) -> Any:
    manifest = examples.dataset.manifest
    error = RidgeError(("a",), "b", 1.5, 3, 0.1, 20)
    content = write(Reference(manifest.fingerprint, len(rows_looked_at(manifest, 4096)), (error,)))

    def make(draw: Random) -> Files:
        if draw.random() < 0.15:
            return {"reference.json": mutated_bytes(content, draw)}
        return {"reference.json": as_json(mutated_tree(json.loads(content), draw), draw)}

    return make


def _reference_reader(examples: Examples) -> Any:
    def read_(files: Files) -> None:
        found = read(files["reference.json"], "reference.json", manifest=examples.dataset.manifest, rows=4096)
        found.squared_errors()

    return read_


def _snapshots() -> Any:
    """Of three checkpoints, two of which are still there."""
    results = [{"checkpoint_dir_name": name, "metrics": {"loss": 1.0}} for name in _CHECKPOINTS]
    state = {
        "ray_version": ray.__version__,
        "checkpoint_results": results,
        "checkpoint_report_indices": [0, 1, 2],
        "latest_checkpoint_result": results[2],
        "pending_training_results": results[1:],
        "pending_validation_specs": [None, None],
    }

    def make(draw: Random) -> Files:
        if draw.random() < 0.15:
            return {REGISTERED: mutated_bytes(json.dumps(state).encode(), draw)}
        return {REGISTERED: as_json(mutated_tree(state, draw), draw)}

    return make


def _read_snapshot(files: Files) -> None:
    """What cannot be used is put aside, and the sentence about it told."""
    said: list[str] = []
    storage = MemoryStorage(files)
    left = mend_snapshot(storage, set(_CHECKPOINTS[:2]), said.append)
    assert left <= set(_CHECKPOINTS[:2])
    if REGISTERED not in storage.contents:
        raise ValueError(" ".join(said[0].split()))


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
        with Replaced(folder, files, valid):
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
