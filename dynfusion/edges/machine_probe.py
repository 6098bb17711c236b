"""What a machine is: read from a process on it, by the standard library alone, since a node may lack any package.

It is sent to nodes as code, not by name: a node without dynfusion is a finding. What reads a disk or asks a driver is
announced first, so that one that hangs is named.
"""

import csv
import glob
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import resource
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dynfusion.edges.probe_process import serve

_DRIVER_SECONDS = 10.0
_CONNECT_SECONDS = 3.0
_CONNECTIONS = 32
_RAY_SHARE, _RAY_MOST_BYTES, _RAY_LEAST_MOST_BYTES = 0.3, 200 * 10**9, 10**10
_RAY_FILES = 65536
_PORTS = {6379: "GCS", 8265: "dashboard"}


def probe(names: Sequence[str], cache: str | None) -> Iterator[dict[str, Any]]:
    """The facts of `preflight.observations.Machine`; of packages those named, in lower case."""
    yield {"python": platform.python_version(), "packages": versions(names), **memory()}
    yield {"code": source_digest(), "torch_cuda": torch_cuda(), "token": token_file()}
    yield {"files_limit": files_limit(), "taken_ports": taken_ports()}
    yield {"doing": "asking nvidia-smi"}
    yield gpus()
    found = []
    for purpose, folder in folders(cache).items():
        yield {"doing": f"asking for the free space of {folder}"}
        found.append(space(purpose, folder))
    yield {"spaces": found}


