"""A sweep on Ray, from its space to the runs with fresh seeds; the same call continues one that was killed.

    check_sweep --> folder, lease, sweep.json --> reference.json --> trials --> finals.json --> test scores
                                                                     (ray_tune)  (ray_finals)

Truth is what `tuning.records` says of the folder, and nothing else is read there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from dynfusion.edges import optuna_search
from dynfusion.edges.absolute_paths import with_absolute_paths
from dynfusion.edges.datasets import open_dataset, open_sources
from dynfusion.edges.ray_cluster import require_state_api, room_for, wait_for
from dynfusion.edges.ray_finals import finals_on_ray, require_ended
from dynfusion.edges.ray_tasks import result
from dynfusion.edges.ray_train import check_plan, check_run, require_writable, worker_resources
from dynfusion.edges.ray_trial import discard_checkpoints
from dynfusion.edges.ray_tune import run_on_tune
from dynfusion.edges.ray_validation import make_checks, read_tasks
from dynfusion.edges.references import keep_reference, open_reference
from dynfusion.edges.s3_storage import below, open_storage
from dynfusion.edges.tune_schedulers import decisive, make_judge
from dynfusion.evaluation.held_out import rows_looked_at
from dynfusion.evaluation.reference import fit_reference
from dynfusion.evaluation.versions import versions
from dynfusion.run_settings import RunSettings
from dynfusion.training.lease import STORE_SECONDS, driving
from dynfusion.training.sources import Sources
from dynfusion.training.storage import Storage, exists
from dynfusion.tuning.book import OPEN, RUNS, Book, Rules
from dynfusion.tuning.grace import check_grace
from dynfusion.tuning.identity import continued
from dynfusion.tuning.lines import begun_line, end_line, report_line
from dynfusion.tuning.messages import Ended, Job, Report
from dynfusion.tuning.objective import check_objectives, describe, objectives_of
from dynfusion.tuning.records import SWEEP, Objective, Sweep, Trial, read_sweep, write_sweep
from dynfusion.tuning.samples import random_sample
from dynfusion.tuning.search import Search
from dynfusion.tuning.space import CHECKED_SAMPLES, CHECKED_WHOLE, check_space, sample, tree

REFERENCE = "reference.json"
Say = Callable[[str], None]
Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class SweepWatch:
    """Where a sweep is shown."""

    say: Say
    advance: Advance = lambda done, total: None
    debug: bool = False


def sweep_on_ray(search: Search, sources: Sources, watch: SweepWatch) -> str:
    """Search to the end and return the sweep's folder; needs a connected Ray, and the data from `check_sweep`.

    Raises ValueError for a cluster without State API or room, and for a folder of another sweep; RuntimeError
    when the sweep's own part failed.
    """
    run = with_absolute_paths(search.run)
    require_state_api()
    need = worker_resources(run)
    wait_for([need] * run.cluster.workers[0], deadline_seconds=run.cluster.start_deadline_seconds)
    require_writable(run.cluster.storage)
    address = below(run.cluster.storage, search.settings.name)
    storage = open_storage(address)
    with driving(open_storage(address, deadline_seconds=STORE_SECONDS), watch.say):
        book = _open_book(search, sources, storage)
        run = _with_reference(run, sources, address, watch.say)
        at_once = search.settings.at_once or max(1, room_for(need) // run.cluster.workers[1])
        watch.say(_opening(book, at_once))
        base = run.model_copy(update={"cluster": run.cluster.model_copy(update={"storage": below(address, RUNS)})})
        work = _Trials(book, base, address, watch, _held(book.sweep, search, sources))
        retries = run.cluster.max_failures
        work.discard_checkpoints()
        run_on_tune(work, at_once=at_once, max_failures=retries, debug=watch.debug)
        work.discard_checkpoints()  # those that a process did not come to before Ray Tune ended it
        require_ended({t.id: str(t.reason) for t in book.trials.values() if t.state in OPEN}, address)
        if search.settings.top_k:
            finals_on_ray(book.sweep, tuple(book.trials.values()), base, address, at_once, watch.say, debug=watch.debug)
    return address


def check_sweep(search: Search) -> Sources:
    """Everything that can be refused without a cluster. The data, opened.

    Raises ValueError naming the setting, what was found and what is allowed.
    """
    run, settings = with_absolute_paths(search.run), search.settings
    check_space(search.space, run, seed=settings.seed)
    check_grace(settings, search.space, run)
    sources = open_sources(run.data)
    check_objectives(settings.objectives, run.validation, sources.datasets[0].manifest)
    check_run(run, sources)
    _check_samples(search, run, sources)
    return sources


def _check_samples(search: Search, run: RunSettings, sources: Sources) -> None:
    """Raises ValueError for a sample of the space that can be no run on this data, such as a batch of too many rows.

    Where samples decide what a run reads at its start, or DeepSpeed's part, all that a run checks is checked of them.
    """
    draws = np.random.default_rng(search.settings.seed)
    whole = run.train.init is not None or any(name.startswith(("train.init", "engine.")) for name in search.space)
    for _ in range(CHECKED_WHOLE if whole else CHECKED_SAMPLES):
        settings = sample(search.space, draws)
        one = tree(run, settings)
        try:
            check_run(one, sources) if whole else check_plan(one, sources)
        except ValueError as error:
            given = ", ".join(f"{name} = {value}" for name, value in settings.items())
            raise ValueError(f"space: no run with {given}: {error}") from error


def _open_book(search: Search, sources: Sources, storage: Storage) -> Book:
    """The sweep's records, begun or taken up."""
    sweep = _sweep(search, sources)
    total = _total_samples(search.run, sources)
    if exists(storage, SWEEP):
        before = read_sweep(storage)
        begun = len([name for name in storage.sizes("trials") if name.endswith(".json") and not name.startswith(".")])
        sweep = continued(before, sweep, begun=begun, address=storage.address)
    write_sweep(storage, sweep)

    def draw(number: int, trials: Any) -> Mapping[str, Any]:
        if sweep.search == "random":
            return random_sample(search.space, sweep.seed, number)
        return optuna_search.draw(search.space, sweep.objectives, sweep.seed, number, trials)

    return Book(storage, sweep, Rules(draw, make_judge(sweep, total({})), total))


