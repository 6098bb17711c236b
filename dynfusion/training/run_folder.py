"""The folder of one run: who it belongs to, whether it is finished, and the model it leaves.

<storage>/<name>/
  run.json                          settings, their fingerprint, the data set's fingerprint
  checkpoint-<step>-<attempt>/      see checkpoint.py
  attempts.json                     the last attempt that began
  validation/<checkpoint>.json      what a checkpoint scored, see edges/ray_validation.py
  history.jsonl, tensorboard/       every record once, see edges/tracking.py
  model/                            config.json, model.safetensors, training.json: written when the run is finished
"""

import json
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dynfusion.printable import quoted, short
from dynfusion.settings import parse_json
from dynfusion.store.whole import written_whole
from dynfusion.training.checkpoint import MODEL, checkpoint_names, problem, read_history, read_state, registered_any
from dynfusion.training.checks import trained, validated
from dynfusion.training.loop import Record
from dynfusion.training.scratch import scratch_folder
from dynfusion.training.sources import Sources
from dynfusion.training.storage import Storage

RUN = "run.json"
TRAINING = "training.json"
LIBRARIES = ("dynfusion", "torch", "deepspeed", "ray", "numpy", "pyarrow", "scikit-learn")


@dataclass(frozen=True)
class Identity:
    """Fingerprints of a run: of the settings that decide its steps, of the same but for the epochs, of the data."""

    run: str
    run_but_epochs: str
    data: str


def claim(
    storage: Storage,
    settings: dict[str, Any],
    mine: Identity,
    say: Callable[[str], None],
    reread: Callable[[dict[str, Any]], Identity] | None = None,
) -> None:
    """Make the folder this run's, or check that it already is; only who drives the run may.

    A finished run may be claimed with more epochs, and one that never saved anything with any settings and data, which
    `say` tells. `reread` identifies recorded settings by the rules of this version, ValueError when they are none of
    it: an earlier version may have known fewer settings, those that it lacks have their defaults then.
    Raises ValueError when the folder belongs to a run with other settings or other data, naming what differs.
    """
    content = as_json({"identity": asdict(mine), "settings": settings})
    try:
        theirs, before = _read_claim(storage)
    except FileNotFoundError:
        storage.write(RUN, content)
        return
    if theirs != mine and _is_unused(storage):
        say(f"run folder {storage.address}: an earlier try with other settings or data saved nothing; begun afresh")
        storage.write(RUN, content)
        return
    if theirs.data != mine.data:
        raise ValueError(
            f"run folder {storage.address}: belongs to a run on other data, fingerprint {theirs.data}, found "
            f"{mine.data}; choose another cluster.name or remove the folder"
        )
    if reread is not None and theirs != mine:
        theirs = _by_this_version(theirs, before, reread)
    if theirs.run == mine.run:
        return
    epochs, wanted = before["train"]["epochs"], settings["train"]["epochs"]
    if theirs.run_but_epochs == mine.run_but_epochs and wanted > epochs and finished(storage, epochs):
        storage.write(RUN, content)
        return
    raise ValueError(
        f"run folder {storage.address}: belongs to a run with other settings, {_difference(before, settings)}; "
        "choose another cluster.name or remove the folder (only a finished run goes on when train.epochs is raised)"
    )


def _by_this_version(
    theirs: Identity, before: dict[str, Any], reread: Callable[[dict[str, Any]], Identity]
) -> Identity:
    try:
        return reread(before)
    except ValueError:
        return theirs


def _is_unused(storage: Storage) -> bool:
    """Whether no try of this run has left a checkpoint, whole or not, nor had one that is gone, nor a model."""
    return not checkpoint_names(storage) and not registered_any(storage) and MODEL not in storage.names()


def finished(storage: Storage, epochs: int) -> bool:
    """Whether the run has left the model of so many epochs, whole."""
    try:
        training = parse_json(storage.read(f"{MODEL}/{TRAINING}"), TRAINING)
        trained = training["settings"]["train"]["epochs"]
    except (FileNotFoundError, ValueError, TypeError, LookupError):
        return False
    return type(trained) is int and trained >= epochs


def _read_claim(storage: Storage) -> tuple[Identity, dict[str, Any]]:
    """Whose the folder is, and the settings of that run. Raises FileNotFoundError when it is nobody's."""
    where = f"run folder {storage.address}/{RUN}"
    record = parse_json(storage.read(RUN), where)
    try:
        theirs, before = Identity(**record["identity"]), record["settings"]
        prints = all(isinstance(text, str) and text.isalnum() for text in asdict(theirs).values())
        known = type(before["train"]["epochs"]) is int and prints
    except (TypeError, LookupError):
        known = False
    if not known:
        raise ValueError(f"{where}: not a run of this version, remove the folder or choose another cluster.name")
    return theirs, before


@dataclass(frozen=True)
class Ending:
    """How a run came to its end."""

    step: int
    why: str
    """One phrase."""
    history: list[Record]
    """Every record of the run, checks among them."""


def finish(storage: Storage, checkpoint: Path, ending: Ending, settings: dict[str, Any], sources: Sources) -> None:
    """Leave `model/` from the chosen checkpoint; a reader finds it whole or without its training.json.

    Not where the run was watched: a model travels further than the addresses of a workplace should.
    """
    training = {
        "data": {"uri": settings["data"]["uri"], "fingerprint": sources.fingerprint, "rows": sources.rows},
        "settings": {name: part for name, part in settings.items() if name != "tracking"},
        "steps": read_state(checkpoint).step,
        "ended": {"step": ending.step, "why": ending.why},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        **_histories(ending.history),
    }
    with scratch_folder("model") as scratch:
        made = export(checkpoint, scratch / MODEL, training)
        storage.remove(MODEL)
        storage.put(made, MODEL, last=TRAINING)


def export(checkpoint: Path, out: Path, training: dict[str, Any] | None = None) -> Path:
    """A plain model folder from a checkpoint; needs neither DeepSpeed nor Ray.

    Raises ValueError when the checkpoint is not whole or `out` already holds something.
    """
    wrong = problem(checkpoint)
    if wrong is not None:
        raise ValueError(f"checkpoint {checkpoint}: {wrong}, allowed is a folder that a training run wrote whole")
    if training is None:
        state = read_state(checkpoint)
        data = {"fingerprint": state.data_fingerprint}
        training = {"data": data, "steps": state.step, **_histories(read_history(checkpoint))}
    with written_whole(out) as part:
        shutil.copytree(checkpoint / MODEL, part, dirs_exist_ok=True)
        (part / TRAINING).write_bytes(as_json(training))
    return out


def _histories(history: list[Record]) -> dict[str, Any]:
    return {"validation": validated(history), "history": trained(history)}


def as_json(content: Any) -> bytes:
    """The bytes of a JSON file that a person may read."""
    return (json.dumps(content, indent=1) + "\n").encode()


def _difference(theirs: dict[str, Any], mine: dict[str, Any], prefix: str = "") -> str:
    for name in sorted({*theirs, *mine}):
        old, new = theirs.get(name), mine.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            below = _difference(old, new, f"{prefix}{name}.")
            if below:
                return below
        elif old != new and prefix + name not in ("data.uri", "cluster.storage"):
            return f"{quoted(prefix + name)} was {short(old)} and is now {short(new)}"
    return ""
