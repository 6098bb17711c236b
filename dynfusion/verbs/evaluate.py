"""`dynfusion evaluate`: what trained fusion models are worth on labelled tasks when modalities are missing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from dynfusion.edges.ray_cluster import cluster
from dynfusion.edges.ray_evaluation import evaluate_on_ray
from dynfusion.edges.ray_insight import Insight, fit_rivals_on_ray, insight_on_ray
from dynfusion.evaluation.insight.reconstruction import Rivals
from dynfusion.evaluation.protocol.groups import GroupResult, in_plan_order
from dynfusion.evaluation.protocol.jobs import TaskInputs, task_inputs
from dynfusion.evaluation.protocol.outcome import TaskOutcome
from dynfusion.evaluation.protocol.plan import Part, parts
from dynfusion.evaluation.report.assembly import ModelRecord, Provenance, build_report
from dynfusion.evaluation.report.cells_table import cells_table
from dynfusion.evaluation.report.page import read_report, terminal_table, write_report
from dynfusion.evaluation.report.wording import summary
from dynfusion.evaluation.representations.features import FINGERPRINT, FUSED, PROJECTION_MEAN, Contestant
from dynfusion.evaluation.representations.fused import embed_task, matched, mean_projection
from dynfusion.evaluation.representations.pool import read_pool
from dynfusion.evaluation.representations.table import rivals
from dynfusion.evaluation.representations.units import standardised
from dynfusion.evaluation.scores.resampling import one_class_share
from dynfusion.evaluation.settings import EvaluationSettings
from dynfusion.evaluation.tasks.leaks import leaks
from dynfusion.evaluation.tasks.task import SPLITS, TaskData
from dynfusion.evaluation.versions import versions
from dynfusion.training.sources import Sources
from dynfusion.verbs.display import console, progress
from dynfusion.verbs.evaluated_models import (
    EvaluatedModel,
    PoolMolecules,
    open_models,
    open_pool,
    parse_models,
    pool_molecules,
)
from dynfusion.verbs.evaluated_tasks import check_task, describe, read_structured, shares_known
from dynfusion.verbs.evaluation_settings import read_settings
from dynfusion.verbs.labelled_table import TableColumns, is_table, pack_table, parse_tasks
from dynfusion.verbs.plan_evaluate import expectation

EMBEDDING_BYTES = 2 * 2**30
"""Of one task's molecules, in every combination of visible modalities, that are held at once."""


@dataclass(frozen=True)
class Common:
    """What all tasks of an evaluation share."""

    models: list[EvaluatedModel]
    rivals: list[Contestant]
    fillers: Rivals
    pool: PoolMolecules
    settings: EvaluationSettings
    out: Path
    workers: int | None


def evaluate(
    models: Sequence[str],
    *,
    tasks: str,
    out: str | Path,
    ablations: Sequence[str] = (),
    columns: TableColumns | None = None,
    workers: int | None = None,
    overrides: Iterable[str] = (),
    debug: bool = False,
) -> Path:
    """`evaluate_models` from a command line.

    Models and ablations are [NAME=]FOLDER[,FOLDER...], folders of one name runs with other seeds; `tasks` is as
    `parse_tasks` takes it, `columns` those of its tables, `workers` how many of Ray's CPUs are used (all by default),
    overrides `evaluation.` settings.

    Raises ValueError for what cannot be read as that, wrong settings, and as `evaluate_models` does.
    """
    settings = read_settings(overrides)
    folders, removed, named = parse_models(models), parse_models(ablations), parse_tasks(tasks)
    opened = open_models(folders, removed)
    found = expectation(opened, named, columns or TableColumns(), settings, workers)
    console.print(f"evaluate: {found.sentence()}")
    encoders = opened[0].model.modalities
    packed = {
        name: pack_table(name, Path(uri), encoders=encoders, out=Path(out), columns=columns or TableColumns())
        if is_table(uri)
        else uri
        for name, uri in named.items()
    }
    with cluster(debug=debug):
        return evaluate_models(opened, tasks=packed, out=out, settings=settings, workers=workers)


def evaluate_models(
    models: list[EvaluatedModel],
    *,
    tasks: Mapping[str, str | Path],
    out: str | Path,
    settings: EvaluationSettings,
    workers: int | None = None,
) -> Path:
    """Evaluates fusion models on packed, labelled datasets by name; returns the report's page.

    Rivals are fitted on the dataset that the first model was trained on: `settings.pool`, else where its training.json
    says. Needs a running Ray. Called again after being killed, it continues.

    Raises ValueError when models, pool and tasks do not belong together, or a task cannot be split as asked for.
    """
    if not tasks:
        raise ValueError("tasks: found none, give at least one NAME=URI")
    for name, uri in tasks.items():
        check_task(name, uri, models[0].model.dims, settings)
    common = prepare(models, open_pool(models[0], settings.pool), settings, Path(out), workers)
    outcomes = [evaluate_task(name, uri, common) for name, uri in tasks.items()]
    with progress("write the report"):
        records = tuple(
            ModelRecord(
                one.name, one.model.dim, one.ablation, one.training, sum(one.name == each.name for each in models)
            )
            for one in models
            if one.seed == 0
        )
        provenance = Provenance(records, versions(), common.pool.known)
        write_report(common.out, build_report(outcomes, common.fillers, settings, provenance=provenance))
        pq.write_table(cells_table(outcomes, settings.statistics), common.out / "cells.parquet")
    written = read_report(common.out)
    console.print(terminal_table(written))
    for sentence in summary(written):
        console.print(sentence[0].upper() + sentence[1:])
    return common.out / "report.html"


