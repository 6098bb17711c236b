"""Every node of a Ray cluster at once: an observer on each, and what each makes of the data and the storage."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dynfusion.edges import data_probe, machine_probe, storage_probe

NODE_SECONDS = 25.0
_CLOCK_LOOKS, _CLOCK_SECONDS = 5, 5.0
_SAMPLE = 4
"""Blocks of a data set that each node reads."""

Fact = dict[str, Any]
Target = tuple[str, str, int]
"""What a node connects to: name, host, port."""


@dataclass
class Seen:
    """A node and what is known of it so far, as `preflight.observations.Node`; `observer` is the actor on it."""

    info: Mapping[str, Any]
    observer: Any
    known: Fact = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.info['NodeManagerHostname']} ({self.info['NodeManagerAddress']}, {self.info['NodeID'][:6]})"

    @property
    def facts(self) -> Fact:
        gpus = self.info["Resources"].get("GPU", 0.0)
        return {**self.known, "name": self.name, "alive": self.info["Alive"], "gpus": gpus}


def all_nodes() -> list[Seen]:
    """The nodes of the cluster this process has joined, those that are alive with an observer."""
    cloudpickle.register_pickle_by_value(machine_probe)  # a node may lack dynfusion, and is to say so
    observer = ray.remote(num_cpus=0, max_restarts=0)(machine_probe.Observer)
    return [Seen(info, _on(info, observer).remote() if info["Alive"] else None) for info in ray.nodes()]


def look_at_machines(nodes: Sequence[Seen], names: Sequence[str], cache: str | None) -> None:
    """What each machine is. Its own Ray's object store counts, not what Ray would take by default."""

    def keep(seen: Seen, said: Fact) -> None:
        taken = int(seen.info["Resources"].get("object_store_memory", 0))
        seen.known["machine"] = {**said, "name": seen.name, "object_store_bytes": taken}

    _on_each(nodes, lambda seen: seen.observer.facts.remote(names, cache), keep, doing="asked what it is")


def look_at_clocks(nodes: Sequence[Seen]) -> None:
    """How far each clock is from this one's, by the quickest of several answers."""
    for seen in nodes:
        if "machine" not in seen.known:
            continue
        looks = []
        with suppress(RayError):
            for _ in range(_CLOCK_LOOKS):
                before = time.time()
                theirs = ray.get(seen.observer.clock.remote(), timeout=_CLOCK_SECONDS)
                after = time.time()
                looks.append(((after - before) / 2, theirs - (before + after) / 2))
        if looks:
            seen.known["error_seconds"], seen.known["offset_seconds"] = min(looks)


def look_at_connections(nodes: Sequence[Seen], head: Mapping[str, str | None]) -> None:
    """What no node, or not every one, can connect to; `head` has the addresses of its services, HOST:PORT by name."""
    targets = [*_services(head), *_managers(nodes)]

    def keep(seen: Seen, said: dict[str, str]) -> None:
        seen.known["unreachable"] = said

    _on_each(nodes, lambda seen: seen.observer.unreachable.remote(targets), keep, doing="connecting to the others")


def look_at_data(nodes: Sequence[Seen], uri: str) -> None:
    """Each node's own look at the data set."""

    def keep(seen: Seen, said: Fact) -> None:
        seen.known["data"] = said

    _on_each(nodes, lambda seen: _task(seen, _data).remote(uri), keep, doing="looking at the data")


def look_at_storage(nodes: Sequence[Seen], uri: str) -> None:
    """Each node's own probe file, and whether it sees the one that this machine leaves there meanwhile."""
    if storage_probe.problem_of(lambda: storage_probe.place(uri)) is not None:
        return  # no address: this machine's own look says so
    marker, place = storage_probe.probe_name(), storage_probe.place(uri)
    left = storage_probe.problem_of(lambda: place.write(marker, b"dynfusion doctor"))

    def keep(seen: Seen, said: tuple[Fact, bool]) -> None:
        seen.known["storage"], sees = said
        seen.known["sees_marker"] = sees if left is None else None

    try:
        _on_each(nodes, lambda seen: _task(seen, _storage).remote(uri, marker), keep, doing="writing to the storage")
    finally:
        storage_probe.problem_of(lambda: place.delete(marker))


def _on_each(
    nodes: Sequence[Seen], start: Callable[[Seen], Any], keep: Callable[[Seen, Any], None], *, doing: str
) -> None:
    """Start something on every node that answers, all at once, and keep what each says within the limit."""
    asked = [(seen, start(seen)) for seen in nodes if seen.observer is not None and "problem" not in seen.known]
    deadline = time.monotonic() + NODE_SECONDS
    for seen, reference in asked:
        try:
            keep(seen, ray.get(reference, timeout=max(0.1, deadline - time.monotonic())))
        except GetTimeoutError:
            seen.known["problem"] = f"no answer within {NODE_SECONDS:.0f} s, {doing}"
        except (RayError, RuntimeError) as error:
            seen.known["problem"] = f"{line_of(error)}, {doing}"


def _on(info: Mapping[str, Any], remote: Any) -> Any:
    return remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(info["NodeID"], soft=False))


def _task(seen: Seen, function: Callable[..., Any]) -> Any:
    return _on(seen.info, ray.remote(num_cpus=0, max_retries=0)(function))


def _services(head: Mapping[str, str | None]) -> Iterator[Target]:
    for name, address in head.items():
        if address:
            host, _, port = address.rpartition(":")
            yield name, host, int(port)


def _managers(nodes: Sequence[Seen]) -> Iterator[Target]:
    for seen in nodes:
        if seen.info["Alive"]:
            host = seen.info["NodeManagerAddress"]
            yield f"node manager of {seen.name}", host, seen.info["NodeManagerPort"]
            yield f"object manager of {seen.name}", host, seen.info["ObjectManagerPort"]


def _data(uri: str) -> Fact:
    return {"uri": uri, **_facts(data_probe.probe(uri, _SAMPLE))}


def _storage(uri: str, marker: str) -> tuple[Fact, bool]:
    found = {"uri": uri, **_facts(storage_probe.probe(uri))}
    return found, storage_probe.problem_of(lambda: storage_probe.must_see(uri, marker)) is None


def _facts(said: Iterator[Fact]) -> Fact:
    """The last of what a probe says, by name."""
    found: Fact = {}
    for fact in said:
        found |= {name: value for name, value in fact.items() if name != "doing"}
    return found


def line_of(error: BaseException) -> str:
    """What Ray raises, as the end of a sentence: the error of a task is what was raised in it."""
    cause = getattr(error, "cause", None) or error
    lines = str(cause).strip().splitlines()
    return lines[0].rstrip(".:") if lines else type(cause).__name__
