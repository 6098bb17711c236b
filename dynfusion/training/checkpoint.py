"""A checkpoint folder: what a killed run needs to go on exactly, and proof that it is whole.

    <checkpoint>/
      model/config.json, model.safetensors      the plain model, loadable anywhere
      losses.safetensors                        what the losses learn beside it: the contrast's temperature
      state.json                                step, settings' and data set's fingerprint, torch's generator state
      history.jsonl                             every record so far, and every check but the last (see checks.py)
      engine/...                                the engine's part: optimizer state
      files-<rank>-of-<world size>.json         each rank's files with sizes and SHA-256, written last

A folder whose lists are missing or do not match is torn, and skipped for the one before it.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from dynfusion.fusion.api import WEIGHTS, save_weights
from dynfusion.fusion.model import FusionNetwork
from dynfusion.training.engine import Engine
from dynfusion.training.loop import Record
from dynfusion.training.storage import Storage

MODEL = "model"
ENGINE = "engine"
LOSSES = "losses.safetensors"
NETWORK_PREFIX = "network."
STATE = "state.json"
HISTORY = "history.jsonl"
PREFIX = "checkpoint-"
LISTS = "files-*-of-*.json"
ATTEMPTS = "attempts.json"
REGISTERED = "checkpoint_manager_snapshot.json"
"""What Ray Train leaves in the run's folder: the checkpoints that it has registered, perhaps none."""


@dataclass(frozen=True)
class State:
    """Where a run stands. The order, the masks and the learning rate are functions of `step`, so it says it all."""

    step: int
    run_fingerprint: str
    data_fingerprint: str
    world_size: int
    generator: list[int]


def save_checkpoint(folder: Path, engine: Engine, network: FusionNetwork, state: State, history: list[Record]) -> None:
    """Write this rank's part into `folder`, one of its own; called on all ranks. The union of all is the checkpoint."""
    (folder / ENGINE).mkdir(parents=True)
    weights = engine.weights()
    if engine.rank == 0:
        (folder / MODEL).mkdir()
        plain = {n.removeprefix(NETWORK_PREFIX): t for n, t in weights.items() if n.startswith(NETWORK_PREFIX)}
        save_weights(network, plain, folder / MODEL)
        save_file({n: t.contiguous() for n, t in weights.items() if not n.startswith(NETWORK_PREFIX)}, folder / LOSSES)
        (folder / STATE).write_text(json.dumps(asdict(state)), encoding="utf-8")
        (folder / HISTORY).write_text("".join(json.dumps(record) + "\n" for record in history), encoding="utf-8")
    engine.save(folder / ENGINE)
    _write_list(folder, engine.rank, engine.world_size)


def load_checkpoint(folder: Path, engine: Engine) -> tuple[State, list[Record]]:
    """Put engine and weights back to where `folder` was saved; all ranks. The folder must be free of `problem`s."""
    state = read_state(folder)
    weights = {NETWORK_PREFIX + name: tensor for name, tensor in load_file(folder / MODEL / WEIGHTS).items()}
    engine.load(folder / ENGINE, weights | load_file(folder / LOSSES))
    torch.set_rng_state(torch.tensor(state.generator, dtype=torch.uint8))
    return state, read_history(folder)


def read_state(folder: Path) -> State:
    """The state of a checkpoint."""
    return State(**json.loads((folder / STATE).read_text(encoding="utf-8")))


def read_history(folder: Path) -> list[Record]:
    """The records of a checkpoint, first to last."""
    return [json.loads(line) for line in (folder / HISTORY).read_text(encoding="utf-8").splitlines()]


def problem(folder: Path) -> str | None:
    """What is wrong with a checkpoint folder in one phrase, None when every file is there and unchanged."""
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    listed = _listed(sizes, lambda name: (folder / name).read_bytes())
    if isinstance(listed, str):
        return listed
    for name, expected in listed.items():
        if _sha256(folder / name) != expected["sha256"]:
            return f"{name} does not match its SHA-256"
    return None


def torn(storage: Storage, name: str) -> str | None:
    """The same of a stored checkpoint as far as lists and sizes tell: fetches its lists, and no other file."""
    listed = _listed(storage.sizes(name), lambda path: storage.read(f"{name}/{path}"))
    return listed if isinstance(listed, str) else None


