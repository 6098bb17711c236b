"""One driver at a time in a run's folder: a lease that its owner renews while it lives.

lease.json: {"owner", "host", "machine", "pid", "born", "beat"}, the beat in seconds since 1970

A driver that was killed leaves its lease. On the same machine the process is seen to be gone, and the next one goes on
at once; elsewhere the next one waits until the beat is `STALE_SECONDS` old, and refuses when it sees another beat.
Two that start at the same moment both write, and the one that wrote last has it; what slips through that is seen at the
first renewal. Clocks of a cluster's machines are taken to agree within a minute.
"""

import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

import psutil

from dynfusion.training.storage import Storage

LEASE = "lease.json"
BEAT_SECONDS = 20.0
STALE_SECONDS = 90.0
_SETTLE_SECONDS = 0.5
_LOOK_SECONDS = 3.0
_END_SECONDS = 5.0
_CLOCK_SECONDS = 60.0

_owners: set[str] = set()
"""The leases of this process."""


@dataclass(frozen=True)
class Lease:
    """Who drives a run, and when it last said so."""

    owner: str
    host: str
    machine: str
    """The boot and the process namespace that `pid` counts in."""
    pid: int
    born: float
    """When the process was started, for a number that another process has since."""
    beat: float

    def __str__(self) -> str:
        when = datetime.fromtimestamp(self.beat).astimezone().isoformat(sep=" ", timespec="seconds")
        return f"process {self.pid} on {self.host}, last heard of at {when}"


@contextmanager
def driving(storage: Storage, say: Callable[[str], None]) -> Iterator[None]:
    """Inside, this process is the only driver of the run in this folder.

    Raises ValueError when another one drives it, also when another one has taken over meanwhile: then the main thread
    is interrupted first.
    """
    mine = _take(storage, say)
    ended, lost = threading.Event(), threading.Event()
    renewer = threading.Thread(target=_renew, args=(storage, mine, ended, lost), name="run-lease", daemon=True)
    renewer.start()
    try:
        yield
    except KeyboardInterrupt:
        if lost.is_set():
            raise ValueError(f"run folder {storage.address}: {_taken_over(storage)}") from None
        raise
    finally:
        ended.set()
        renewer.join(_END_SECONDS)
        _owners.discard(mine.owner)
        if not renewer.is_alive():  # else the store is away
            _let_go(storage, mine)


def _take(storage: Storage, say: Callable[[str], None]) -> Lease:
    _wait_for_it(storage, say)
    mine = _new_lease()
    _owners.add(mine.owner)
    storage.write(LEASE, _as_json(mine))
    time.sleep(_SETTLE_SECONDS)
    holder = read_lease(storage)
    if holder is not None and holder.owner != mine.owner:
        _owners.discard(mine.owner)
        raise _refusal(storage, holder)
    return mine


def _wait_for_it(storage: Storage, say: Callable[[str], None]) -> None:
    """Return when nobody holds the folder. Raises ValueError when somebody is seen to be alive."""
    holder = read_lease(storage)
    if holder is None or _is_gone(holder):
        return
    left = min(STALE_SECONDS, STALE_SECONDS - (time.time() - holder.beat))
    if holder.machine == _machine():
        raise _refusal(storage, holder)
    if left <= 0:
        return
    say(f"run folder {storage.address}: its driver was {holder}; going on in {left:.0f} s unless it is heard of again")
    until = time.monotonic() + left
    while time.monotonic() < until:
        time.sleep(min(_LOOK_SECONDS, max(0.0, until - time.monotonic())))
        now = read_lease(storage)
        if now is None:
            return
        if now != holder:
            raise _refusal(storage, now)


def _refusal(storage: Storage, holder: Lease) -> ValueError:
    return ValueError(f"run folder {storage.address}: another driver is at work in it, {holder}; stop that one first")


def _renew(storage: Storage, mine: Lease, ended: threading.Event, lost: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        try:
            holder = read_lease(storage)
            if holder is not None and holder.owner != mine.owner:
                lost.set()
                _interrupt_main_thread()
                return
            storage.write(LEASE, _as_json(replace(mine, beat=time.time())))
        except (OSError, ValueError):  # a store that is away for a moment ends no run
            continue


def _interrupt_main_thread() -> None:
    """As Ctrl-C does; by SIGTERM in a process that a shell has put into the background, which ignores Ctrl-C."""
    main = threading.main_thread().ident
    assert main is not None
    deaf = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    signal.pthread_kill(main, signal.SIGTERM if deaf else signal.SIGINT)


def _let_go(storage: Storage, mine: Lease) -> None:
    try:
        holder = read_lease(storage)
        if holder is not None and holder.owner == mine.owner:
            storage.discard(LEASE)
    except (OSError, ValueError):  # what is left here goes stale by itself, and must not hide how the run ended
        return


def _taken_over(storage: Storage) -> str:
    holder = read_lease(storage)
    return f"another driver has taken over, {holder or 'ended since'}, because this one was not heard of"


def read_lease(storage: Storage) -> Lease | None:
    """Who holds a run's folder; None when nobody does, or the file is not to be understood."""
    try:
        content = storage.read(LEASE)
    except FileNotFoundError:
        return None
    try:
        return Lease(**json.loads(content))
    except (ValueError, TypeError):
        return None


def _new_lease() -> Lease:
    born = psutil.Process().create_time()
    return Lease(uuid.uuid4().hex, socket.gethostname(), _machine(), os.getpid(), born, time.time())


def _is_gone(holder: Lease) -> bool:
    """Whether the process is known to have ended: one of this machine whose number is free, or another's now."""
    if holder.machine != _machine():
        return False
    if holder.pid == os.getpid():
        return holder.owner not in _owners
    try:
        process = psutil.Process(holder.pid)
        return abs(process.create_time() - holder.born) > _CLOCK_SECONDS or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _machine() -> str:
    boot, processes = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if boot.exists() and processes.is_symlink():
        return f"{boot.read_text().strip()} {os.readlink(processes)}"
    return f"{socket.gethostname()} {psutil.boot_time():.0f}"


def _as_json(lease: Lease) -> bytes:
    return (json.dumps(asdict(lease), indent=1) + "\n").encode()
