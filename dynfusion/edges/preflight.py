"""Everything that `doctor` looks at, each part in a process of its own, side by side."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter

from dynfusion.edges.probe_process import Answer, ask
from dynfusion.edges.requirements import ALWAYS, requirements
from dynfusion.preflight.observations import Cluster, Data, Gpus, Machine, Observations, Storage

_MACHINE_SECONDS = 12.0
_DATA_SECONDS = 20.0
_STORAGE_SECONDS = 20.0
_CLUSTER_SECONDS = 40.0
_GPU_SECONDS = 100.0


@dataclass(frozen=True)
class Subjects:
    """What is to be looked at beside this machine; None leaves it out."""

    cluster: str | None = None
    data: str | None = None
    storage: str | None = None
    cache: str | None = None


def observe(subjects: Subjects, *, debug: bool = False) -> Observations:
    """What is seen. Nothing raises: what cannot be seen is said in its place; each part has a limit of its own.

    `debug` shows what the processes print that look.
    """
    wanted = requirements()
    names = sorted({*ALWAYS, *(one.name for one in wanted)})
    here = {"names": names, "cache": subjects.cache}
    asked: dict[str, tuple[str, Mapping[str, Any], float]] = {"here": ("machine_probe", here, _MACHINE_SECONDS)}
    if subjects.data is not None:
        asked["data"] = ("data_probe", {"uri": subjects.data}, _DATA_SECONDS)
    if subjects.storage is not None:
        asked["storage"] = ("storage_probe", {"uri": subjects.storage}, _STORAGE_SECONDS)
    if subjects.cluster is not None:
        there = {**here, "address": subjects.cluster, "data": subjects.data, "storage": subjects.storage}
        asked["cluster"] = ("cluster_probe", there, _CLUSTER_SECONDS)

    def look(question: tuple[str, Mapping[str, Any], float]) -> Answer:
        module, arguments, seconds = question
        return ask(f"dynfusion.edges.{module}", arguments, seconds=seconds, debug=debug)

    with ThreadPoolExecutor(len(asked)) as pool:
        answers = dict(zip(asked, pool.map(look, asked.values()), strict=True))
    found = Observations(_machine(answers["here"]), requirements=wanted)
    if "data" in answers:
        found = replace(found, data=_built(Data, answers["data"], uri=subjects.data))
    if "storage" in answers:
        found = replace(found, storage=_built(Storage, answers["storage"], uri=subjects.storage))
    if "cluster" in answers:
        return replace(found, cluster=_built(Cluster, answers["cluster"], address=subjects.cluster))
    if not found.here.gpus or found.here.torch_cuda is None:
        return found
    summed = look(("all_reduce", {"count": len(found.here.gpus)}, _GPU_SECONDS))
    return replace(found, gpus=_built(Gpus, summed))


def _machine(answer: Answer) -> Machine:
    return _built(Machine, answer)


def _built(kind: type[Any], answer: Answer, **known: Any) -> Any:
    """The observation of these facts; what a probe that was given up had not said has its default."""
    return TypeAdapter(kind).validate_python({**answer.facts, **known, "unanswered": answer.unanswered})