def _listed(sizes: dict[str, int], read: Callable[[str], bytes]) -> str | dict[str, dict[str, Any]]:
    """What all ranks' lists say of their files; a phrase when that is not what `sizes` says is there."""
    lists = sorted(name for name in sizes if Path(name).match(LISTS))
    if not lists:
        return "no list of files"
    world_size, listed = _world_size(Path(lists[0])), {}
    for rank in range(world_size):
        name = _list_name(rank, world_size)
        if name not in sizes:
            return f"{name} is missing"
        try:
            listed.update(json.loads(read(name)))
        except ValueError:
            return f"{name} is truncated"
    for name, expected in listed.items():
        if name not in sizes:
            return f"{name} is missing"
        if sizes[name] != expected["bytes"]:
            return f"{name} has {sizes[name]} bytes, expected {expected['bytes']}"
    return listed


def checkpoint_names(storage: Storage) -> list[str]:
    """The checkpoint folders of a run, whole or not, first to last."""
    return [name for name in storage.names() if name.startswith(PREFIX)]


def checkpoint_name(step: int, attempt: int) -> str:
    """The folder of a checkpoint; no two attempts of a run share one."""
    return f"{PREFIX}{step:08d}-{attempt:03d}"


def step_of(name: str) -> int:
    """The step that a checkpoint folder's name says."""
    return int(name.split("-")[1])


def take_attempt(storage: Storage) -> int:
    """The number of an attempt that begins; written down, so that the next one has another, whatever this one leaves.

    Its first upload may still be on its way when its workers are gone.
    """
    attempt = next_attempt(storage)
    storage.write(ATTEMPTS, json.dumps({"used": attempt}).encode())
    return attempt


def next_attempt(storage: Storage) -> int:
    """One more than any attempt that was taken or has left a checkpoint folder, also one that was removed since."""
    try:
        used = int(json.loads(storage.read(ATTEMPTS))["used"])
    except FileNotFoundError:
        used = 0
    return 1 + max([used, *(int(name.rsplit("-", 1)[1]) for name in checkpoint_names(storage))])


def note_attempts(storage: Storage) -> None:
    """Remember which attempts there were, before folders are removed; a run of an earlier version wrote none down."""
    storage.write(ATTEMPTS, json.dumps({"used": next_attempt(storage) - 1}).encode())


@contextmanager
def latest(storage: Storage, say: Callable[[str], None]) -> Iterator[tuple[str, Path] | None]:
    """(name, folder on this machine) of the last whole checkpoint; others are named through `say` and skipped.

    None when no checkpoint was ever completed. Raises ValueError when there were some and none is whole.
    """
    lost = registered_any(storage)
    for name in reversed(checkpoint_names(storage)):
        with storage.local(name) as folder:
            wrong = problem(folder)
            if wrong is None:
                yield name, folder
                return
            lost = lost or complete(folder)
        say(f"checkpoint {storage.address}/{name} skipped: {wrong}")
    if lost:
        raise ValueError(
            f"run folder {storage.address}: it has had checkpoints and none is whole, found "
            f"{', '.join(checkpoint_names(storage)) or 'none'}; restore one, or remove the folder to start afresh"
        )
    yield None


def registered_any(storage: Storage) -> bool:
    """Whether Ray Train has registered a checkpoint: one is named even in a record that was cut short."""
    try:
        return b'"checkpoint_dir_name"' in storage.read(REGISTERED)
    except FileNotFoundError:
        return False


def complete(folder: Path) -> bool:
    """Whether every rank has left its list, the last of what it writes: such a checkpoint was whole once."""
    lists = list(folder.glob(LISTS))
    return bool(lists) and len(lists) == _world_size(lists[0]) and all(map(_reads, lists))


def _write_list(folder: Path, rank: int, world_size: int) -> None:
    listed = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    (folder / _list_name(rank, world_size)).write_text(json.dumps(listed, indent=1), encoding="utf-8")


def _reads(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True


def _world_size(path: Path) -> int:
    return int(path.stem.rsplit("-", 1)[1])


def _list_name(rank: int, world_size: int) -> str:
    return f"files-{rank:05d}-of-{world_size:05d}.json"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
