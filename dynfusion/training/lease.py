"""One driver at a time in a run's folder: a lease that its owner renews while it lives.

lease.json: {"owner", "host", "machine", "pid", "born", "beat"}, the beat in seconds since 1970

A driver that was killed leaves its lease. On the same machine the process is seen to be gone, and the next one goes on
at once; elsewhere the next one waits for `STALE_SECONDS` of its own clock, and refuses when it sees another beat. Only
a beat of more than `LONG_AGO_SECONDS` ago is not waited for: clocks of machines are taken to agree that far.

Two that start at the same moment both write, and the one that wrote last has it. A store does not write on condition,
so no write may arrive late: the storage of a lease gives up after `STORE_SECONDS`, and who has written slowly reads
again a beat later. So of two drivers one sees the other within a beat, and ends.
"""

import json
import logging
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

from dynfusion.settings import parse_json
from dynfusion.training.storage import Storage

LEASE = "lease.json"
BEAT_SECONDS = 20.0
STALE_SECONDS = 90.0
LONG_AGO_SECONDS = 600.0
STORE_SECONDS = 15.0
"""How long a store may be tried again for one request of a lease; with the request itself far below STALE_SECONDS."""
_SETTLE_SECONDS = 0.5
_LOOK_SECONDS = 3.0
_END_SECONDS = 5.0
_CLOCK_SECONDS = 60.0
_MOST_PROCESSES = 1 << 31
_LATEST = 1e11
"""Seconds since 1970, in the year 5138."""

_log = logging.getLogger(__name__)
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


class HeldError(ValueError):
    """Another driver is at work."""


class Hold:
    """This process's hold on a run's folder, until another driver has it."""

    def __init__(self, storage: Storage, mine: Lease) -> None:
        self.storage, self.mine = storage, mine
        self.lost_to: Lease | None = None

    def look(self) -> None:
        """See in the store whether another driver has taken over."""
        holder = read_lease(self.storage)
        if holder is not None and holder.owner != self.mine.owner:
            self.lost_to = holder

    def check(self) -> None:
        """The same before what only one driver may do. Raises ValueError when another driver has taken over."""
        self.look()
        self.refuse_if_lost()

    def refuse_if_lost(self) -> None:
        """Raises ValueError when another driver was seen to have taken over."""
        if self.lost_to is not None:
            raise ValueError(
                f"run folder {self.storage.address}: another driver has taken over, {self.lost_to}, because this one "
                "was not heard of"
            ) from None


@contextmanager
def driving(storage: Storage, say: Callable[[str], None]) -> Iterator[Hold]:
    """Inside, this process is the only driver of the run in this folder; `storage` gives up after `STORE_SECONDS`.

    Raises ValueError when another one drives it, also when another one has taken over meanwhile, however the inside
    ended: the main thread is interrupted as soon as that is seen.
    """
    hold = Hold(storage, _take(storage, say))
    ended = threading.Event()
    renewer = threading.Thread(target=_renew, args=(hold, ended), name="run-lease", daemon=True)
    renewer.start()
    try:
        try:
            yield hold
        finally:
            ended.set()
            _owners.discard(hold.mine.owner)
            renewer.join(_END_SECONDS)
            if not renewer.is_alive():  # else the store is away
                _let_go(hold)
    finally:
        hold.refuse_if_lost()


def _take(storage: Storage, say: Callable[[str], None]) -> Lease:
    _wait_for_it(storage, say)
    mine = _new_lease()
    _owners.add(mine.owner)
    started = time.monotonic()
    storage.write(LEASE, _as_json(mine))
    was_quick = time.monotonic() - started < _SETTLE_SECONDS
    time.sleep(_SETTLE_SECONDS if was_quick else BEAT_SECONDS)
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
    if holder.machine == machine():
        raise _refusal(storage, holder)
    if time.time() - holder.beat > LONG_AGO_SECONDS:
        return
    wait = f"going on in {STALE_SECONDS:.0f} s unless it is heard of again"
    say(f"run folder {storage.address}: its driver was {holder}; {wait}")
    until = time.monotonic() + STALE_SECONDS
    while time.monotonic() < until:
        time.sleep(min(_LOOK_SECONDS, max(0.0, until - time.monotonic())))
        now = read_lease(storage)
        if now is None:
            return
        if now != holder:
            raise _refusal(storage, now)


