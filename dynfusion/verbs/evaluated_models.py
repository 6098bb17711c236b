"""The fusion models of an evaluation, and the data that they and their rivals were fitted on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dynfusion.edges.datasets import open_sources
from dynfusion.edges.ray_tasks import map_on_ray
from dynfusion.edges.s3_address import is_s3
from dynfusion.edges.s3_storage import open_storage
from dynfusion.encoders.molecules import canonical_keys
from dynfusion.fusion.api import FusionModel
from dynfusion.settings import build, parse_json
from dynfusion.store.dataset import Dataset
from dynfusion.training.checkpoint import MODEL
from dynfusion.training.config import DataSettings
from dynfusion.training.sources import Sources

KEYS_AT_ONCE = 4096


@dataclass(frozen=True)
class EvaluatedModel:
    """One fusion model with what its folder says of its training."""

    name: str
    model: FusionModel
    training: Mapping[str, Any]
    """What training.json says; empty where there is none."""
    ablation: bool
    seed: int = 0
    """Its number among the training runs of the same name."""


def parse_models(texts: Sequence[str]) -> dict[str, list[str]]:
    """`["runs/a/model", "b=runs/c/model,runs/d/model"]` as the folders of every name's training runs.

    Raises ValueError for a name given twice, named or taken from the first folder, and for an empty folder.
    """
    models: dict[str, list[str]] = {}
    for text in texts:
        before, equals, after = text.partition("=")
        named = equals and "/" not in before
        folders = (after if named else text).split(",")
        if not all(folders):
            raise ValueError(f"models: found {text!r}, allowed is [NAME=]FOLDER[,FOLDER...]")
        name = before if named else folder_name(folders[0])
        if name in models:
            raise ValueError(f"models: {name} is given twice, give them names: NAME={text} and another one")
        models[name] = folders
    return models


def folder_name(folder: str) -> str:
    """A run's name for the `model/` folder that the run left, else the folder's own."""
    parts = folder.split("?")[0].split("/") if is_s3(folder) else Path(folder).resolve().parts
    parts = [part for part in parts if part]
    return parts[-2] if parts[-1] == MODEL and len(parts) > 1 else parts[-1]


def open_models(models: Mapping[str, list[str]], ablations: Mapping[str, list[str]]) -> list[EvaluatedModel]:
    """The models, then the ablations; several folders of one name are training runs that differ by their seed.

    Raises ValueError when there is none, a name is used twice, a folder is no model, when runs of one name differ by
    more than their seed, or when models were not trained on the same data: rivals are fitted once, on what all of them
    have seen.
    """
    twice = sorted(set(models) & set(ablations))
    if twice or not models:
        found = f"{twice[0]} is a model and an ablation" if twice else "found no model"
        raise ValueError(f"models: {found}, needed is one or more, each name once")
    opened = [
        _open(name, folder, ablation, seed)
        for group, ablation in ((models, False), (ablations, True))
        for name, folders in group.items()
        for seed, folder in enumerate(folders)
    ]
    _require_runs_of_one_kind(opened)
    first = opened[0]
    for other in opened[1:]:
        same = other.model.dims == first.model.dims and all(
            np.allclose(mean, first.model.statistics()[name][0], atol=1e-5)
            for name, (mean, _) in other.model.statistics().items()
        )
        if not same:
            raise ValueError(f"models: {other.name} was not trained on the data of {first.name}, evaluate it by itself")
    return opened


def _open(name: str, folder: str, ablation: bool, seed: int) -> EvaluatedModel:
    with open_storage(folder).local("") as here:
        return EvaluatedModel(name, FusionModel.load(here), read_training(here), ablation, seed)


def _require_runs_of_one_kind(models: Sequence[EvaluatedModel]) -> None:
    """Raises ValueError where runs of one name differ by a setting that changes numbers, or share their seed."""
    first: dict[str, EvaluatedModel] = {}
    seeds: dict[tuple[str, int], EvaluatedModel] = {}
    for one in models:
        other = first.setdefault(one.name, one)
        found, expected = (_of_numbers(model.training.get("settings", {})) for model in (one, other))
        differing = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        if differing:
            raise ValueError(
                f"models: run {one.seed + 1} of {one.name} differs from its first in {differing[0]}, allowed is "
                "train.seed; give it a name of its own"
            )
        seed = one.training.get("settings", {}).get("train", {}).get("seed")
        if seed is not None and seeds.setdefault((one.name, seed), one) is not one:
            raise ValueError(f"models: two runs of {one.name} have train.seed {seed}, allowed are different ones")


def _of_numbers(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of model, losses, masking and training by their dotted names, without the seed."""
    parts = ("model", "loss", "masking", "train")
    found = {f"{part}.{name}": value for part in parts for name, value in settings.get(part, {}).items()}
    found.pop("train.seed", None)
    return found


