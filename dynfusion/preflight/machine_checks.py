"""What must be right on each machine: Python, packages, shared memory, files, disks, the token's file, free ports."""

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from dynfusion.preflight.finding import Check, Finding, State, listed, on_every_machine, size, worst
from dynfusion.preflight.observations import Machine, Observations, Space, TokenFile

_OLDEST_PYTHON = (3, 11)
_LEAST_SHM_WITH_GPUS = 1 << 30
_FEWEST_FILES, _ENOUGH_FILES = 1024, 8192
_FULL_BYTES, _SCARCE_BYTES = 1 << 30, 10 << 30
_RAY_FULL_SHARE = 0.95
"""Ray makes no more objects on a node whose disk is as full as that (RAY_local_fs_capacity_threshold)."""
_OTHERS = 0o077


def machine_answers(seen: Observations) -> Finding | None:
    """Whether this machine could be looked at in time."""
    if seen.here.unanswered is None:
        return None
    cure = "what does not answer here holds up training too: `mount`, `df` and `dmesg` say which disk or driver it is"
    return Finding("this machine", "failed", seen.here.unanswered, cure)


def _python(machine: Machine) -> Finding | None:
    if not machine.python:
        return None
    if tuple(int(part) for part in machine.python.split(".")[:2]) >= _OLDEST_PYTHON:
        return Finding("Python", "ok", machine.python)
    cure = "install Python 3.11 or newer and make the environment anew with it"
    return Finding("Python", "failed", machine.python, cure)


def packages(seen: Observations) -> Finding | None:
    """Whether what dynfusion needs is installed, here and on every node, in versions it allows."""
    here = seen.here.packages
    if not seen.requirements or not here:
        return None
    wrong: dict[str, str] = {}
    for machine in _all_machines(seen):
        where = "" if machine is seen.here else f"{machine.name}: "
        for wanted in seen.requirements:
            found = machine.packages.get(wanted.name)
            if found is None or not _allows(wanted.specifier, found):
                told = f"{where}{wanted.name} is {found or 'not installed'}, {wanted.wanted_by} needs "
                wrong.setdefault(f"{wanted.name}{wanted.specifier}", told + (wanted.specifier or "it"))
    if wrong:
        names = " ".join(f"'{name}'" for name in wrong)
        return Finding("packages", "failed", listed(list(wrong.values())), f"python -m pip install {names}")
    told = ", ".join(f"{name} {here[name]}" for name in ("ray", "torch", "deepspeed") if name in here)
    return Finding("packages", "ok", f"{told}; all {len(seen.requirements)} requirements are met")


def _all_machines(seen: Observations) -> list[Machine]:
    return [seen.here, *(machine for machine in seen.machines if machine is not seen.here)]


def _allows(specifier: str, version: str) -> bool:
    try:
        return SpecifierSet(specifier).contains(Version(version), prereleases=True)
    except InvalidVersion:
        return True


def _shared_memory(machine: Machine) -> Finding | None:
    if machine.shm_bytes is None:
        return None
    wanted = machine.object_store_bytes
    found = f"/dev/shm has {size(machine.shm_bytes)}, Ray's object store takes {size(wanted)}"
    if machine.shm_bytes >= wanted:
        return Finding("shared memory", "ok", found)
    state: State = "failed" if len(machine.gpus) > 1 and machine.shm_bytes < _LEAST_SHM_WITH_GPUS else "warning"
    cure = (
        f"give a container --shm-size={-(-wanted * 11 // 10 >> 30)}g, a pod an emptyDir of medium Memory at /dev/shm, "
        "or Ray a smaller --object-store-memory; else Ray uses a disk, slowly, and NCCL may find no room"
    )
    return Finding("shared memory", state, found, cure)


def _open_files(machine: Machine) -> Finding | None:
    limit = machine.files_limit
    if limit is None:
        return None
    found = f"a process may open {limit} files"
    if limit >= _ENOUGH_FILES:
        return Finding("open files", "ok", found)
    cure = (
        "`ulimit -n 65536` before `ray start` or the command; for good, nofile in /etc/security/limits.conf, "
        "LimitNOFILE of a service, --ulimit nofile=65536 of a container"
    )
    state: State = "failed" if limit < _FEWEST_FILES else "warning"
    return Finding("open files", state, f"{found}, Ray wants {_ENOUGH_FILES}", cure)