def objective(search: Search, sources: Sources) -> str:
    """What the trials are judged by, in one line."""
    validation = search.run.validation
    rows = len(rows_looked_at(sources.datasets[0].manifest, validation.rows))
    return describe(search.settings.objectives, tuple(validation.tasks), rows=rows)


def _sweep(search: Search, sources: Sources) -> Sweep:
    settings, run = search.settings, search.run
    judged = settings.scheduler != "fifo"
    return Sweep(
        name=settings.name,
        space=dict(search.space),
        run=run.model_dump(mode="json"),
        overrides=search.overrides,
        search=settings.search,
        scheduler=settings.scheduler,
        grace=settings.grace if judged else None,
        reduction=settings.reduction if settings.scheduler == "asha" else None,
        samples=settings.samples,
        seed=settings.seed,
        objectives=tuple(Objective(name) for name in settings.objectives),
        objective=objective(search, sources),
        top_k=settings.top_k,
        rerun_seeds=settings.rerun_seeds,
        versions=versions(),
        data=sources.fingerprint,
        tasks={name: task.fingerprint() for name, task in read_tasks(run).items()},
    )


def _total_samples(run: RunSettings, sources: Sources) -> Callable[[Mapping[str, Any]], int]:
    """Molecules that a trial with some settings sees to its end."""

    def total(settings: Mapping[str, Any]) -> int:
        one = tree(run, settings)
        return check_plan(one, sources).total_steps * one.train.global_batch_rows

    return total


def _with_reference(run: RunSettings, sources: Sources, address: str, say: Say) -> RunSettings:
    """The run whose checks are held against ridge regression, fitted once for all trials by a task of the cluster."""
    manifest = sources.datasets[0].manifest
    if run.validation.reference is not None or len(manifest.modalities) < 2 or not manifest.holdout_rows:
        return run
    place = below(address, REFERENCE)
    run = run.model_copy(update={"validation": run.validation.model_copy(update={"reference": place})})
    if not exists(open_storage(address), REFERENCE):
        say("fitting ridge regression, which reconstructions are held against, once for all trials")
        result(ray.remote(num_cpus=1)(_make_reference).remote(run.model_dump(mode="json"), place))
    open_reference(run.validation, manifest)
    return run