def read_training(folder: Path) -> dict[str, Any]:
    """What a model folder says of its training, nothing where it has no training.json.

    Raises ValueError when that is not readable or of another kind.
    """
    path = folder / "training.json"
    if not path.exists():
        return {}
    training = parse_json(path.read_bytes(), str(path))
    _require_table(str(path), training)
    for name in ("data", "settings"):
        _require_table(f"{path}, {name}", training.get(name, {}))
    for name, part in training.get("settings", {}).items():
        _require_table(f"{path}, settings.{name}", part)
    seed = training.get("settings", {}).get("train", {}).get("seed", 0)
    if type(seed) is not int:
        raise ValueError(f"{path}, settings.train.seed: found {seed!r}, allowed is a whole number")
    uris = _listed(training.get("data", {}).get("uri") or ())
    if not all(isinstance(uri, str) for uri in uris):
        raise ValueError(f"{path}, data.uri: found {uris!r}, allowed are addresses")
    return training


def _require_table(where: str, found: object) -> None:
    if not isinstance(found, dict):
        raise ValueError(f"{where}: found {type(found).__name__}, allowed is an object of names and values")


def open_pool(first: EvaluatedModel, moved: str | tuple[str, ...] | None) -> Sources:
    """The data that a model was trained on: `moved`, else where its training.json says.

    Raises ValueError when neither says, or when it is other data than that.
    """
    data, settings = first.training.get("data", {}), first.training.get("settings", {}).get("data", {})
    uris = _listed(moved or data.get("uri") or ())
    if not uris:
        raise ValueError(
            "setting evaluation.pool: no value, and the model folder has no training.json naming its data; give a URI"
        )
    trained_on = _listed(data.get("uri") or uris)
    if len(uris) != len(trained_on):
        raise ValueError(
            f"setting evaluation.pool: found {len(uris)} data sets, allowed are all {len(trained_on)} that the model "
            f"was trained on, in their order: {', '.join(trained_on)}"
        )
    pool = open_sources(build(DataSettings, {"uri": uris, "weights": settings.get("weights", ())}))
    where, expected = f"pool {', '.join(uris)}", data.get("fingerprint")
    if expected is not None and expected != pool.fingerprint:
        raise ValueError(f"{where}: its fingerprint is {pool.fingerprint}, the model was trained on {expected}")
    statistics = first.model.statistics()
    for spec in pool.modalities:
        if spec.name in statistics and not np.allclose(spec.mean, statistics[spec.name][0], atol=1e-5):
            raise ValueError(f"{where}: its {spec.name} has other means than the data that the model was trained on")
    return pool


def _listed(uris: object) -> tuple[Any, ...]:
    return tuple(uris) if isinstance(uris, list | tuple) else (uris,)


@dataclass(frozen=True)
class PoolMolecules:
    """Which molecules a model was trained on, as far as their SMILES are known."""

    keys: frozenset[str] | None
    """Canonical SMILES without stereochemistry; None where no SMILES is known."""
    known: float
    """Share of the training rows whose SMILES is known, 0..1."""


def pool_molecules(datasets: Sequence[Dataset]) -> PoolMolecules:
    """The pool's training rows. The caller has initialised Ray."""
    texts = [text for dataset in datasets for text in dataset.table("train")["smiles"].to_pylist()]
    smiles = [text for text in texts if text]
    if not smiles:
        return PoolMolecules(None, 0.0)
    keys: set[str] = set()
    chunks = [(smiles[start : start + KEYS_AT_ONCE],) for start in range(0, len(smiles), KEYS_AT_ONCE)]
    map_on_ray(canonical_keys, chunks, finished=lambda number, found: keys.update(key for key in found if key))
    return PoolMolecules(frozenset(keys), len(smiles) / len(texts))
