"""Everything that `doctor` looks at, each part in a process of its own, side by side."""

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter

from dynfusion.edges.probe_process import Answer, Question, ask
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
    here = {"names": sorted({*ALWAYS, *(one.name for one in wanted)}), "cache": subjects.cache}
    answers = _ask_all(_questions(subjects, here), debug=debug)
    found = Observations(_built(Machine, answers["here"]), requirements=wanted)
    if "data" in answers:
        found = replace(found, data=_built(Data, answers["data"], uri=subjects.data))
    if "storage" in answers:
        found = replace(found, storage=_built(Storage, answers["storage"], uri=subjects.storage))
    if "cluster" in answers:
        return replace(found, cluster=_built(Cluster, answers["cluster"], address=subjects.cluster))
    if not found.here.gpus or found.here.torch_cuda is None:
        return found
    count = Question("dynfusion.edges.all_reduce", {"count": len(found.here.gpus)}, _GPU_SECONDS)
    return replace(found, gpus=_built(Gpus, _ask_all({"gpus": count}, debug=debug)["gpus"]))


def _questions(subjects: Subjects, here: Mapping[str, Any]) -> dict[str, Question]:
    asked = {"here": Question("dynfusion.edges.machine_probe", here, _MACHINE_SECONDS)}
    if subjects.data is not None:
        asked["data"] = Question("dynfusion.edges.data_probe", {"uri": subjects.data}, _DATA_SECONDS)
    if subjects.storage is not None:
        asked["storage"] = Question("dynfusion.edges.storage_probe", {"uri": subjects.storage}, _STORAGE_SECONDS)
    if subjects.cluster is not None:
        there = {**here, "address": subjects.cluster, "data": subjects.data, "storage": subjects.storage}
        asked["cluster"] = Question("dynfusion.edges.cluster_probe", there, _CLUSTER_SECONDS)
    return asked


def _ask_all(questions: Mapping[str, Question], *, debug: bool) -> dict[str, Answer]:
    """All at once; whatever interrupts the waiting ends them all."""
    given_up = threading.Event()
    with ThreadPoolExecutor(len(questions)) as pool:
        try:
            answers = pool.map(lambda question: ask(question, given_up, debug=debug), questions.values())
            return dict(zip(questions, answers, strict=True))
        finally:
            given_up.set()


def _built(kind: type[Any], answer: Answer, **known: Any) -> Any:
    """The observation of these facts; what a probe that was given up had not said has its default."""
    return TypeAdapter(kind).validate_python({**answer.facts, **known, "unanswered": answer.unanswered})
