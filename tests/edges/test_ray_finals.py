"""The end of a sweep whose runs with fresh seeds are done: the test split, once, for the winner and the default."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dynfusion.edges.ray_finals import finals_on_ray
from dynfusion.edges.ray_validation import read_tasks
from dynfusion.evaluation.validation import score_test
from dynfusion.fusion.api import FusionModel
from dynfusion.fusion.model import FusionNetwork, ModelSettings
from dynfusion.run_settings import RunSettings
from dynfusion.settings import build
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs
from dynfusion.training.storage import LocalStorage
from dynfusion.tuning.finals import fresh_seeds, job_name
from dynfusion.tuning.records import (
    DEFAULT,
    Final,
    Finals,
    SeedRun,
    Sweep,
    Trial,
    read_finals,
    write_finals,
    write_sweep,
    write_trial,
)
from tests.datasets import DIMS, write_folders
from tests.tuning.test_book import sweep
from tests.tuning.test_search import known

pytestmark = pytest.mark.usefixtures("ray_cluster")

ROWS = 240
SEEDS = fresh_seeds(2, [0, 3])
MEANS = {"0000": 0.5, "0001": 0.8, DEFAULT: 0.6}


@pytest.fixture
def base(tmp_path: Path) -> RunSettings:
    """A run whose validation asks one labelled set."""
    folders = write_folders(tmp_path / "embeddings", rows=ROWS)
    first = np.nan_to_num(np.load(folders["a"] / "embeddings.npy")[:, 0].astype(np.float64))
    split = ["train"] * 120 + ["valid"] * 40 + ["test"] * 80
    table = {"id": [f"m{row}" for row in range(ROWS)], "y": (first > 0).astype(int).tolist(), "split": split}
    pq.write_table(pa.table(table), tmp_path / "table.parquet")
    inputs = PackInputs(folders, tmp_path / "table.parquet", labels=("y",), split_column="split")
    pack(inputs, out=tmp_path / "task")
    tasks = {"tasks": {"t": str(tmp_path / "task")}}
    return build(RunSettings, {"data": {"uri": str(tmp_path / "task")}, "validation": tasks})


def ended(folder: Path, base: RunSettings) -> tuple[Sweep, tuple[Trial, ...]]:
    """A sweep of two trials whose every run with a fresh seed has left its scores and its model."""
    storage, plan = LocalStorage(folder), replace(sweep(samples=2), top_k=2, rerun_seeds=len(SEEDS))
    trials = tuple(known(number, {"loss.alignment": 0.1 * (number + 1)}, 0.7) for number in range(2))
    write_sweep(storage, plan)
    entries = []
    for label, mean in MEANS.items():
        runs = []
        for seed in SEEDS:
            torch.manual_seed(len(label) + seed + int(100 * mean))
            network = FusionNetwork(DIMS, ModelSettings(dim=8, gate_hidden=4, decoder_hidden=4, score_hidden=4))
            network.set_statistics({name: ([0.0] * dim, [1.0] * dim) for name, dim in DIMS.items()})
            FusionModel(network).save(folder / "runs" / job_name(label, seed) / "model")
            runs.append(SeedRun(seed, {"score": mean + 0.001 * seed}, None, f"runs/{job_name(label, seed)}"))
        settings = {} if label == DEFAULT else trials[int(label)].settings
        entries.append(Final(label, settings, tuple(runs)))
    for trial in trials:
        write_trial(storage, trial)
    write_finals(storage, Finals(tuple(entries), 2, complete=False))
    return plan, trials


def test_the_winner_and_the_default_are_scored_on_test_rows_and_nobody_twice(tmp_path: Path, base: RunSettings) -> None:
    folder, said = tmp_path / "sweep", list[str]()
    plan, trials = ended(folder, base)
    finals_on_ray(plan, trials, base, str(folder), 1, said.append, debug=False)
    assert said == ["scoring trial 0001 and the default on the test rows of t, once"]
    found = read_finals(LocalStorage(folder))
    assert found is not None
    assert found.complete
    tasks = read_tasks(base)
    for entry in found.entries:
        for run in entry.seeds:
            if entry.label == "0000":
                assert run.test is None, "the test split says nothing of a trial that was not chosen"
                continue
            assert run.test == score_test(FusionModel.load(folder / run.run / "model"), tasks)
            assert 0 < run.test["t"] < 1
    kept = json.loads((folder / "finals.json").read_text())
    finals_on_ray(plan, trials, base, str(folder), 1, said.append, debug=False)
    assert said[1:] == []
    assert json.loads((folder / "finals.json").read_text()) == kept
