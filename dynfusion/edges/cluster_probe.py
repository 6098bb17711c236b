"""A Ray cluster looked at from one of its machines; at an http address, its dashboard alone.

    join --> an observer on every node: facts, clock, connections --> dashboard, State API --> data and storage as every
    node sees them --> an all-reduce among free GPUs

What is started here ends with it: actors without a CPU, and one for each GPU that nobody uses.
"""

import json
import logging
import os
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import ray
from ray.exceptions import RayError

from dynfusion.edges.cluster_gpus import sum_over_gpus
from dynfusion.edges.cluster_nodes import (
    NODE_SECONDS,
    Fact,
    Seen,
    all_nodes,
    line_of,
    look_at_clocks,
    look_at_connections,
    look_at_data,
    look_at_machines,
    look_at_storage,
)
from dynfusion.edges.machine_probe import no_connection
from dynfusion.edges.probe_process import serve
from dynfusion.edges.ray_cluster import ask_state_api
from dynfusion.edges.ray_jobs import ClusterError, connect

_DASHBOARD_SECONDS = 10
_LOOPBACK = ("127.", "localhost", "::1", "[::1]")


def probe(
    address: str, names: Sequence[str], data: str | None, storage: str | None, cache: str | None
) -> Iterator[Fact]:
    """The facts of `preflight.observations.Cluster`, but for its address."""
    yield {"doing": "while it was connected to"}
    if address.startswith(("http://", "https://")):
        yield _from_outside(address.rstrip("/"))
        return
    problem = _no_head(address)
    if problem is not None:
        yield {"problem": problem}
        return
    yield {"doing": "while it was joined"}
    problem = _refused()
    if problem is not None:
        yield {"problem": problem}
        return
    try:
        context = _join(address)
    except (RayError, ConnectionError, RuntimeError, ValueError) as error:
        yield {"problem": line_of(error)}
        return
    try:
        head = ray.get_runtime_context().gcs_address
        yield {"looked_inside": True, "outside": not head.startswith(_LOOPBACK)}
        yield {"doing": "while its dashboard was asked"}
        yield _dashboard(f"http://{context.dashboard_url}" if context.dashboard_url else None)
        nodes = all_nodes()
        yield from _nodes(nodes, {"GCS": head, "dashboard": context.dashboard_url}, names, cache)
        yield from _stores(nodes, data, storage)
        yield {"doing": "while its State API was asked"}
        yield {"state_api_asked": True, "state_api_problem": _state_api()}
        if any(seen.known.get("machine", {}).get("gpus") for seen in nodes):
            yield from sum_over_gpus()
    finally:
        ray.shutdown()


def _no_head(address: str) -> str | None:
    """Why nobody listens there, None when somebody does; `auto` is Ray's word for a cluster on this machine."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return None
    if "://" in address or not host or not port.isdigit():
        return f"found {address!r}, allowed is HOST:PORT or http://HOST:PORT"
    return no_connection(host, int(port))


def _refused() -> str | None:
    """What the dashboard says of the token, where the environment names one: Ray's head says it of none and of a wrong
    one alike, after 20 s."""
    dashboard = os.environ.get("RAY_API_SERVER_ADDRESS")
    if not dashboard:
        return None
    try:
        connect(dashboard)
    except ClusterError as error:
        return line_of(error) if "token" in str(error) else None
    return None


def _join(address: str) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    return ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)


def _state_api() -> str | None:
    """Why it does not answer a worker, as Ray Train's cleaner is one."""
    asked = ray.remote(num_cpus=0)(ask_state_api).remote(_DASHBOARD_SECONDS)
    try:
        return ray.get(asked, timeout=_DASHBOARD_SECONDS + NODE_SECONDS)
    except RayError as error:
        return line_of(error)


def _nodes(
    nodes: Sequence[Seen], services: dict[str, str | None], names: Sequence[str], cache: str | None
) -> Iterator[Fact]:
    yield {"doing": "while its nodes were asked what they are"}
    look_at_machines(nodes, names, cache)
    yield {"nodes": [seen.facts for seen in nodes], "doing": "while its nodes' clocks were read"}
    look_at_clocks(nodes)
    yield {"nodes": [seen.facts for seen in nodes], "doing": "while its nodes connected to each other"}
    look_at_connections(nodes, services)
    yield {"nodes": [seen.facts for seen in nodes]}


def _stores(nodes: Sequence[Seen], data: str | None, storage: str | None) -> Iterator[Fact]:
    if data is not None:
        yield {"doing": "while its nodes looked at the data"}
        look_at_data(nodes, data)
        yield {"nodes": [seen.facts for seen in nodes]}
    if storage is not None:
        yield {"doing": "while its nodes wrote to the storage"}
        look_at_storage(nodes, storage)
        yield {"nodes": [seen.facts for seen in nodes]}


def _from_outside(address: str) -> Fact:
    """What a dashboard says to somebody outside."""
    outside = not (urlsplit(address).hostname or "").startswith(_LOOPBACK)
    try:
        connect(address)
    except ClusterError as error:
        return {"outside": outside, "problem": line_of(error).removeprefix(f"Ray at {address}: ")}
    return {"outside": outside, **_dashboard(address)}


def _dashboard(address: str | None) -> Fact:
    if address is None:
        return {"dashboard_problem": "the cluster was started without its dashboard"}
    try:
        return {"dashboard": address, "authentication": _authentication(address)}
    except (OSError, ValueError) as error:
        return {"dashboard": address, "dashboard_problem": f"{address}: {line_of(error)}"}


def _authentication(dashboard: str) -> str | None:
    """`token` or `disabled`, as the dashboard tells everybody. Raises OSError or ValueError when it does not answer."""
    with urllib.request.urlopen(f"{dashboard}/api/authentication_mode", timeout=_DASHBOARD_SECONDS) as answer:
        return json.load(answer).get("authentication_mode")


if __name__ == "__main__":
    serve(probe)
