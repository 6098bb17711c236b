"""What a sweep leaves on disk, strictly written and read.

<storage>/<name>/
  sweep.json       the sweep itself, written before the first trial, and again when it is extended
  reference.json   what ridge regression makes of the held-out molecules, see evaluation/reference.py
  trials/ID.json   one for every trial, replaced whole whenever its state changes
  curves/ID.jsonl  one line for every report of a trial
  finals.json      the best trials and the default again, with fresh seeds
  runs/ID/         the ordinary run of every trial, see training/run_folder.py

A record with an unknown or missing key, a value of another type, or a number that is not finite is refused.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from dynfusion.printable import quoted, short
from dynfusion.training.storage import Storage

SWEEP, TRIALS, CURVES, FINALS = "sweep.json", "trials", "curves", "finals.json"
DEFAULT = "default"
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

Value = bool | int | float | str
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Kind = Literal["uniform", "loguniform", "randint", "choice"]
Name = Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""Of a trial: also of its files and of its run's folder."""
RunPath = Annotated[str, Field(max_length=1000, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$")]
"""A folder below the sweep's; no record leads out of that."""
State = Literal["waiting", "running", "finished", "stopped", "failed"]
"""`stopped`: by the scheduler, before its end; `failed`: of itself."""


@dataclass(frozen=True)
class Distribution:
    """Where a setting's values are drawn from."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    kind: Kind
    low: int | float | None = None
    high: int | float | None = None
    step: int | float | None = None
    log: bool = False
    choices: tuple[Value, ...] | None = None
    when: dict[str, Any] | None = None
    """The values of other settings with which it is in force; always where there is none."""


@dataclass(frozen=True)
class Objective:
    """A number that a sweep makes as good as it can."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str
    direction: Literal["max", "min"] = "max"


@dataclass(frozen=True)
class Sweep:
    """What is searched, how, and on top of which run."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str
    space: dict[str, Distribution]
    run: dict[str, Any]
    """The full tree of the base run."""
    overrides: tuple[str, ...]
    search: Literal["random", "optuna"]
    scheduler: Literal["fifo", "asha", "median"]
    grace: float | None
    """Share of a trial's molecules before which none ends early; None where none ever does."""
    reduction: Count | None
    """One of so many trials goes on at each rung of asha."""
    samples: Count
    seed: int
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1)]
    """The first decides which trials are the best."""
    objective: str
    """What is made as good as possible, in one line."""
    top_k: Count
    rerun_seeds: Count
    versions: dict[str, str]
    data: str | None = None
    """Fingerprint of the training data; None in sweeps of earlier versions."""
    tasks: dict[str, str] | None = None
    """Fingerprints of the labelled sets of the objective by name; None in sweeps of earlier versions."""


@dataclass(frozen=True)
class Trial:
    """One sample of the space and how far its run came."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    id: Name
    state: State
    reason: str | None
    settings: dict[str, Any]
    """Sampled settings by dotted name, only those in force."""
    objectives: dict[str, float] | None
    """Of its last report; None before the first."""
    step: Count
    samples_seen: Count
    total_samples: Count
    """Molecules that it has seen, and would have at its end."""
    seconds: Seconds
    """Of training."""
    overhead_seconds: Seconds
    attempts: Count
    run: RunPath
    """Folder of the ordinary run."""


@dataclass(frozen=True)
class Point:
    """One report of a trial."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    step: Count
    samples_seen: Count
    objectives: dict[str, float]
    metrics: dict[str, float]
    seconds: Seconds
    order: Count
    """How many reports of all trials came before it: in this order a scheduler judged them."""


@dataclass(frozen=True)
class SeedRun:
    """One run of some settings with one seed."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    seed: int
    objectives: dict[str, float]
    test: dict[str, float] | None
    """Score on the test split by task, of the winner and the default alone."""
    run: RunPath


@dataclass(frozen=True)
class SeedFailure:
    """A run of some settings with a seed that did not come to its end."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    seed: int
    reason: str


@dataclass(frozen=True)
class Final:
    """Settings that were run again with fresh seeds."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    label: Name
    """A trial's id, or `default`."""
    settings: dict[str, Any]
    seeds: tuple[SeedRun, ...]
    failures: tuple[SeedFailure, ...] = ()
    """Of these settings' other seeds: what fails with some seed is not the winner."""


