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
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from safetensors.torch import load_file, save_file

from dynfusion.fusion.api import WEIGHTS, save_weights
from dynfusion.fusion.model import FusionNetwork
from dynfusion.printable import printable, short
from dynfusion.settings import parse_json
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
_NAME = re.compile(rf"{PREFIX}\d{{8,18}}-\d{{3,18}}")
_STEP = re.compile(rf"{PREFIX}(\d{{8,18}})-\d{{3,18}}\b")
_LIST = re.compile(r"files-\d{5,9}-of-(\d{5,9})\.json")
ATTEMPTS = "attempts.json"
_MOST_ATTEMPTS = 10**9
REGISTERED = "checkpoint_manager_snapshot.json"
"""What Ray Train leaves in the run's folder: the checkpoints that it has registered, perhaps none."""


@dataclass(frozen=True)
class State:
    """Where a run stands. The order, the masks and the learning rate are functions of `step`, so it says it all."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)
    step: Annotated[int, Field(ge=0)]
    run_fingerprint: str
    data_fingerprint: str
    world_size: Annotated[int, Field(ge=1)]
    generator: list[Annotated[int, Field(ge=0, le=255)]]


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
    """The state of a checkpoint. Raises ValueError when it is of another kind."""
    where, content = f"checkpoint {folder / STATE}", (folder / STATE).read_bytes()
    parse_json(content, where)
    try:
        return TypeAdapter(State).validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    place = printable(".".join(map(str, first["loc"]))) or "its content"
    raise ValueError(f"{where}: not a state of this version, {place}: {first['msg']}")


def read_history(folder: Path) -> list[Record]:
    """The records of a checkpoint, first to last. Raises ValueError for a line that is none."""
    found = []
    for number, line in enumerate((folder / HISTORY).read_bytes().splitlines(), start=1):
        where = f"checkpoint {folder / HISTORY}, line {number}"
        record = parse_json(line, where)
        if not isinstance(record, dict) or type(record.get("step")) is not int:
            raise ValueError(f"{where}: found no step, allowed is a record of training or of a check")
        found.append(record)
    return found


def problem(folder: Path) -> str | None:
    """What is wrong with a checkpoint folder in one phrase, None when every file is there and unchanged."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not _leads_out(path, folder)]
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
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
    found = [match for match in map(_LIST.fullmatch, sorted(sizes)) if match]
    if not found:
        return "no list of files"
    world_size, listed = int(found[0].group(1)), dict[str, dict[str, Any]]()
    if not world_size:
        return f"{found[0].group()} is a list of no rank"
    for rank in range(world_size):
        name = _list_name(rank, world_size)
        if name not in sizes:
            return f"{name} is missing"
        try:
            entries = parse_json(read(name), name)
        except ValueError:
            return f"{name} is truncated"
        if not isinstance(entries, dict) or not all(map(_is_entry, entries.values())):
            return f"{name} is no list of files with bytes and sha256"
        listed |= entries
    for name, expected in listed.items():
        if name not in sizes:
            return f"{printable(name)} is missing"
        if sizes[name] != expected["bytes"]:
            return f"{printable(name)} has {sizes[name]} bytes, expected {expected['bytes']}"
    return listed


def checkpoint_names(storage: Storage) -> list[str]:
    """The checkpoint folders of a run, whole or not, first to last; another name than a run gives is none of them."""
    return [name for name in storage.names() if _NAME.fullmatch(name)]


def checkpoint_name(step: int, attempt: int) -> str:
    """The folder of a checkpoint; no two attempts of a run share one."""
    return f"{PREFIX}{step:08d}-{attempt:03d}"


def step_of(name: str) -> int:
    """The step that a checkpoint folder's name says, or that of a file called after it; -1 for any other name."""
    found = _STEP.match(name)
    return int(found.group(1)) if found else -1


def take_attempt(storage: Storage) -> int:
    """The number of an attempt that begins; written down, so that the next one has another, whatever this one leaves.

    Its first upload may still be on its way when its workers are gone.
    """
    attempt = next_attempt(storage)
    storage.write(ATTEMPTS, json.dumps({"used": attempt}).encode())
    return attempt


def next_attempt(storage: Storage) -> int:
    """One more than any attempt that was taken or has left a checkpoint folder, also one that was removed since.

    Raises ValueError when the record of attempts is of another kind.
    """
    where = f"{storage.address}/{ATTEMPTS}"
    used: Any = 0
    with suppress(FileNotFoundError):
        record = parse_json(storage.read(ATTEMPTS), where)
        used = record.get("used") if isinstance(record, dict) else None
    if type(used) is not int or not 0 <= used < _MOST_ATTEMPTS:
        raise ValueError(f"{where}: found {short(used)} attempts, allowed is a whole number from 0 on")
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
    lists = [path for path in folder.glob(LISTS) if _LIST.fullmatch(path.name)]
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
        parse_json(path.read_bytes(), path.name)
    except ValueError:
        return False
    return True


def _is_entry(entry: Any) -> bool:
    """Whether a list says of a file what it must."""
    return (
        isinstance(entry, dict)
        and entry.keys() == {"bytes", "sha256"}
        and type(entry["bytes"]) is int
        and isinstance(entry["sha256"], str)
    )


def _leads_out(path: Path, folder: Path) -> bool:
    """Whether a file is a link to somewhere outside the folder."""
    return path.is_symlink() and not path.resolve().is_relative_to(folder.resolve())


def _world_size(path: Path) -> int:
    return int(path.stem.rsplit("-", 1)[1])


def _list_name(rank: int, world_size: int) -> str:
    return f"files-{rank:05d}-of-{world_size:05d}.json"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
