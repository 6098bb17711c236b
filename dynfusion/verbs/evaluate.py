"""`dynfusion evaluate`: what a trained fusion model is worth on labelled tasks when modalities are missing."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynfusion.edges.datasets import open_dataset
from dynfusion.edges.ray_cluster import cluster
from dynfusion.edges.ray_evaluation import evaluate_on_ray, fit_imputers_on_ray
from dynfusion.edges.s3_address import is_s3
from dynfusion.edges.s3_storage import load_model, open_storage
from dynfusion.evaluation.insight.reconstruction import reconstruction_records
from dynfusion.evaluation.protocol.plan import EvaluationInputs, EvaluationSettings, GroupResult, plan, require_classes
from dynfusion.evaluation.report.assembly import Provenance, build_report
from dynfusion.evaluation.report.page import read_report, terminal_table, write_report
from dynfusion.evaluation.report.versions import versions
from dynfusion.evaluation.report.wording import summary
from dynfusion.evaluation.representations.features import encode_task, matched, standardised
from dynfusion.evaluation.representations.imputers import Imputers, Pool
from dynfusion.evaluation.representations.pool import read_pool
from dynfusion.evaluation.tasks.task import TaskData, read_task
from dynfusion.fusion.api import FusionModel
from dynfusion.settings import Settings, build, parse_overrides
from dynfusion.training.checkpoint import MODEL
from dynfusion.verbs.display import console, progress
from dynfusion.verbs.labelled_csv import pack_csv


class _Overrides(Settings):
    """The part of a run's tree that an evaluation reads, so that its settings have the same names everywhere."""

    evaluation: EvaluationSettings = EvaluationSettings()


def read_settings(overrides: Iterable[str]) -> EvaluationSettings:
    """The settings of an evaluation from a command line's `evaluation.name=value`. Raises ValueError for others."""
    return build(_Overrides, parse_overrides(overrides)).evaluation


def evaluate(
    model: str | Path,
    *,
    tasks: str,
    out: str | Path,
    labels: Sequence[str] = (),
    overrides: Iterable[str] = (),
    debug: bool = False,
) -> Path:
    """`evaluate_model` from a command line.

    `tasks` is NAME=URI_OR_CSV[,...], `labels` are the CSV files' label columns, overrides `evaluation.` settings.

    Raises ValueError for tasks that are not NAME=URI_OR_CSV, wrong settings, and as `evaluate_model` does.
    """
    settings = read_settings(overrides)
    named = parse_tasks(tasks)
    encoders = load_model(str(model)).modalities
    packed = {
        name: pack_csv(name, Path(uri), encoders=encoders, out=Path(out), labels=labels)
        if uri.lower().endswith(".csv")
        else uri
        for name, uri in named.items()
    }
    with cluster(debug=debug):
        return evaluate_model(model, tasks=packed, out=out, settings=settings)


def parse_tasks(text: str) -> dict[str, str]:
    """`"a=packed/a,b=b.csv"` as a mapping. Raises ValueError for anything else, and for a name given twice."""
    tasks: dict[str, str] = {}
    for part in text.split(","):
        name, equals, uri = part.strip().partition("=")
        if not (name and equals and uri):
            raise ValueError(
                f"tasks: found {part.strip()!r}, expected NAME=URI_OR_CSV, such as freesolv=packed/freesolv"
            )
        if name in tasks:
            raise ValueError(f"tasks: {name} is given twice, each name stands for one data set")
        tasks[name] = uri
    return tasks


def evaluate_model(
    model_folder: str | Path,
    *,
    tasks: Mapping[str, str | Path],
    out: str | Path,
    settings: EvaluationSettings,
) -> Path:
    """Evaluates the model of a folder, local or S3, on packed, labelled datasets by name; returns the report's page.

    Rivals are fitted on the dataset that the model was trained on: `settings.pool`, else where training.json says.
    Needs a running Ray. Called again after being killed, it continues.

    Raises ValueError when model, pool and tasks do not belong together or a task has no classes.
    """
    out, name = Path(out), _name(str(model_folder))
    if not tasks:
        raise ValueError("tasks: found none, give at least one NAME=URI")
    with open_storage(str(model_folder)).local("") as folder:
        model, training = FusionModel.load(folder), _read_training(folder)
    raw = [matched(require_classes(read_task(task, open_dataset(uri))), model) for task, uri in tasks.items()]
    with progress("fit ridge imputers") as advance:
        pool = _pool(model, training, settings)
        imputers = fit_imputers_on_ray(pool, settings=settings.imputers, progress=advance)
    with progress("embed tasks") as advance:
        inputs = _inputs(model, name, raw, imputers, settings)
    with progress("fit and score probes") as advance:
        results = evaluate_on_ray(plan(inputs, models=[name]), inputs, out, progress=advance)
    return _write(model, raw, results, inputs, Provenance((name,), training, versions()), out)


def _write(
    model: FusionModel,
    raw: list[TaskData],
    results: list[GroupResult],
    inputs: EvaluationInputs,
    provenance: Provenance,
    out: Path,
) -> Path:
    how = inputs.settings.statistics
    with progress("score reconstruction and write the report"):
        records = [
            record for task in raw for record in reconstruction_records(model, task, inputs.imputers, settings=how)
        ]
        write_report(out, build_report(results, records, inputs, provenance=provenance))
    written = read_report(out)
    console.print(terminal_table(written))
    for sentence in summary(written):
        console.print(sentence[0].upper() + sentence[1:])
    return out / "report.html"


def _name(folder: str) -> str:
    """A run's name for the `model/` folder that the run left, else the folder's own."""
    parts = folder.split("?")[0].split("/") if is_s3(folder) else Path(folder).resolve().parts
    parts = [part for part in parts if part]
    return parts[-2] if parts[-1] == MODEL and len(parts) > 1 else parts[-1]


def _read_training(folder: Path) -> dict[str, Any]:
    path = folder / "training.json"
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as JSON, {error}") from None


def _pool(model: FusionModel, training: Mapping[str, Any], settings: EvaluationSettings) -> Pool:
    data = training.get("data", {})
    uri = settings.pool or data.get("uri")
    if isinstance(uri, list):
        raise ValueError(
            f"setting evaluation.pool: the model was trained on {len(uri)} data sets, name the one that imputers are "
            "fitted on"
        )
    if uri is None:
        raise ValueError(
            "setting evaluation.pool: no value, and the model folder has no training.json naming its data; give a URI"
        )
    dataset = open_dataset(uri)
    found, expected = dataset.manifest.fingerprint, data.get("fingerprint")
    if expected is not None and expected != found:
        raise ValueError(f"pool {uri}: its fingerprint is {found}, the model was trained on {expected}")
    for spec in dataset.manifest.modalities:
        if spec.name in model.dims and not np.allclose(spec.mean, model.statistics()[spec.name][0], atol=1e-5):
            raise ValueError(f"pool {uri}: its {spec.name} has other means than the data that the model was trained on")
    max_rows = settings.imputers.pool_rows
    return read_pool(dataset, modalities=model.modalities, statistics=model.statistics(), max_rows=max_rows)


def _inputs(
    model: FusionModel, name: str, raw: list[TaskData], imputers: Imputers, settings: EvaluationSettings
) -> EvaluationInputs:
    statistics = model.statistics()
    return EvaluationInputs(
        tasks={task.name: standardised(task, statistics) for task in raw},
        imputers=imputers,
        encoded={(task.name, name): encode_task(model, task) for task in raw},
        settings=settings,
    )
