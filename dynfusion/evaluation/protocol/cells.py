"""Finished work on disk, so that a killed evaluation continues: `<name>.npz`, then `<name>.json`.

The JSON file is the commit mark: it is moved into place last and holds the group with its key and the hash of its
arrays. A file of another group, or torn arrays, counts as not there.
"""

import hashlib
import io
import json
import os
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from dynfusion.evaluation.protocol.groups import CellGroup, GroupResult
from dynfusion.evaluation.protocol.jobs import Choice
from dynfusion.settings import parse_json

_NOT_OURS = (
    *(ValueError, TypeError, LookupError, EOFError, OSError, zlib.error, zipfile.BadZipFile),
    *(RuntimeError, NotImplementedError, MemoryError, SyntaxError, OverflowError, tokenize.TokenError),
)
"""What numpy and `zipfile` raise for arrays that `write_result` did not write."""


def write_result(folder: Path, result: GroupResult) -> None:
    """Writes one group; equal results give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = io.BytesIO()
    named = {f"resampled_{metric}": found for metric, found in result.resampled.items()}
    np.savez(arrays, allow_pickle=False, scores=result.scores, **named)
    record = {
        "group": result.group.record(),
        "unscored": result.unscored,
        "hidden_share": result.hidden_share,
        "chosen": result.chosen,
        "unconverged": result.unconverged,
        "metrics": list(result.resampled),
        "sha256": hashlib.sha256(arrays.getvalue()).hexdigest(),
    }
    write_atomically(folder / f"{result.group.name}.npz", arrays.getvalue())
    write_atomically(folder / f"{result.group.name}.json", (json.dumps(record, indent=1) + "\n").encode())


def read_result(folder: Path, group: CellGroup) -> GroupResult | None:
    """The finished group, or None when it was not finished with exactly these inputs and settings."""
    path = folder / f"{group.name}.json"
    record = _read(path)
    if record is None or not path.with_suffix(".npz").exists():
        return None
    content = path.with_suffix(".npz").read_bytes()
    whole = record.get("sha256") == hashlib.sha256(content).hexdigest()
    if not whole or record.get("group") != json.loads(json.dumps(group.record())):
        return None
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            scores = arrays["scores"]
            resampled = {metric: arrays[f"resampled_{metric}"] for metric in record["metrics"]}
        unscored, hidden_share = tuple(record["unscored"]), tuple(record["hidden_share"])
        return GroupResult(group, scores, resampled, unscored, hidden_share, record["chosen"], record["unconverged"])
    except _NOT_OURS:
        return None


def write_choice(folder: Path, choice: Choice, chosen: dict[str, float]) -> None:
    """Writes the hyper-parameters of one probe."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"choice": choice.record(), "chosen": chosen}
    write_atomically(folder / f"{choice.name}.json", (json.dumps(record, indent=1) + "\n").encode())


def read_choice(folder: Path, choice: Choice) -> dict[str, float] | None:
    """What was chosen, or None when it was not with exactly these inputs and settings."""
    record = _read(folder / f"{choice.name}.json")
    same = record is not None and record.get("choice") == choice.record()
    chosen = record.get("chosen") if record is not None and same else None
    return chosen if _are_numbers(chosen) else None


def _are_numbers(chosen: Any) -> bool:
    """Whether these are hyper-parameters by name."""
    return isinstance(chosen, dict) and all(isinstance(value, int | float) for value in chosen.values())


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record = parse_json(path.read_bytes(), str(path))
    except (ValueError, FileNotFoundError):
        return None
    return record if isinstance(record, dict) else None


def write_atomically(path: Path, content: bytes) -> None:
    """The whole content or nothing at `path`."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)