def _disk(machine: Machine) -> Finding | None:
    if not machine.spaces:
        return None
    nowhere = [f"{space.folder} ({space.purpose})" for space in machine.spaces if space.total_bytes == 0]
    if nowhere:
        return Finding("disk", "failed", f"no disk can hold {listed(nowhere)}", "choose a folder that can be made")
    states = [_room(space) for space in machine.spaces]
    state = worst(states)
    told = [
        f"{size(space.free_bytes)} free of {size(space.total_bytes)} in {space.folder} ({space.purpose})"
        for space, its in zip(machine.spaces, states, strict=True)
        if its == state
    ]
    cure = (
        "remove old sessions below Ray's folder and old caches, or choose a larger disk: RAY_TMPDIR for Ray's "
        "sessions, TMPDIR for what is packed, uploaded and fetched, data.cache_dir for shards"
    )
    return Finding("disk", state, listed(told), "" if state == "ok" else cure)


def _room(space: Space) -> State:
    """Ray counts the share that is in use, everything else the bytes that are left."""
    used = 1 - space.free_bytes / max(space.total_bytes, 1)
    if space.free_bytes < _FULL_BYTES or (space.purpose.startswith("Ray") and used >= _RAY_FULL_SHARE):
        return "failed"
    return "warning" if space.free_bytes < _SCARCE_BYTES else "ok"


def token_file(seen: Observations) -> Finding | None:
    """Whether nobody else can read the token, here and on every node."""
    of_cluster = seen.cluster is not None
    found = [
        (machine, finding)
        for machine in _all_machines(seen)
        if machine.token is not None and (finding := _token(machine.token, of_cluster=of_cluster)) is not None
    ]
    if not found:
        return None
    machine, gravest = max(found, key=lambda pair: ("ok", "warning", "failed").index(pair[1].state))
    where = "" if machine is seen.here else f"{machine.name}: "
    return Finding(gravest.name, gravest.state, f"{where}{gravest.found}", gravest.cure)


def _token(token: TokenFile, *, of_cluster: bool) -> Finding | None:
    if not token.there:
        asked = "RAY_AUTH_TOKEN_PATH names it" if token.named else "RAY_AUTH_MODE=token needs it"
        cure = (
            "copy the cluster's file there, readable by its owner only, or correct RAY_AUTH_TOKEN_PATH; before a new "
            "cluster starts, `ray get-auth-token --generate` makes one"
        )
        return Finding("token file", "failed", f"{token.path}: no such file, {asked}", cure)
    if token.owned and not (token.mode & _OTHERS and token.reachable):
        how = " below a folder of its owner's alone" if token.mode & _OTHERS else ""
        return Finding("token file", "ok", f"{token.path}, mode {token.mode:04o}{how}: only its owner can read it")
    owner = "" if token.owned else " and another owner"
    found = f"{token.path} has mode {token.mode:04o}{owner}: whoever reads it runs code on the cluster"
    chown = "" if token.owned else " and chown it to yourself"
    cure = f"chmod 600 {token.path}{chown}; if somebody may have read it, make another with `ray get-auth-token`"
    grave = token.needed or token.named or of_cluster
    return Finding("token file", "failed" if grave else "warning", found, cure)


def ports(seen: Observations) -> Finding | None:
    """Whether a cluster could be started here by hand on Ray's usual ports."""
    if seen.cluster is not None or not seen.here.python:
        return None
    taken = seen.here.taken_ports
    if not taken:
        return Finding("ports", "ok", "6379 and 8265 are free for `ray start --head`")
    by_ray = any(one.is_ray for one in taken)
    told = [f"{one.port} ({one.purpose}) is in use{' by a Ray cluster' * one.is_ray}" for one in taken]
    cure = "start a head here with others: `ray start --head --port=6380 --dashboard-port=8266`"
    if by_ray:
        cure = f"RAY_ADDRESS=127.0.0.1:6379 uses the cluster that runs here; or {cure}"
    return Finding("ports", "warning", listed(told), cure)


CHECKS: tuple[Check, ...] = (
    machine_answers,
    on_every_machine(_python),
    packages,
    on_every_machine(_shared_memory),
    on_every_machine(_open_files),
    on_every_machine(_disk),
    token_file,
    ports,
)