class Observer:
    """The same from a node of a Ray cluster: an actor on it."""

    def facts(self, names: Sequence[str], cache: str | None) -> dict[str, Any]:
        """Those of the machine, of what concerns a node."""
        found: dict[str, Any] = {"python": platform.python_version(), "packages": versions(names), **memory()}
        found |= {"code": source_digest(), "torch_cuda": torch_cuda(), "token": token_file(), **gpus()}
        found["files_limit"] = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        found["spaces"] = [space(purpose, folder) for purpose, folder in folders(cache).items()]
        return found

    def clock(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def unreachable(self, targets: Sequence[tuple[str, str, int]]) -> dict[str, str]:
        """Why there is no connection to those of the targets (name, host, port) that have none, by name."""
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            found = pool.map(lambda target: no_connection(*target[1:]), targets)
            return {name: why for (name, _, _), why in zip(targets, found, strict=True) if why is not None}


def no_connection(host: str, port: int) -> str | None:
    """Why a port cannot be connected to, None when it can."""
    try:
        socket.create_connection((host, port), _CONNECT_SECONDS).close()
    except OSError as error:
        return f"port {port} of {host}: {error.strerror or error}"
    return None


def versions(names: Sequence[str]) -> dict[str, str]:
    """The installed versions of those packages that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def source_digest() -> str | None:
    """16 hexadecimal digits over the Python files of dynfusion here, None when there are none."""
    found = importlib.util.find_spec("dynfusion")
    if found is None or found.origin is None:
        return None
    folder, digest = Path(found.origin).parent, hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder).as_posix()} ".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def torch_cuda() -> str | None:
    """The CUDA that the installed torch is built for, from the file that says so: importing torch takes seconds."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    text = Path(found.origin).with_name("version.py").read_text(encoding="utf-8")
    said = re.search(r"^cuda\b.*=\s*'([\d.]+)'", text, re.MULTILINE)
    return said.group(1) if said else None


def memory() -> dict[str, int | None]:
    """Memory of this machine or container, what Ray's object store would take of it, and the size of /dev/shm."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = Path(limit).read_text().strip() if Path(limit).is_file() else ""
        total = min(total, int(text)) if text.isdigit() else total
    shm = shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else None
    store = object_store_bytes(total, shm)
    return {"memory_bytes": total, "object_store_bytes": store, "shm_bytes": shm}


def object_store_bytes(memory_bytes: int, shm_bytes: int | None) -> int:
    """What Ray's object store takes of a Linux machine when nobody says how much (`resolve_object_store_memory`)."""
    most = _RAY_MOST_BYTES if shm_bytes is None else min(_RAY_MOST_BYTES, max(_RAY_LEAST_MOST_BYTES, shm_bytes * 0.95))
    return int(min(_RAY_SHARE * memory_bytes, most))


def files_limit() -> int:
    """How many files a process of Ray may open: `ray.init` raises the soft limit as far as the hard one allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    hard = _RAY_FILES if hard == resource.RLIM_INFINITY else hard
    return max(soft, min(hard, _RAY_FILES))


def gpus() -> dict[str, Any]:
    """The GPUs as `nvidia-smi` lists them; none where there is no such program and no such device."""
    program = shutil.which("nvidia-smi")
    devices = glob.glob("/dev/nvidia[0-9]*")
    if program is None:
        missing = f"{len(devices)} NVIDIA devices are there but no nvidia-smi" if devices else None
        return {"gpus": [], "gpu_problem": missing}
    columns = "name,memory.total,memory.used,driver_version"
    try:
        listed = _said(program, f"--query-gpu={columns}", "--format=csv,noheader,nounits")
        cuda = re.search(r"CUDA Version:\s*([\d.]+)", _said(program))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stdout", "") or str(error)
        return {"gpus": [], "gpu_problem": f"nvidia-smi fails: {said.strip().splitlines()[0]}"}
    rows = [[field.strip() for field in row] for row in csv.reader(listed.splitlines()) if len(row) == 4]
    found = [
        {"name": name, "memory_bytes": _mebibytes(total), "used_bytes": _mebibytes(used), "driver": driver}
        for name, total, used, driver in rows
    ]
    return {"gpus": found, "driver_cuda": cuda.group(1) if cuda else None}


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=_DRIVER_SECONDS, check=True).stdout


def _mebibytes(text: str) -> int:
    return int(text) << 20 if text.isdigit() else 0


def folders(cache: str | None) -> dict[str, str]:
    """Where Ray, scratch files and the cache lie, by what they are for."""
    ray = os.path.join(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp", "ray")
    found = {"Ray's sessions": ray, "scratch files": tempfile.gettempdir()}
    return {**found, "cache of shards": cache} if cache else found


def space(purpose: str, folder: str) -> dict[str, Any]:
    """The disk that a folder lies on, or would lie on if it were made."""
    there = Path(folder).absolute()
    while not there.exists():
        there = there.parent
    usage = shutil.disk_usage(there)
    return {"purpose": purpose, "folder": folder, "free_bytes": usage.free, "total_bytes": usage.total}


def token_file() -> dict[str, Any] | None:
    """The file that Ray would read a token from; None where it would read none."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    wanted = os.environ.get("RAY_AUTH_MODE", "").lower() == "token" and not os.environ.get("RAY_AUTH_TOKEN")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    told = {"path": str(path), "named": bool(named), "needed": wanted}
    try:
        found = path.stat()
    except OSError:
        return {**told, "there": False} if named or wanted else None
    reachable = all(folder.stat().st_mode & 0o011 for folder in path.absolute().parents)
    mode = {"mode": found.st_mode & 0o777, "owned": found.st_uid == os.getuid(), "reachable": reachable}
    return {**told, **mode, "there": True}


def taken_ports() -> list[dict[str, Any]]:
    """Those of Ray's usual ports that cannot be listened on here."""
    found = []
    for port, purpose in _PORTS.items():
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind(("", port))
            except OSError:
                found.append({"port": port, "purpose": purpose, "is_ray": _is_dashboard(port)})
    return found


def _is_dashboard(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/authentication_mode", timeout=1) as answer:
            return b"authentication_mode" in answer.read(1000)
    except (OSError, ValueError, urllib.error.URLError):
        return False


if __name__ == "__main__":
    serve(probe)
