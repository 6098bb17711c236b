"""Jobs on real Ray Tune, by processes that do as their job says: told, stopped, postponed, lost and tried again."""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from dynfusion.edges.ray_tune import run_on_tune
from dynfusion.tuning.messages import Ended, Job, Report
from tests.edges.obedient import Obedient

pytestmark = pytest.mark.usefixtures("ray_cluster")


class Told:
    """Work that keeps what it is told; job `stop` is stopped at its second report."""

    def __init__(self, folder: Path, jobs: Iterable[tuple[str, dict[str, Any]]]) -> None:
        self.jobs = {name: Job(name, settings, str(folder)) for name, settings in jobs}
        self.left = deque(self.jobs)
        self.seen: dict[str, list[str]] = defaultdict(list)

    def next(self) -> Job | None:
        return self.jobs[self.left.popleft()] if self.left else None

    def is_left(self) -> bool:
        return bool(self.left)

    def begun(self, job: str) -> None:
        self.seen[job].append("begun")

    def interrupted(self, job: str) -> None:
        self.seen[job].append("interrupted")

    def reported(self, job: str, report: Report) -> bool:
        self.seen[job].append(f"step {report.step}")
        return job == "stop" and report.step == 2

    def ended(self, job: str, ended: Ended) -> None:
        self.seen[job].append(ended.state)
        if ended.state == "postponed":
            self.left.append(job)

    def lost(self, job: str, why: str) -> None:
        self.seen[job].append("lost")


def test_jobs_are_told_stopped_postponed_lost_and_tried_again(tmp_path: Path) -> None:
    jobs = [
        ("plain", {"reports": 2}),
        ("stop", {"reports": 50}),
        ("once", {"reports": 1, "die": "once"}),
        ("always", {"reports": 1, "die": "always"}),
        ("later", {"reports": 1, "postpone": True}),
    ]
    work = Told(tmp_path, jobs)
    run_on_tune(work, at_once=2, max_failures=1, process=Obedient)
    assert dict(work.seen) == {
        "plain": ["begun", "step 1", "step 2", "finished"],
        "stop": ["begun", "step 1", "step 2"],
        "once": ["begun", "interrupted", "begun", "step 1", "finished"],
        "always": ["begun", "interrupted", "begun", "lost"],
        "later": ["begun", "step 1", "postponed", "begun", "step 1", "finished"],
    }


HEAD = ("gcs_server", "raylet")
LASTING = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
MANY, SETTLED = 200, 50
GROWTH_BYTES = 40 << 20


class Weighed(Told):
    """Notes what the driver and the head's processes hold whenever a job has ended."""

    def __init__(self, folder: Path, jobs: Iterable[tuple[str, dict[str, Any]]]) -> None:
        super().__init__(folder, jobs)
        self.held: list[dict[str, int]] = []

    def ended(self, job: str, ended: Ended) -> None:
        super().ended(job, ended)
        self.held.append(held())


def held() -> dict[str, int]:
    """Unshared bytes by process, of this one and of the head's."""
    own = psutil.Process()
    named = {"driver": own} | {p.name(): p for p in own.children(recursive=True) if p.name() in HEAD}
    sizes = {name: process.memory_info() for name, process in named.items()}
    return {name: size.rss - size.shared for name, size in sizes.items()}


def processes_left() -> list[str]:
    """Ray's processes that are at work, by their titles."""
    titles = [" ".join(process.cmdline()[:1]) for process in psutil.Process().children(recursive=True)]
    return [title for title in titles if title.startswith("ray::") and not title.startswith(LASTING)]


@pytest.mark.slow
def test_two_hundred_trivial_jobs_come_to_an_end_and_nothing_lasting_grows(tmp_path: Path) -> None:
    """Every twentieth loses its process and every twenty-fifth is postponed."""
    jobs = [
        (f"{number:04}", {"reports": 3, "die": "once" if number % 20 == 0 else "", "postpone": number % 25 == 7})
        for number in range(MANY)
    ]
    work = Weighed(tmp_path, jobs)
    run_on_tune(work, at_once=4, max_failures=1, process=Obedient)
    assert Counter(seen[-1] for seen in work.seen.values()) == {"finished": MANY}
    early, late = work.held[SETTLED], work.held[-1]
    assert set(late) == {"driver", *HEAD}
    grown = {name: late[name] - early[name] for name in late}
    print(f"MB after {SETTLED} jobs {[(n, size >> 20) for n, size in early.items()]}, grown by {grown} bytes")
    assert all(size < GROWTH_BYTES for size in grown.values()), grown
    until = time.monotonic() + 20
    while processes_left() and time.monotonic() < until:
        time.sleep(0.2)
    assert processes_left() == []
    assert {group["state"] for group in ray.util.placement_group_table().values()} <= {"REMOVED"}