@dataclass(frozen=True)
class Finals:
    """The best trials and the default, with the same fresh seeds."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    entries: tuple[Final, ...]
    top_k: Count
    complete: bool


Read = TypeVar("Read")


def read_sweep(storage: Storage) -> Sweep:
    """The sweep of a folder.

    Raises ValueError when there is none, or it is torn or of another kind.
    """
    try:
        content = storage.read(SWEEP)
    except FileNotFoundError:
        raise ValueError(f"{storage.address}: it has no {SWEEP}, give the folder of a sweep, storage/NAME") from None
    return _read(Sweep, content, f"{storage.address}/{SWEEP}")


def read_trials(storage: Storage) -> tuple[Trial, ...]:
    """All trials by id.

    Raises ValueError naming the first file that is torn, of another kind, or holds another trial than its name says.
    """
    return tuple(read_trial(storage, name) for name in _named(storage, TRIALS, ".json"))


def read_trial(storage: Storage, name: str) -> Trial:
    """One trial. Raises ValueError as `read_trials`."""
    where = f"{storage.address}/{TRIALS}/{name}.json"
    trial = _read(Trial, storage.read(f"{TRIALS}/{name}.json"), where)
    if trial.id != name:
        raise ValueError(f"{where}: found trial {trial.id}, allowed is {name}, as the file is called")
    return trial


def read_curves(storage: Storage) -> dict[str, tuple[Point, ...]]:
    """The reports of every trial that has any, molecules seen rising.

    A trial that went on from a checkpoint may have reported something twice: the later report counts, and those behind
    it. A last line without an end is one that is being written, and is left out.

    Raises ValueError naming the first line that is torn or of another kind.
    """
    curves = {}
    for name in _named(storage, CURVES, ".jsonl"):
        lines = storage.read(f"{CURVES}/{name}.jsonl").split(b"\n")[:-1]
        points: list[Point] = []
        for number, line in enumerate(lines, start=1):
            point = _read(Point, line, f"{storage.address}/{CURVES}/{name}.jsonl, line {number}")
            points = [*(before for before in points if before.samples_seen < point.samples_seen), point]
        if points:
            curves[name] = tuple(points)
    return curves


def read_finals(storage: Storage) -> Finals | None:
    """The runs with fresh seeds; None before there are any.

    Raises ValueError when the file is torn or of another kind.
    """
    try:
        content = storage.read(FINALS)
    except FileNotFoundError:
        return None
    return _read(Finals, content, f"{storage.address}/{FINALS}")


def write_sweep(storage: Storage, sweep: Sweep) -> None:
    """Put the sweep there, whole or not at all."""
    storage.write(SWEEP, _written(sweep))


def write_trial(storage: Storage, trial: Trial) -> None:
    """Put a trial there in place of its last state, whole or not at all."""
    storage.write(f"{TRIALS}/{trial.id}.json", _written(trial))


def write_curve(storage: Storage, trial: str, points: Sequence[Point]) -> None:
    """Put all reports of a trial there, whole or not at all."""
    lines = [json.dumps(asdict(point), allow_nan=False, ensure_ascii=False) + "\n" for point in points]
    storage.write(f"{CURVES}/{trial}.jsonl", "".join(lines).encode())


def write_finals(storage: Storage, finals: Finals) -> None:
    """Put the runs with fresh seeds there, whole or not at all."""
    storage.write(FINALS, _written(finals))


def _named(storage: Storage, folder: str, ending: str) -> list[str]:
    """Names without their ending; hidden files are those that are being written."""
    names = [name for name in storage.sizes(folder) if not name.startswith(".")]
    return sorted(name.removesuffix(ending) for name in names if name.endswith(ending))


def _written(record: Any) -> bytes:
    return (json.dumps(asdict(record), indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()


def _read(kind: type[Read], content: bytes, where: str) -> Read:
    try:
        return TypeAdapter(kind).validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    place = quoted(".".join(str(part) for part in first["loc"]))
    if first["type"] == "json_invalid":
        raise ValueError(f"{where}: not readable as JSON, {first['ctx']['error']}")
    if first["type"] in ("missing", "unexpected_keyword_argument"):
        word = "it has no" if first["type"] == "missing" else "it has an unknown"
        raise ValueError(f"{where}: not a {kind.__name__.lower()} of this version, {word} {place}")
    said = first["msg"].replace("Input should be", "allowed is", 1)
    found = short(first["input"])
    raise ValueError(f"{where}: {place or kind.__name__.lower()}: found {found}, {said[0].lower()}{said[1:]}")
