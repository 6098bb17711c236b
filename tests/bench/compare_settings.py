"""Settings compared without test molecules: `python -m tests.bench.compare_settings DEMO [NAME=VALUE,...] ...`

DEMO is the folder of a finished `dynfusion demo`. Each further argument is one variant of its run, as comma-separated
overrides; the run as it stands comes first. A model is trained in this process with the torch engine; heads are fitted
and scored on five folds of the tasks' *training* molecules, with every subset of modalities visible in the scored fold.
Prints one JSON line: mean ROC-AUC over tasks with all present, one absent, two absent.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dynfusion.evaluation.hiding.patterns import subsets
from dynfusion.evaluation.tasks.task import TaskData, read_task
from dynfusion.fusion.api import FusionModel
from dynfusion.run_settings import RunSettings, read_run
from dynfusion.store.dataset import open_dataset
from dynfusion.store.feed import Feed
from dynfusion.training.assemble import begin, make_objective, make_order, make_plan, position_of
from dynfusion.training.config import EngineSettings
from dynfusion.training.engine import TorchEngine
from dynfusion.training.loop import train
from dynfusion.training.sources import join

RUN = Path(__file__).parents[2] / "jobs" / "runs" / "demo.toml"
TASKS = ("solubility", "freesolv")


def main(demo: Path, variants: list[str]) -> dict[str, object]:
    """The figures by variant; the keys are "VARIANT: all present", "VARIANT: one absent", ..."""
    torch.set_num_threads(1)
    tasks = [read_task(name, open_dataset(demo / "packed" / name)) for name in TASKS]
    figures: dict[str, float] = {}
    for variant in ["", *variants]:
        started = time.monotonic()
        overrides = [f"data.uri={demo / 'packed' / 'pool'}", *filter(None, variant.split(","))]
        scores = score(fit(read_run(RUN, overrides)), tasks)
        for absent, value in enumerate(scores):
            figures[f"{variant or 'as it stands'}: {absent} absent"] = round(value, 4)
        print(f"{variant or 'as it stands'}: {scores} in {time.monotonic() - started:.0f} s", file=sys.stderr)
    return {"benchmark": "compare_settings", "figures": figures, "settings": str(RUN.name)}


def fit(settings: RunSettings) -> FusionModel:
    """The model of a run, trained here."""
    dataset = open_dataset(settings.data.uri)
    order = make_order(dataset.manifest, settings.data, settings.train)
    plan = make_plan(order, settings.train, settings.masking)
    objective = make_objective(dataset.manifest.modalities, settings.model, settings.loss, seed=settings.train.seed)
    begin(objective.network, join([dataset], ()), settings.train)
    engine = TorchEngine(objective, settings.train, EngineSettings(kind="torch"), torch.device("cpu"))
    start = position_of(plan, 0)
    with Feed(dataset, order, rank=0, world_size=1, start=start, settings=settings.data.feed) as feed:
        train(objective, engine, feed, plan=plan, start_step=0, record=lambda _: None, checkpoint=lambda _: None)
    return FusionModel(objective.network)


def score(model: FusionModel, tasks: list[TaskData]) -> list[float]:
    """Mean ROC-AUC with none, one, ... modalities absent in the scored folds of the training molecules."""
    number = len(model.modalities)
    sums = [[] for _ in range(number)]
    for task in tasks:
        rows = task.rows("train")
        embedded = {names: _embed(model, task, rows, names) for names in subsets(model.modalities)}
        labels = task.labels[rows, 0]
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        for fitted, held in folds.split(rows, labels):
            head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
            head.fit(embedded[model.modalities][fitted], labels[fitted])
            for names, values in embedded.items():
                found = head.predict_proba(values[held])
                found = found[:, 1] if found.shape[1] == 2 else found
                sums[number - len(names)].append(roc_auc_score(labels[held], found, multi_class="ovr"))
    return [float(np.mean(values)) for values in sums]


def _embed(model: FusionModel, task: TaskData, rows: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    shown = {name: task.present[rows, task.modalities.index(name)] for name in names}
    values = {name: task.values[name][rows] for name in names}
    fused = np.zeros((len(rows), model.dim), dtype=np.float32)
    usable = np.stack(list(shown.values())).any(axis=0)
    fused[usable] = model.encode(
        {name: value[usable] for name, value in values.items()},
        present={name: mask[usable] for name, mask in shown.items()},
    )
    return fused


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2:])))
