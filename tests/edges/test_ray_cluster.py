"""The cluster of a command: a local one that does not start, and the processes that it keeps."""

import os
import time

import pytest
import ray

from dynfusion.edges.ray_cluster import TASK_PROCESSES_PER_CPU, cluster


def test_a_local_cluster_that_does_not_start_in_time_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(**options: object) -> None:
        raise Exception("The current node timed out during startup.")  # Ray raises no other type

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", late)
    with pytest.raises(RuntimeError, match="Ray on this machine: it did not start within"), cluster():
        raise AssertionError("there is no cluster")


@pytest.mark.slow
def test_idle_processes_for_the_checks_of_as_many_runs_as_there_are_cpus_are_kept(ray_cluster: None) -> None:
    """Ray's own limit is one a CPU, and it ends what is beyond after a second."""

    @ray.remote(num_cpus=0)
    def who() -> int:
        time.sleep(5)  # so that none serves two of them
        return os.getpid()

    tasks = TASK_PROCESSES_PER_CPU * int(ray.cluster_resources()["CPU"])
    first = set(ray.get([who.remote() for _ in range(tasks)]))
    time.sleep(5)
    assert set(ray.get([who.remote() for _ in range(tasks)])) == first
    assert len(first) == tasks