def _refusal(storage: Storage, holder: Lease) -> HeldError:
    return HeldError(f"run folder {storage.address}: another driver is at work in it, {holder}; stop that one first")


def _renew(hold: Hold, ended: threading.Event) -> None:
    """Until the end, or until another driver has taken over; a slow write is followed by a look a beat later too."""
    while not ended.wait(BEAT_SECONDS):
        try:
            hold.look()
            if hold.lost_to is not None:
                if not ended.is_set():
                    _interrupt_main_thread()
                return
            hold.storage.write(LEASE, _as_json(replace(hold.mine, beat=time.time())))
        except Exception:  # whatever a store's libraries raise: a thread that ended here would let the lease go stale
            _log.warning("the lease of %s was not renewed", hold.storage.address, exc_info=True)


def _interrupt_main_thread() -> None:
    """As Ctrl-C does; by SIGTERM in a process that a shell has put into the background, which ignores Ctrl-C."""
    main = threading.main_thread().ident
    assert main is not None
    deaf = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    signal.pthread_kill(main, signal.SIGTERM if deaf else signal.SIGINT)


def _let_go(hold: Hold) -> None:
    try:
        holder = read_lease(hold.storage)
        if holder is not None and holder.owner == hold.mine.owner:
            hold.storage.discard(LEASE)
    except (OSError, ValueError):  # what is left here goes stale by itself, and must not hide how the run ended
        return


def read_lease(storage: Storage) -> Lease | None:
    """Who holds a run's folder; None when nobody does, or the file is not to be understood."""
    try:
        content = storage.read(LEASE)
    except FileNotFoundError:
        return None
    try:
        found = Lease(**parse_json(content, LEASE))
    except (ValueError, TypeError):
        return None
    return found if _is_lease(found) else None


def is_driven(storage: Storage) -> bool:
    """Whether somebody seems to be at work in a folder: a process of this machine, or one elsewhere heard of lately."""
    holder = read_lease(storage)
    if holder is None or _is_gone(holder):
        return False
    return holder.machine == machine() or time.time() - holder.beat < LONG_AGO_SECONDS


def _is_lease(found: Lease) -> bool:
    """Whether its fields are what they are called: nothing else has looked at them."""
    texts = all(type(text) is str and text.isprintable() for text in (found.owner, found.host, found.machine))
    times = all(type(time) in (int, float) and 0 <= time < _LATEST for time in (found.born, found.beat))
    return texts and times and type(found.pid) is int and 0 < found.pid < _MOST_PROCESSES


def _new_lease() -> Lease:
    born = psutil.Process().create_time()
    return Lease(uuid.uuid4().hex, socket.gethostname(), machine(), os.getpid(), born, time.time())


def _is_gone(holder: Lease) -> bool:
    """Whether the process is known to have ended: one of this machine whose number is free, or another's now."""
    if holder.machine != machine():
        return False
    if holder.pid == os.getpid():
        return holder.owner not in _owners
    try:
        process = psutil.Process(holder.pid)
        return abs(process.create_time() - holder.born) > _CLOCK_SECONDS or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def machine() -> str:
    """The boot and the process namespace of this process, which its process number counts in."""
    boot, processes = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if boot.exists() and processes.is_symlink():
        return f"{boot.read_text().strip()} {os.readlink(processes)}"
    return f"{socket.gethostname()} {psutil.boot_time():.0f}"


def _as_json(lease: Lease) -> bytes:
    return (json.dumps(asdict(lease), indent=1) + "\n").encode()
