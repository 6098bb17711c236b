"""What was seen before anybody judges it: plain values that travel as JSON, gathered by the edges.

A problem is a sentence's end, None where the thing worked. `unanswered` says what was being done when a probe fell
silent and was given up. Where nobody looked, a field has its default.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Requirement:
    """A package that dynfusion, or the extra of a package that it needs, asks for; an empty specifier allows any."""

    name: str
    specifier: str
    wanted_by: str


@dataclass(frozen=True)
class Gpu:
    """One device as its driver shows it."""

    name: str
    memory_bytes: int
    used_bytes: int
    driver: str


@dataclass(frozen=True)
class Space:
    """The disk below a folder that something is written to."""

    purpose: str
    folder: str
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class TokenFile:
    """The file that Ray reads its token from; `reachable` is whether other users can enter all folders above it."""

    path: str
    there: bool
    named: bool
    """Whether RAY_AUTH_TOKEN_PATH names it; else it is the default place."""
    mode: int = 0
    owned: bool = True
    reachable: bool = False
    needed: bool = False
    """Whether RAY_AUTH_MODE asks for a token that no other variable gives."""


@dataclass(frozen=True)
class TakenPort:
    """A port that Ray would use and somebody listens on."""

    port: int
    purpose: str
    is_ray: bool


@dataclass(frozen=True)
class Machine:
    """One machine, seen from a process on it. `packages` are installed versions by name in lower case, `code` a digest
    of dynfusion's own source, `files_limit` how many files a process of Ray may open."""

    name: str = "this machine"
    python: str = ""
    packages: dict[str, str] = field(default_factory=dict)
    code: str | None = None
    torch_cuda: str | None = None
    gpus: tuple[Gpu, ...] = ()
    gpu_problem: str | None = None
    driver_cuda: str | None = None
    memory_bytes: int = 0
    object_store_bytes: int = 0
    shm_bytes: int | None = None
    files_limit: int | None = None
    spaces: tuple[Space, ...] = ()
    token: TokenFile | None = None
    taken_ports: tuple[TakenPort, ...] = ()
    unanswered: str | None = None


@dataclass(frozen=True)
class Gpus:
    """What torch makes of the GPUs: `summed` is how many took part in an all-reduce whose sum was right."""

    count: int = 0
    nccl: str | None = None
    summed: int = 0
    problem: str | None = None
    busy: bool = False
    unanswered: str | None = None


@dataclass(frozen=True)
class Storage:
    """A probe file's way through a storage. `problems` has an entry for each step taken: write, list, read, delete.

    `clock_offset_seconds` is the store's clock less this machine's, where the store tells the time.
    """

    uri: str
    problems: dict[str, str | None] = field(default_factory=dict)
    seconds: float | None = None
    clock_offset_seconds: float | None = None
    unanswered: str | None = None


@dataclass(frozen=True)
class Data:
    """A packed data set, looked at. `blocks_read` of `blocks` were compared with their checksums."""

    uri: str
    problem: str | None = None
    fingerprint: str | None = None
    rows: int = 0
    files: int = 0
    bytes: int = 0
    wrong_files: tuple[str, ...] = ()
    blocks: int = 0
    blocks_read: int = 0
    wrong_blocks: tuple[str, ...] = ()
    unanswered: str | None = None


@dataclass(frozen=True)
class Node:
    """One node of a cluster. `offset_seconds` is its clock less this machine's, known to within `error_seconds`;
    `unreachable` names what it could not connect to; `sees_marker` is None where no storage was given."""

    name: str
    alive: bool
    gpus: float = 0.0
    object_store_bytes: int = 0
    problem: str | None = None
    machine: Machine | None = None
    offset_seconds: float | None = None
    error_seconds: float = 0.0
    unreachable: dict[str, str] = field(default_factory=dict)
    data: Data | None = None
    storage: Storage | None = None
    sees_marker: bool | None = None


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster. `problem` is why it could not be reached or joined; then the rest is unknown.

    `outside` is whether other machines can reach its address; `looked_inside` is False where only its dashboard was.
    """

    address: str
    problem: str | None = None
    looked_inside: bool = False
    outside: bool = False
    nodes: tuple[Node, ...] = ()
    dashboard: str | None = None
    dashboard_problem: str | None = None
    authentication: str | None = None
    state_api_asked: bool = False
    state_api_problem: str | None = None
    gpus: Gpus | None = None
    unanswered: str | None = None


@dataclass(frozen=True)
class Observations:
    """Everything that was seen; None for what was not asked for."""

    here: Machine
    requirements: tuple[Requirement, ...] = ()
    gpus: Gpus | None = None
    cluster: Cluster | None = None
    data: Data | None = None
    storage: Storage | None = None

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The cluster's nodes that are alive."""
        return tuple(node for node in self.cluster.nodes if node.alive) if self.cluster else ()

    @property
    def machines(self) -> tuple[Machine, ...]:
        """The machines that work: the cluster's as far as they answered, else this one."""
        found = tuple(node.machine for node in self.nodes if node.machine is not None)
        return found or (self.here,)
