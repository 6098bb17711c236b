"""The end of a sweep: its best trials and the default with fresh seeds, then the test split, once.

FinalsBook --jobs--> ray_tune --> finals.json --winner--> score_test of winner and default --> finals.json
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dynfusion.edges.ray_tasks import map_on_ray
from dynfusion.edges.ray_trial import discard_checkpoints
from dynfusion.edges.ray_tune import run_on_tune
from dynfusion.edges.ray_validation import read_tasks
from dynfusion.edges.s3_storage import below, load_model, open_storage
from dynfusion.evaluation.validation import score_test
from dynfusion.run_settings import RunSettings
from dynfusion.settings import build
from dynfusion.training.checkpoint import MODEL
from dynfusion.tuning.book import RUNS
from dynfusion.tuning.finals import FinalsBook, best_trials, job_name, without_seed
from dynfusion.tuning.messages import Ended, Job, Report
from dynfusion.tuning.records import DEFAULT, Sweep, Trial
from dynfusion.tuning.report.contents import read_contents
from dynfusion.tuning.report.seeds import winner
from dynfusion.tuning.space import tree

Say = Callable[[str], None]


def finals_on_ray(
    sweep: Sweep, trials: Sequence[Trial], base: RunSettings, address: str, at_once: int, say: Say, *, debug: bool
) -> None:
    """Run what is missing of the runs with fresh seeds, then score winner and default on test rows where there are any.

    `base` is the run of the trials. Nothing to do where no trial finished. Raises RuntimeError when a run could not be
    made for a reason that may pass.
    """
    storage = open_storage(address)
    chosen = best_trials(trials, sweep, sweep.top_k)
    if not chosen:
        say("no trial has finished: nothing is run again with fresh seeds")
        return
    used = {base.train.seed, sweep.seed, *(t.settings["train.seed"] for t in trials if "train.seed" in t.settings)}
    book = FinalsBook(storage, sweep, chosen, used)
    if book.left:
        say(f"the best {len(chosen)} and the default again, with seeds {', '.join(map(str, book.seeds))}")
        retries = base.cluster.max_failures
        run_on_tune(_Finals(book, base, address, say), at_once=at_once, max_failures=retries, debug=debug)
    require_ended(book.hindered, address)
    _score_test_once(book, base, address, say)
    book.complete()


class _Finals:
    """The runs with fresh seeds as Ray Tune's work."""

    def __init__(self, book: FinalsBook, base: RunSettings, address: str, say: Say) -> None:
        self.book, self.base, self.address, self.say = book, base, address, say
        self.with_process: set[str] = set()

    def next(self) -> Job | None:
        found = self.book.next()
        if found is None:
            return None
        label, seed = found
        name = job_name(label, seed)
        self.with_process.discard(name)
        changed = {**without_seed(self.book.settings[label]), "train.seed": seed, "cluster.name": name}
        return Job(name, tree(self.base, changed).model_dump(mode="json"), self.address)

    def is_left(self) -> bool:
        return bool(self.book.left)

    def begun(self, job: str) -> None:
        self.with_process.add(job)

    def interrupted(self, job: str) -> None:
        self.with_process.discard(job)

    def reported(self, job: str, report: Report) -> bool:
        self.book.reported(job, report)
        return False

    def ended(self, job: str, ended: Ended) -> None:
        if ended.state == "postponed":
            self._postponed(job, str(ended.reason))
        elif ended.state == "failed":
            self._failed(job, str(ended.reason))
        else:
            scores = "  ".join(f"{name} {value:.4f}" for name, value in self.book.finished(job).objectives.items())
            self.say(f"run {job}  {scores}  ({len(self.book.left)} to begin)")

    def lost(self, job: str, why: str) -> None:
        if job in self.with_process:
            self._failed(job, f"its process was lost: {why}")
        else:
            self._postponed(job, f"its process could not begin: {why}")

    def _failed(self, job: str, reason: str) -> None:
        self.book.failed(job, reason)
        discard_checkpoints(open_storage(below(below(self.address, RUNS), job)))
        self.say(f"run {job}  FAILED: {reason}")

    def _postponed(self, job: str, reason: str) -> None:
        self.book.postponed(job, reason)
        self.say(f"run {job}  postponed: {reason}")


def require_ended(hindered: Mapping[str, str], address: str) -> None:
    """Raises RuntimeError when jobs, by name with the reason, did not come to their end and may do so later."""
    if hindered:
        name, reason = next(iter(hindered.items()))
        others = f", and {len(hindered) - 1} others" if len(hindered) > 1 else ""
        raise RuntimeError(
            f"sweep {address}: {name} could not be run to its end: {reason}{others}; the same command continues"
        )


def _score_test_once(book: FinalsBook, base: RunSettings, address: str, say: Say) -> None:
    """Test scores of the winner's and the default's runs that have none; each run is scored once, ever."""
    tasks = {name: task for name, task in read_tasks(base).items() if len(task.rows("test"))}
    best, _ = winner(read_contents(book.storage))
    if not tasks or best is None:
        return
    pairs = [(label, run) for label in (best, DEFAULT) for run in book.entries[label].seeds if run.test is None]
    if pairs:
        say(f"scoring trial {best} and the default on the test rows of {', '.join(tasks)}, once")

    def scored(number: int, found: dict[str, float]) -> None:
        label, run = pairs[number]
        book.put(label, replace(run, test=found))

    settings = base.model_dump(mode="json")
    jobs = [(settings, below(below(address, run.run), MODEL), tuple(tasks)) for _, run in pairs]
    map_on_ray(_score, jobs, finished=scored)


def _score(settings: dict[str, Any], model: str, names: tuple[str, ...]) -> dict[str, float]:
    tasks = read_tasks(build(RunSettings, settings))
    return score_test(load_model(model), {name: tasks[name] for name in names})
