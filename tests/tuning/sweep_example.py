"""A sweep's folder of known truth: the score is a formula of the settings, noise of a known size, and nothing else."""

import math
from dataclasses import replace

import numpy as np

from dynfusion.run_settings import RunSettings
from dynfusion.settings import build
from dynfusion.training.storage import LocalStorage
from dynfusion.tuning.records import (
    DEFAULT,
    Distribution,
    Final,
    Finals,
    Objective,
    Point,
    SeedRun,
    Sweep,
    Trial,
    write_curve,
    write_finals,
    write_sweep,
    write_trial,
)

TOTAL, REPORTS = 40_000, 8
STRONG, NOTHING, CHILD, PARENT = "loss.alignment", "loss.sparsity", "masking.start", "masking.schedule"
SPACE = {
    STRONG: Distribution("loguniform", 0.001, 1.0),
    "train.learning_rate": Distribution("loguniform", 0.0003, 0.01),
    NOTHING: Distribution("loguniform", 0.0001, 0.1),
    PARENT: Distribution("choice", choices=("linear", "cosine", "constant")),
    CHILD: Distribution("uniform", 0.0, 0.4, when={PARENT: ["linear", "cosine"]}),
}
ONE = (Objective("score"),)
TWO = (Objective("quality"), Objective("reconstruction"))


def truth(settings, *, gain=0.12):
    """Most from STRONG with its optimum at 0.03, some from the learning rate, nothing from the others."""
    strong = (math.log10(settings.get(STRONG, 0.05)) - math.log10(0.03)) / 1.5
    rate = (math.log10(settings.get("train.learning_rate", 1e-3)) - math.log10(2e-3)) / 1.0
    return 0.8 - gain * strong**2 - 0.25 * gain * rate**2


def sampled(draws):
    settings = {
        STRONG: float(10 ** draws.uniform(-3, 0)),
        "train.learning_rate": float(10 ** draws.uniform(math.log10(0.0003), -2)),
        NOTHING: float(10 ** draws.uniform(-4, -1)),
        PARENT: str(draws.choice(["linear", "cosine", "constant"])),
    }
    if settings[PARENT] != "constant":
        settings[CHILD] = float(draws.uniform(0, 0.4))
    return settings


def scores(value, objectives, draws, noise):
    """The second objective falls as the first rises, so that there is a front."""
    first = value + noise * float(draws.normal())
    return {objectives[0].name: first} | {one.name: 1 - first + 0.05 * float(draws.normal()) for one in objectives[1:]}


def write_example(
    folder,
    *,
    samples=48,
    begun=None,
    scheduler="asha",
    objectives=ONE,
    noise=0.01,
    gain=0.12,
    finals=True,
    seeds=3,
    seed=0,
    lead=None,
):
    """A sweep in `folder`; with `begun` below `samples` it is under way, with `lead` the finals' winner is ahead by it.

    The sweep comes back.
    """
    storage, draws = LocalStorage(folder), np.random.default_rng(seed)
    tree = build(RunSettings, {"data": {"uri": "packed/pool"}, "train": {"epochs": 4}}).model_dump(mode="json")
    sweep = Sweep(
        name="joint",
        space=SPACE,
        run=tree,
        overrides=("train.log_every_steps=10",),
        search="random",
        scheduler=scheduler,
        grace=None if scheduler == "fifo" else 0.2,
        reduction=4 if scheduler == "asha" else None,
        samples=samples,
        seed=0,
        objectives=tuple(objectives),
        objective="mean over visible subsets of the skill over ridge on held-out rows",
        top_k=5,
        rerun_seeds=seeds,
        versions={"dynfusion": "0.1.0", "python": "3.11"},
    )
    write_sweep(storage, sweep)
    trials = []
    for number in range(samples if begun is None else begun):
        last = begun is not None and number >= begun - 2
        trials.append(_trial(storage, sweep, number, draws, noise=noise, gain=gain, running=last))
    if finals:
        write_finals(storage, _finals(sweep, trials, draws, noise=noise, gain=gain, lead=lead))
    return sweep


def _trial(storage, sweep, number, draws, *, noise, gain, running):
    settings = sampled(draws)
    value, name, first = truth(settings, gain=gain), f"{number:04d}", sweep.objectives[0].name
    points = []
    for report in range(1, REPORTS + 1):
        seen = TOTAL * report // REPORTS
        found = scores(value - 0.2 * math.exp(-report / 2), sweep.objectives, draws, noise)
        points.append(
            Point(seen // 100, seen, found, {"all_present": found[first]}, 5.0 * report, REPORTS * number + report)
        )
    state = "finished"
    if number % 16 == 7:
        state, points = "failed", points[:1]
    elif running:
        state, points = "running", points[: 3 + number % 2]
    elif sweep.scheduler == "asha" and value < 0.74:
        state, points = "stopped", points[: 2 if value < 0.7 else 4]
    write_curve(storage, name, points)
    trial = Trial(
        id=name,
        state=state,
        reason="loss is not finite at step 61" if state == "failed" else None,
        settings=settings,
        objectives=points[-1].objectives,
        step=points[-1].step,
        samples_seen=points[-1].samples_seen,
        total_samples=TOTAL,
        seconds=points[-1].seconds,
        overhead_seconds=6.5,
        attempts=1,
        run=f"runs/joint-{name}",
    )
    write_trial(storage, trial)
    return trial


def _finals(sweep, trials, draws, *, noise, gain, lead):
    first = sweep.objectives[0].name
    finished = sorted((t for t in trials if t.state == "finished"), key=lambda t: -t.objectives[first])[: sweep.top_k]
    of_seed = {number: noise * float(draws.normal()) for number in range(100, 100 + sweep.rerun_seeds)}
    entries: list[Final] = []
    for place, (label, settings) in enumerate([*((t.id, t.settings) for t in finished), (DEFAULT, {})]):
        value = truth(settings, gain=gain)
        if lead is not None:
            value = 0.8 + lead * (place == 0)
        runs = []
        for number, shift in of_seed.items():
            found = scores(value + shift, sweep.objectives, draws, 0.2 * noise)
            runs.append(SeedRun(number, found, None, f"runs/joint-{label}-{number}"))
        entries.append(Final(label, settings, tuple(runs)))
    best = max(entries[:-1], key=lambda entry: sum(run.objectives[first] for run in entry.seeds), default=None)
    tested = [_tested(entry, first) if entry is best or entry.label == DEFAULT else entry for entry in entries]
    return Finals(tuple(tested), sweep.top_k, True)


def _tested(entry, first):
    def scored(run):
        return replace(run, test={"bace": run.objectives[first] + 0.01, "bbbp": run.objectives[first] - 0.02})

    return replace(entry, seeds=tuple(map(scored, entry.seeds)))
