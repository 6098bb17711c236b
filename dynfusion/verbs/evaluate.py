"""`dynfusion evaluate`: what a trained fusion model is worth on labelled tasks when modalities are missing."""

import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dynfusion.edges.ray_evaluation import Progress, evaluate_on_ray, fit_imputers_on_ray, ray_for_evaluation
from dynfusion.evaluation.assembly import Provenance, build_report
from dynfusion.evaluation.imputers import Imputers
from dynfusion.evaluation.pool import read_pool
from dynfusion.evaluation.protocol import EvaluationInputs, EvaluationSettings, plan, require_classes
from dynfusion.evaluation.reconstruction import reconstruction_records
from dynfusion.evaluation.report import write_report
from dynfusion.evaluation.representations import encode_task, matched, standardised
from dynfusion.evaluation.tasks import TaskData, read_task
from dynfusion.fusion.api import FusionModel
from dynfusion.store.dataset import open_dataset

PACKAGES = ("dynfusion", "numpy", "scipy", "scikit-learn", "torch", "ray")


def evaluate(
    model_folder: str | Path,
    tasks: Mapping[str, str | Path],
    *,
    out: str | Path,
    settings: EvaluationSettings,
    pool_uri: str | Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Evaluates the model of a folder on packed, labelled datasets by name; the folder with the report.

    `pool_uri` is the dataset that the model was trained on, by default where training.json says. Cells run on the Ray
    that is running, else on a local one of `workers` CPUs. Called again after being killed, it continues.

    Raises ValueError when model, pool and tasks do not belong together or a task has no classes.
    """
    folder, out = Path(model_folder), Path(out)
    if not tasks:
        raise ValueError("tasks: found none, give at least one NAME=URI")
    model, training = FusionModel.load(folder), _read_training(folder)
    raw = {name: matched(require_classes(read_task(name, open_dataset(uri))), model) for name, uri in tasks.items()}
    with ray_for_evaluation(workers=workers):
        imputers = _imputers(model, training, pool_uri, settings, progress)
        inputs = _inputs(model, folder.resolve().name, raw, imputers, settings)
        groups = plan(inputs, models=[folder.resolve().name])
        results = evaluate_on_ray(groups, inputs, out, progress=progress)
    rebuilt = [
        record
        for task in raw.values()
        for record in reconstruction_records(model, task, imputers, settings=settings.statistics)
    ]
    provenance = Provenance((folder.resolve().name,), training, versions())
    write_report(out, build_report(results, rebuilt, inputs, provenance=provenance))
    return out


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _read_training(folder: Path) -> dict[str, Any]:
    path = folder / "training.json"
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as JSON, {error}") from None


def _imputers(
    model: FusionModel,
    training: Mapping[str, Any],
    pool_uri: str | Path | None,
    settings: EvaluationSettings,
    progress: Progress | None,
) -> Imputers:
    data = training.get("data", {})
    uri = pool_uri if pool_uri is not None else data.get("uri")
    if uri is None:
        raise ValueError("pool: the model folder has no training.json that names its training data, give it by hand")
    dataset = open_dataset(uri)
    if data.get("fingerprint") not in (None, dataset.manifest.fingerprint):
        raise ValueError(
            f"pool {uri}: its fingerprint is {dataset.manifest.fingerprint}, the model was trained on {data['fingerprint']}"
        )
    pool = read_pool(
        dataset, modalities=model.modalities, statistics=model.statistics(), max_rows=settings.imputers.pool_rows
    )
    return fit_imputers_on_ray(pool, settings=settings.imputers, progress=progress)


def _inputs(
    model: FusionModel, name: str, raw: Mapping[str, TaskData], imputers: Imputers, settings: EvaluationSettings
) -> EvaluationInputs:
    statistics = model.statistics()
    return EvaluationInputs(
        tasks={task.name: standardised(task, statistics) for task in raw.values()},
        imputers=imputers,
        encoded={(task.name, name): encode_task(model, task) for task in raw.values()},
        settings=settings,
    )
