"""Ray Train's record of a run's checkpoints made true before Ray reads it, and folders that nobody can use removed.

Ray Train refuses to start where its record is cut short or names a folder that is gone. Which checkpoint a run
continues from is for `training.checkpoint.latest` to say; the record only decides which folders Ray deletes, and when.
"""

import json
from collections.abc import Callable, Set
from typing import Any

import ray

from dynfusion.printable import printable
from dynfusion.settings import parse_json
from dynfusion.training.checkpoint import REGISTERED, checkpoint_names, note_attempts, torn
from dynfusion.training.storage import Storage

ASIDE = f"{REGISTERED}.unreadable"


def tidy(
    storage: Storage, chosen: str | None, keep: int, *, wanted: Callable[[str], bool], say: Callable[[str], None]
) -> None:
    """Make Ray's record fit the run folder, and remove what can never be used; `say` names it.

    `chosen` is the name that `latest` gave: those after it are not whole. Without it no folder is removed, nor are ever
    the `keep` last whole ones, those that Ray has registered, and those that are `wanted`.
    """
    names = checkpoint_names(storage)
    whole = [name for name in names if chosen and (name == chosen or (name < chosen and torn(storage, name) is None))]
    registered = mend_snapshot(storage, set(whole), say)
    if chosen is None:
        return
    spare = {name for name in whole[:-keep] if name not in registered and not wanted(name)}
    removed = [name for name in names if name in spare or name not in whole]
    if removed:
        note_attempts(storage)
    for name in removed:
        storage.remove(name)
        why = "an interrupted run left it behind and there are later ones" if name in spare else "it is not whole"
        say(f"checkpoint {storage.address}/{name} removed: {why}")


def mend_snapshot(storage: Storage, usable: Set[str], say: Callable[[str], None]) -> set[str]:
    """Drop from Ray's record what is not `usable`, or put a record that cannot be read aside; what it names then."""
    try:
        content = storage.read(REGISTERED)
    except FileNotFoundError:
        return set()
    try:
        before = parse_json(content, REGISTERED)
        if before["ray_version"] != ray.__version__:
            raise ValueError(f"it is of Ray {printable(before['ray_version'])[:40]} and this is Ray {ray.__version__}")
        after = _only(before, usable)
        left, gone = _names(after), _names(before) - _names(after)
    except (ValueError, LookupError, TypeError) as error:
        storage.write(ASIDE, content)
        storage.discard(REGISTERED)
        say(f"{storage.address}/{REGISTERED} cannot be used ({error}): it is {ASIDE} now, and nothing depends on it")
        return set()
    if after != before:
        storage.write(REGISTERED, json.dumps(after).encode())
    if gone:
        say(f"{storage.address}/{REGISTERED} named {', '.join(sorted(gone))}, gone or not whole: taken out")
    return left


def _only(state: dict[str, Any], usable: Set[str]) -> dict[str, Any]:
    """Ray's state with none but usable checkpoints; the last report among them becomes the latest."""
    found = zip(state["checkpoint_results"], state["checkpoint_report_indices"], strict=True)
    kept = [(result, index) for result, index in found if result["checkpoint_dir_name"] in usable]
    waiting = zip(state["pending_training_results"], state["pending_validation_specs"], strict=True)
    names = {result["checkpoint_dir_name"] for result, _ in kept}
    pending = [(result, spec) for result, spec in waiting if result["checkpoint_dir_name"] in names]
    last = state["latest_checkpoint_result"]
    if last is None or last["checkpoint_dir_name"] not in names:
        last = max(kept, key=lambda pair: pair[1])[0] if kept else None
    return {
        **state,
        "checkpoint_results": [result for result, _ in kept],
        "checkpoint_report_indices": [index for _, index in kept],
        "pending_training_results": [result for result, _ in pending],
        "pending_validation_specs": [spec for _, spec in pending],
        "latest_checkpoint_result": last,
    }


def _names(state: dict[str, Any]) -> set[str]:
    """Of all registered checkpoints. Raises TypeError for a name that is no text."""
    names = {result["checkpoint_dir_name"] for result in state["checkpoint_results"]}
    "".join(names)
    return names
