"""A checkpoint folder: what a killed run needs to go on exactly, and proof that it is whole.

    <checkpoint>/
      model/config.json, model.safetensors      the plain model, loadable anywhere
      losses.safetensors                        what the losses learn beside it: the contrast's temperature
      state.json                                step, settings' and data set's fingerprint, torch's generator state
      history.jsonl                             every record so far
      engine/...                                the engine's part: optimizer state
      files-<rank>-of-<world size>.json         each rank's files with sizes and SHA-256, written last

A folder whose lists are missing or do not match is torn, and skipped for the one before it.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from dynfusion.fusion.api import WEIGHTS, save_weights
from dynfusion.fusion.model import FusionNetwork
from dynfusion.training.engine import Engine
from dynfusion.training.loop import Record

MODEL = "model"
ENGINE = "engine"
LOSSES = "losses.safetensors"
NETWORK_PREFIX = "network."
STATE = "state.json"
HISTORY = "history.jsonl"


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
    lists = sorted(folder.glob("files-*-of-*.json"))
    if not lists:
        return "no list of files"
    world_size = int(lists[0].stem.rsplit("-", 1)[1])
    for rank in range(world_size):
        path = folder / _list_name(rank, world_size)
        if not path.exists():
            return f"{path.name} is missing"
        for name, expected in json.loads(path.read_text(encoding="utf-8")).items():
            if not (folder / name).exists():
                return f"{name} is missing"
            if (folder / name).stat().st_size != expected["bytes"]:
                return f"{name} has {(folder / name).stat().st_size} bytes, expected {expected['bytes']}"
            if _sha256(folder / name) != expected["sha256"]:
                return f"{name} does not match its SHA-256"
    return None


def latest(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The last whole checkpoint among `folder`'s checkpoint folders; a torn one is named through `say` and skipped."""
    for candidate in sorted(folder.glob("checkpoint-*"), reverse=True):
        wrong = problem(candidate)
        if wrong is None:
            return candidate
        say(f"checkpoint {candidate} skipped: {wrong}")
    return None


def _write_list(folder: Path, rank: int, world_size: int) -> None:
    listed = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    (folder / _list_name(rank, world_size)).write_text(json.dumps(listed, indent=1), encoding="utf-8")


def _list_name(rank: int, world_size: int) -> str:
    return f"files-{rank:05d}-of-{world_size:05d}.json"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
