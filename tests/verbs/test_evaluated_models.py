"""Which folders are one model."""

import json
from pathlib import Path
from typing import Any

import pytest

from dynfusion.fusion.api import FusionModel
from dynfusion.verbs.evaluated_models import open_models, parse_models
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
