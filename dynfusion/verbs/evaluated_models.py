"""The fusion models of an evaluation, and the data that they and their rivals were fitted on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dynfusion.edges.datasets import open_dataset
from dynfusion.edges.ray_tasks import map_on_ray
from dynfusion.edges.s3_address import is_s3
from dynfusion.edges.s3_storage import open_storage
from dynfusion.encoders.molecules import canonical_keys
from dynfusion.fusion.api import FusionModel
from dynfusion.store.dataset import Dataset
from dynfusion.training.checkpoint import MODEL

KEYS_AT_ONCE = 4096


@dataclass(frozen=True)
class EvaluatedModel:
    """One fusion model with what its folder says of its training."""

    name: str
    model: FusionModel
    training: Mapping[str, Any]
    """What training.json says; empty where there is none."""
    ablation: bool


def parse_models(texts: Sequence[str]) -> dict[str, str]:
    """`["runs/a/model", "b=runs/c/model"]` as folders by name.

    Raises ValueError for a name given twice, named or taken from the folder.
    """
    models: dict[str, str] = {}
    for text in texts:
        before, equals, after = text.partition("=")
        name, folder = (before, after) if equals and "/" not in before else (folder_name(text), text)
        if name in models:
            raise ValueError(f"models: {name} is given twice, give them names: NAME={text} and another one")
        models[name] = folder
    return models


def folder_name(folder: str) -> str:
    """A run's name for the `model/` folder that the run left, else the folder's own."""
    parts = folder.split("?")[0].split("/") if is_s3(folder) else Path(folder).resolve().parts
    parts = [part for part in parts if part]
    return parts[-2] if parts[-1] == MODEL and len(parts) > 1 else parts[-1]


def open_models(models: Mapping[str, str], ablations: Mapping[str, str]) -> list[EvaluatedModel]:
    """The models, then the ablations.

    Raises ValueError when there is none, a name is used twice, a folder is no model, or when they were not trained on
    the same data: rivals are fitted once, on what all of them have seen.
    """
    twice = sorted(set(models) & set(ablations))
    if twice or not models:
        found = f"{twice[0]} is a model and an ablation" if twice else "found no model"
        raise ValueError(f"models: {found}, needed is one or more, each name once")
    opened = [
        _open(name, folder, ablation)
        for group, ablation in ((models, False), (ablations, True))
        for name, folder in group.items()
    ]
    first = opened[0]
    for other in opened[1:]:
        same = other.model.dims == first.model.dims and all(
            np.allclose(mean, first.model.statistics()[name][0], atol=1e-5)
            for name, (mean, _) in other.model.statistics().items()
        )
        if not same:
            raise ValueError(f"models: {other.name} was not trained on the data of {first.name}, evaluate it by itself")
    return opened


def _open(name: str, folder: str, ablation: bool) -> EvaluatedModel:
    with open_storage(folder).local("") as here:
        return EvaluatedModel(name, FusionModel.load(here), _read_training(here), ablation)


def _read_training(folder: Path) -> dict[str, Any]:
    path = folder / "training.json"
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as JSON, {error}") from None


def open_pool(first: EvaluatedModel, uri: str | None) -> Dataset:
    """The data set that a model was trained on: `uri`, else where its training.json says.

    Raises ValueError when neither says, when training names several, or when it is another data set than that.
    """
    data = first.training.get("data", {})
    uri = uri or data.get("uri")
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
    statistics = first.model.statistics()
    for spec in dataset.manifest.modalities:
        if spec.name in statistics and not np.allclose(spec.mean, statistics[spec.name][0], atol=1e-5):
            raise ValueError(f"pool {uri}: its {spec.name} has other means than the data that the model was trained on")
    return dataset


def pool_keys(dataset: Dataset) -> frozenset[str] | None:
    """Canonical SMILES, without stereochemistry, of the pool's training rows; None where the pack has no SMILES.

    The caller has initialised Ray.
    """
    smiles = [text for text in dataset.table("train")["smiles"].to_pylist() if text]
    if not smiles:
        return None
    keys: set[str] = set()
    chunks = [(smiles[start : start + KEYS_AT_ONCE],) for start in range(0, len(smiles), KEYS_AT_ONCE)]
    map_on_ray(canonical_keys, chunks, finished=lambda number, found: keys.update(key for key in found if key))
    return frozenset(keys)