def prepare(
    models: list[EvaluatedModel], sources: Sources, settings: EvaluationSettings, out: Path, workers: int | None
) -> Common:
    """What is fitted on the pool, once for all tasks. Needs a running Ray."""
    first = models[0].model
    with progress("read the pool"):
        statistics, most = first.statistics(), settings.imputers.pool_rows
        pool = read_pool(sources.datasets, modalities=first.modalities, statistics=statistics, max_rows=most)
        molecules = pool_molecules(sources.datasets)
    with progress("fit imputers") as advance:
        fillers = fit_rivals_on_ray(pool, settings=settings.imputers, workers=workers, progress=advance)
    lines = rivals(fillers.ridge, pool, dim=first.dim, structures=True)
    return Common(models, lines, fillers, molecules, settings, out, workers)


def evaluate_task(name: str, uri: str | Path, common: Common) -> TaskOutcome:
    """One task from its address to its numbers; arrays of its molecules are dropped at the end."""
    settings = common.settings
    task = matched(read_structured(name, uri), common.models[0].model)
    inputs = task_inputs(standardised(task, common.models[0].model.statistics()), settings)
    results: list[GroupResult] = []
    portions = _portions(task, common)
    for number, models in enumerate(portions):
        which = f" ({number + 1} of {len(portions)})" if len(portions) > 1 else ""
        with progress(f"{name}: embed {len(task.ids):,} molecules{which}"):
            plan = _plan(task, common, models, rivals=number == 0)
        with progress(f"{name}: fit and score probes{which}") as advance:
            results += evaluate_on_ray(
                plan, inputs, common.out, settings=settings, workers=common.workers, progress=advance
            )
    with progress(f"{name}: reconstruction, alignment, collapse"):
        insight = insight_on_ray(
            common.models[0].model, task, common.fillers, settings=settings, workers=common.workers
        )
    return _outcome(task, inputs, in_plan_order(results), insight, common)


def _portions(task: TaskData, common: Common) -> list[list[EvaluatedModel]]:
    """The models, so many at a time that the embeddings of the task's molecules fit into `EMBEDDING_BYTES`."""
    tables = 2 * 2 ** len(task.modalities)
    portions: list[list[EvaluatedModel]] = [[]]
    held = 0
    for one in common.models:
        size = tables * len(task.ids) * one.model.dim * np.dtype(np.float32).itemsize
        if portions[-1] and held + size > EMBEDDING_BYTES:
            portions.append([])
            held = 0
        portions[-1].append(one)
        held += size
    return portions


def _plan(task: TaskData, common: Common, models: list[EvaluatedModel], *, rivals: bool) -> list[Part]:
    """All that is fitted for some of the models, and for what needs none."""
    quick = common.settings.extent == "quick"
    several = len({one.name for one in common.models if not one.ablation}) > 1
    fused, ablated = [], []
    for one in models:
        suffix = f" ({one.name})" if several or one.ablation else ""
        tables = embed_task(FUSED + suffix, one.model.encode, task, corrupted=not (quick or one.ablation))
        line = Contestant(tables.name, (tables,), one.name, one.seed)
        if one.ablation:
            ablated.append(line)
            continue
        mean = embed_task(PROJECTION_MEAN + suffix, mean_projection(one.model), task, corrupted=not quick)
        fused += [Contestant(mean.name, (mean,), one.name, one.seed), line]
    lines = [line for line in common.rivals if rivals and (line.name != FINGERPRINT or task.structure is not None)]
    sizes = bool((task.smiles != "").any())
    return parts(task.modalities, lines, fused, ablated, settings=common.settings, sizes=sizes)


def _outcome(
    task: TaskData, inputs: TaskInputs, results: list[GroupResult], insight: Insight, common: Common
) -> TaskOutcome:
    test = task.rows("test")
    binary = task.kind == "binary"
    cuts = [inputs.given, *(fold for fold in inputs.folds if fold is not inputs.given)]
    found = [asdict(leaks(task, fold, pool_keys=common.pool.keys)) for fold in cuts] if task.structure else []
    return TaskOutcome(
        name=task.name,
        kind=task.kind,
        label_names=task.label_names,
        class_names=task.class_names,
        given_split=task.split_name,
        folds=len(inputs.folds),
        repeats=len({fold.repeat for fold in inputs.folds}),
        molecules={part: len(task.rows(part)) for part in SPLITS},
        in_no_part=int((~np.isin(task.split, SPLITS)).sum()),
        present=describe(task),
        nothing_present_test=int((~task.present[test].any(axis=1)).sum()),
        base_rate=float(np.nanmean(task.labels)) if binary else None,
        leaks=tuple(found),
        results=tuple(results),
        reconstruction=insight.reconstruction,
        alignment=insight.alignment,
        collapse=insight.collapse,
        labels_known={part: shares_known(task, part) for part in SPLITS},
        undefined_draws=one_class_share(task.labels[test], inputs.counts[test]) if binary else 0.0,
        test_labels=task.labels[test],
    )
