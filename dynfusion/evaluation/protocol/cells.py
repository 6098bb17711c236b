"""Finished groups on disk, so that a killed evaluation continues: `cells/<name>.npz`, then `cells/<name>.json`.

The JSON file is the commit mark: it is moved into place last and holds the group's key and the hash of its arrays. A
file with another key, or torn arrays, counts as not there.
"""

import hashlib
import io
import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np

from dynfusion.evaluation.hiding.patterns import Pattern
from dynfusion.evaluation.protocol.plan import CellGroup, GroupResult


def write_result(folder: Path, result: GroupResult) -> None:
    """Writes one group; equal results give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = io.BytesIO()
    named = {f"resampled_{metric}": found for metric, found in result.resampled.items()}
    np.savez(arrays, allow_pickle=False, scores=result.scores, **named)
    record = {
        "group": asdict(result.group),
        "patterns": [asdict(pattern) for pattern in result.patterns],
        "unscored": result.unscored,
        "inverse_penalty": result.inverse_penalty,
        "metrics": list(result.resampled),
        "sha256": hashlib.sha256(arrays.getvalue()).hexdigest(),
    }
    write_atomically(folder / f"{result.group.name}.npz", arrays.getvalue())
    write_atomically(folder / f"{result.group.name}.json", (json.dumps(record, indent=1) + "\n").encode())


def read_result(folder: Path, group: CellGroup) -> GroupResult | None:
    """The finished group, or None when it was not finished with exactly these inputs and settings."""
    path = folder / f"{group.name}.json"
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        content = path.with_suffix(".npz").read_bytes()
    except (json.JSONDecodeError, UnicodeDecodeError, FileNotFoundError):
        return None
    if record["group"] != asdict(group) or record["sha256"] != hashlib.sha256(content).hexdigest():
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        scores = arrays["scores"]
        resampled = {metric: arrays[f"resampled_{metric}"] for metric in record["metrics"]}
    patterns = tuple(Pattern(**{**entry, "visible": tuple(entry["visible"])}) for entry in record["patterns"])
    return GroupResult(group, patterns, scores, resampled, tuple(record["unscored"]), record["inverse_penalty"])


def write_atomically(path: Path, content: bytes) -> None:
    """The whole content or nothing at `path`."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)