def _make_reference(settings: dict[str, Any], place: str) -> None:
    run = RunSettings.model_validate(settings)
    dataset = open_dataset(run.data.uris[0], cache=run.data)
    keep_reference(place, fit_reference(dataset, run.evaluation.imputers, run.validation.rows))


def _held(sweep: Sweep, search: Search, sources: Sources) -> Callable[[RunSettings], tuple[int, ...]]:
    """Steps of the checks at which a trial's run waits for the scheduler's verdict."""
    longest = _total_samples(search.run, sources)({})

    def held(run: RunSettings) -> tuple[int, ...]:
        batch, plan = run.train.global_batch_rows, check_plan(run, sources)
        checks = make_checks(run, sources.datasets[0].manifest, plan).steps()
        return tuple(seen // batch for seen in decisive(sweep, longest, [step * batch for step in checks]))

    return held


class _Trials:
    """The trials of a book as Ray Tune's work, each shown as it goes."""

    def __init__(
        self,
        book: Book,
        base: RunSettings,
        address: str,
        watch: SweepWatch,
        held: Callable[[RunSettings], tuple[int, ...]],
    ) -> None:
        self.book, self.base, self.address, self.watch, self.held = book, base, address, watch, held
        self._show_progress()

    def discard_checkpoints(self) -> None:
        """Of trials that are over, should a killed command have left some."""
        for trial in self.book.trials.values():
            if trial.state not in OPEN:
                discard_checkpoints(self._run_of(trial))

    def _run_of(self, trial: Trial) -> Storage:
        return open_storage(below(self.address, trial.run))

    def next(self) -> Job | None:
        trial = self.book.next()
        if trial is None:
            return None
        settings = tree(self.base, {**trial.settings, "cluster.name": trial.id})
        return Job(trial.id, settings.model_dump(mode="json"), self.address, self.held(settings))

    def is_left(self) -> bool:
        return bool(self.book.left)

    def begun(self, job: str) -> None:
        self.watch.say(begun_line(self.book.begun(job)))

    def interrupted(self, job: str) -> None:
        self.book.interrupted(job)

    def reported(self, job: str, report: Report) -> bool:
        known = self.book.trials[job].samples_seen
        try:
            objectives_of(report.metrics, self.book.names)
        except ValueError as error:
            self.ended(job, Ended("failed", str(error), report.seconds))
            return True
        trial = self.book.reported(job, report)
        if report.samples_seen > known:
            self.watch.say(report_line(trial, self._best()))
        if trial.state not in OPEN:
            self._show_end(trial)
        return trial.state not in OPEN

    def ended(self, job: str, ended: Ended) -> None:
        self._show_end(self.book.ended(job, ended))

    def lost(self, job: str, why: str) -> None:
        trial = self.book.lost(job, why)
        if trial.state not in OPEN:  # nobody else is there to do it
            discard_checkpoints(self._run_of(trial))
        self._show_end(trial)

    def _best(self) -> tuple[float, str] | None:
        first = self.book.sweep.objectives[0].name
        done = [
            (t.objectives[first], t.id) for t in self.book.trials.values() if t.state == "finished" and t.objectives
        ]
        return max(done, default=None)

    def _show_end(self, trial: Trial) -> None:
        if trial.state in OPEN:
            self.watch.say(f"trial {trial.id}  postponed: {trial.reason}")
            return
        done = self._show_progress()
        self.watch.say(end_line(trial, done, self.book.sweep.samples))

    def _show_progress(self) -> int:
        done = sum(trial.state not in OPEN for trial in self.book.trials.values())
        self.watch.advance(done, self.book.sweep.samples)
        return done


def _opening(book: Book, at_once: int) -> str:
    sweep = book.sweep
    done = sum(trial.state not in OPEN for trial in book.trials.values())
    before = f", {done} done and {len(book.left)} to go on with" if book.trials else ""
    how = f"{sweep.search} search, {sweep.scheduler}, {at_once} at once"
    return f"sweep {book.storage.address}: {sweep.samples} trials{before}; {how}"
