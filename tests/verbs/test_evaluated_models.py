"""Which folders are one model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynfusion.evaluation.representations.pool import read_pool
from dynfusion.fusion.api import FusionModel
from dynfusion.fusion.model import FusionNetwork, ModelSettings
from dynfusion.training.sources import join
from dynfusion.verbs.evaluated_models import EvaluatedModel, open_models, open_pool, parse_models
from tests.datasets import DIMS, packed
from tests.evaluation.synthetic import network


def saved(folder: Path, **train: Any) -> str:
    FusionModel(network(train["seed"])).save(folder)
    settings = {"train": train, "cluster": {"name": folder.name}}
    (folder / "training.json").write_text(json.dumps({"settings": settings}))
    return str(folder)


def test_folders_of_a_name_are_its_runs() -> None:
    assert parse_models(["runs/a/model", "b=runs/c/model,s3://d/e/model"]) == {
        "a": ["runs/a/model"],
        "b": ["runs/c/model", "s3://d/e/model"],
    }
    assert list(parse_models(["runs/a/model,runs/b/model"])) == ["a"]
    for wrong in ("a=", "a=x,", "x,,y"):
        with pytest.raises(ValueError, match=r"allowed is \[NAME=\]FOLDER"):
            parse_models([wrong])
    with pytest.raises(ValueError, match="a is given twice"):
        parse_models(["a=x", "a=y"])


def test_runs_that_differ_by_their_seed_are_numbered(tmp_path: Path) -> None:
    folders = [saved(tmp_path / f"run-{seed}", seed=seed, epochs=2) for seed in (5, 6)]
    opened = open_models({"fused": folders}, {"none": [saved(tmp_path / "none", seed=5, epochs=1)]})
    assert [(one.name, one.seed, one.ablation) for one in opened] == [
        ("fused", 0, False),
        ("fused", 1, False),
        ("none", 0, True),
    ]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"seed": 6, "epochs": 3}, r"run 2 of fused differs from its first in train\.epochs"),
        ({"seed": 5, "epochs": 2}, r"two runs of fused have train\.seed 5"),
    ],
)
def test_other_runs_are_not_averaged(tmp_path: Path, changed: dict[str, int], sentence: str) -> None:
    folders = [saved(tmp_path / "first", seed=5, epochs=2), saved(tmp_path / "second", **changed)]
    with pytest.raises(ValueError, match=sentence):
        open_models({"fused": folders}, {})


def test_the_pool_of_a_model_that_was_trained_on_several_data_sets_is_all_of_them(tmp_path: Path) -> None:
    first, second = packed(tmp_path / "x", rows=120), packed(tmp_path / "y", rows=80, seed=1)
    both, uris = join([first, second], (1.0, 2.0)), [str(first.uri), str(second.uri)]
    network = FusionNetwork(DIMS, ModelSettings(dim=8, gate_hidden=4, decoder_hidden=4, score_hidden=4))
    network.set_statistics({spec.name: (list(spec.mean), list(spec.std)) for spec in both.modalities})
    training = {
        "settings": {"data": {"uri": uris, "weights": [1.0, 2.0]}},
        "data": {"uri": uris, "fingerprint": both.fingerprint},
    }
    model = EvaluatedModel("m", FusionModel(network), training, ablation=False)
    assert [one.manifest.fingerprint for one in open_pool(model, None).datasets] == [
        first.manifest.fingerprint,
        second.manifest.fingerprint,
    ]
    assert open_pool(model, tuple(uris)).fingerprint == both.fingerprint
    with pytest.raises(ValueError, match=r"setting evaluation\.pool: found 1 data sets, allowed are all 2"):
        open_pool(model, uris[0])
    with pytest.raises(ValueError, match=r"its fingerprint is .*, the model was trained on"):
        open_pool(model, tuple(reversed(uris)))
    statistics = model.model.statistics()
    pool = read_pool(both.datasets, modalities=("a", "b", "c"), statistics=statistics, max_rows=50)
    assert len(pool.present) == 50
    whole = read_pool(both.datasets, modalities=("a", "b", "c"), statistics=statistics, max_rows=1000)
    rows = np.unique(np.linspace(0, 199, 50).astype(int))
    np.testing.assert_array_equal(pool.values["b"], whole.values["b"][rows])
    last = second.read("train", slice(None))
    there = last.present[:, 1]
    mean, std = statistics["b"]
    np.testing.assert_allclose(whole.values["b"][120:][there], (last.values["b"][there] - mean) / std, atol=1e-4)
