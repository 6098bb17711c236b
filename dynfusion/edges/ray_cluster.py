"""The Ray cluster a command runs on: the one that RAY_ADDRESS names, else a local one for as long as it is needed."""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.state import list_nodes
from ray.util.state.exception import RayStateApiException

POLL_SECONDS = 1
TASK_PROCESSES_PER_CPU = 2
"""Idle ones that a local cluster keeps for the next task: a check of a run takes two, and no CPU of the cluster. Ray's
own limit, one per CPU, would end those of a second run after every check, and each takes seconds to start."""
_STATE_SECONDS = 30
_API = "RAY_API_SERVER_ADDRESS"


class NoRoomError(ValueError):
    """A cluster did not give the resources in time; it may later."""


@contextmanager
def cluster(*, cpus: int = 1, dashboard: bool = False, debug: bool = False) -> Iterator[None]:
    """Connected to Ray inside the block; a connection that was there before is used and left alone.

    What workers have to say comes through boards and errors; `debug` shows all that they print.
    A local cluster offers `cpus` CPUs, or the machine's own number if that is larger, and Ray's `dashboard` if wanted.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # says at every start that a token is used
    quiet = {"logging_level": logging.WARNING, "log_to_driver": debug}
    most = max(cpus, os.cpu_count() or 1)
    local = {**quiet, "num_cpus": most, "_system_config": {"num_workers_soft_limit": TASK_PROCESSES_PER_CPU * most}}
    try:
        with _own_sigterm():
            if "RAY_ADDRESS" in os.environ:
                ray.init(**quiet)
            elif not dashboard:
                ray.init(include_dashboard=False, **local)
            else:
                _start_with_dashboard(**local)
    except (ray.exceptions.RayError, ConnectionError, RuntimeError) as error:
        where, why = os.environ.get("RAY_ADDRESS", "a local cluster"), str(error).splitlines()[0].rstrip(".")
        gone = "; RAY_ADDRESS names it, `unset RAY_ADDRESS` where it is gone" if "RAY_ADDRESS" in os.environ else ""
        raise RuntimeError(f"Ray at {where}: could not connect, {why}{gone}") from error
    except Exception as error:  # its type is all that Ray says of its processes not being up in time
        if type(error) is not Exception:
            raise
        raise RuntimeError(
            "Ray on this machine: it did not start within the 30 s that it gives itself; is it busy, or short of "
            "memory? The same command tries again, `dynfusion doctor` looks at the machine"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def has_working_folder() -> bool:
    """Whether this program's tasks run in a folder that Ray unpacks for them on every node, as a submitted job's do."""
    return bool(ray.get_runtime_context().runtime_env.get("working_dir"))


def _start_with_dashboard(**options: Any) -> None:
    """A local cluster whose workers know the address of its dashboard.

    They would search the machine for it, and give up where another Ray runs: then the State API does not answer.
    """
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    before = os.environ.get(_API)
    os.environ[_API] = f"http://127.0.0.1:{port}"
    try:
        ray.init(include_dashboard=True, dashboard_port=port, **options)
    finally:
        if before is None:
            del os.environ[_API]
        else:
            os.environ[_API] = before


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """`ray.init` puts a handler of its own in the place of the process's, which would exit with 15; put it back."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and callable(before):
            signal.signal(signal.SIGTERM, before)


def wait_for(bundles: list[dict[str, float]], *, deadline_seconds: float) -> None:
    """Return once the cluster can give these resources at the same time; an autoscaler is asked for them.

    Raises NoRoomError after the deadline, saying what was asked for and what the cluster has.
    """
    group = placement_group(bundles, strategy="PACK")
    try:
        deadline = time.monotonic() + deadline_seconds
        while not group.wait(timeout_seconds=POLL_SECONDS):  # one long wait would be deaf to Ctrl-C and SIGTERM
            if time.monotonic() < deadline:
                continue
            has = {name: amount for name, amount in ray.cluster_resources().items() if name in ("CPU", "GPU")}
            raise NoRoomError(
                f"cluster: asked for {len(bundles)} workers with {bundles[0]} each, found {has} in all after "
                f"{deadline_seconds:.0f} seconds (cluster.start_deadline_seconds)"
            )
    finally:
        remove_placement_group(group)


def room_for(bundle: Mapping[str, float]) -> int:
    """How many such bundles of resources the nodes of the cluster hold, were they empty."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(
        min(int(has.get(name, 0.0) / amount + 1e-9) for name, amount in bundle.items() if amount) for has in alive
    )


def require_state_api() -> None:
    """Raises ValueError when the cluster's State API does not answer.

    It is a part of the dashboard, and Ray Train's own cleaner asks it whether a run's controller still lives: without
    it the placement group of a run whose processes were killed stays, and the next one waits for its CPUs for ever.
    """
    why = ray.get(ray.remote(num_cpus=0)(ask_state_api).remote(_STATE_SECONDS))  # where the cleaner asks, from a worker
    if why is not None:
        raise ValueError(
            "cluster: Ray's State API does not answer, without which the CPUs of a killed trial are lost to the sweep; "
            f"start the cluster with its dashboard (ray start --head --include-dashboard=true): {why}"
        )


def ask_state_api(seconds: int) -> str | None:
    """Why the State API does not answer this process within so many seconds, None when it does."""
    try:
        list_nodes(limit=1, timeout=seconds)
    except (RayStateApiException, ConnectionError, RuntimeError, ValueError) as error:
        return str(error).splitlines()[0]
    return None
