"""A report.json by its contract with made-up numbers, as large as a real one: what the page must stay readable with."""

import json
from itertools import combinations
from typing import Any

import numpy as np

MODALITIES = ("smiles", "selfies", "graph")
TASKS = ("bace", "bbbp", "clintox", "hiv", "tox21", "sider")
COLUMNS = {"all present": 0, "one absent": 1, "two absent": 2, "any absent": None}
OFFSETS = {
    "smiles": 0.0,
    "selfies": -0.03,
    "graph": -0.05,
    "smiles+selfies": 0.01,
    "smiles+graph": 0.015,
    "selfies+graph": -0.01,
    "concat-mean": 0.02,
    "concat-ridge": 0.02,
    "pca-512": 0.012,
    "random-512": -0.012,
    "ecfp": -0.02,
    "late-fusion": 0.015,
    "projection-mean": 0.01,
    "fused": 0.018,
}
LOSSES = {
    "concat-mean": 0.08,
    "concat-ridge": 0.05,
    "late-fusion": 0.055,
    "pca-512": 0.09,
    "random-512": 0.1,
    "ecfp": 0,
}
FLEXIBLE = ("concat-mean", "concat-ridge", "pca-512", "random-512", "late-fusion", "projection-mean", "fused")
MAIN = ("concat-mean", "concat-ridge", "projection-mean", "fused")
SUBSETS = [chosen for size in (3, 2, 1) for chosen in combinations(MODALITIES, size)]


class Example:
    """Numbers from a seed, records as the contract lists them."""

    def __init__(self, tasks: tuple[str, ...], *, quick: bool, seed: int = 0) -> None:
        self.tasks, self.quick = tasks, quick
        self.random = np.random.default_rng(seed)
        self.levels = {task: 0.7 + 0.04 * number for number, task in enumerate(tasks)}
        self.scopes = [*([None] if len(tasks) > 1 else []), *tasks]

    def level(self, task: str | None) -> float:
        """What smiles scores."""
        return float(np.mean(list(self.levels.values()))) if task is None else self.levels[task]

    def valued(self, value: float, width: float = 0.02) -> dict[str, float]:
        """With some noise and an interval."""
        value = float(value + self.random.normal(0, width / 6))
        return {"value": value, "low": value - width, "high": value + width * 0.9}

    def score(self, task: str | None, name: str, absent: float) -> dict[str, float]:
        """Of a representation when that many modalities are absent."""
        return self.valued(self.level(task) + OFFSETS.get(name, 0.012) - absent * LOSSES.get(name, 0.045) / 1.5)

    def covers(self, name: str, absent: int | None) -> bool:
        """Whether a representation has a number in every subset of a column."""
        return absent == 0 or name in FLEXIBLE or name == "ecfp" or name.startswith("fused")

    def table(self, section: str, split: str, probe: str, fitting: str, metric: str, names: Any) -> list[dict]:
        """For every scope."""
        found = []
        for task in self.scopes:
            rows = []
            for name in names:
                cells: dict[str, Any] = {}
                for column, absent in COLUMNS.items():
                    cell = self.score(task, name, 1.5 if absent is None else absent)
                    marks = {"tie": name in ("fused", "concat-ridge") and absent != 2, "bold": False}
                    marks["bold"] = name == "fused" and absent == 2
                    cells[column] = {**cell, **marks} if self.covers(name, absent) else None
                rows.append({"representation": name, "cells": cells})
            line = {"section": section, "split": split, "probe": probe, "fitting": fitting, "metric": metric}
            found.append({**line, "task": task, "tasks": list(self.tasks), "columns": list(COLUMNS), "rows": rows})
        return found

    def comparisons(self, section: str, fitting: str, names: Any) -> list[dict]:
        """Of both models' lines against every other."""
        found = []
        for task in self.scopes:
            for column, absent in COLUMNS.items():
                for ours in ("fused", "projection-mean"):
                    for other in names:
                        if other == ours or not self.covers(other, absent):
                            continue
                        gap = self.valued(0.004 if other == "concat-ridge" else 0.02, 0.012)
                        low, high = gap["low"], gap["high"]
                        record = {"section": section, "probe": "linear", "fitting": fitting, "metric": "roc_auc"}
                        record |= {"task": task, "column": column, "representation": ours, "against": other}
                        record |= {"difference": gap["value"], "low": low, "high": high, "p": 0.04}
                        record |= {"fold_low": None if self.quick else low - 0.004}
                        record |= {"fold_high": None if self.quick else high + 0.004}
                        found.append({**record, "tie": not (low - 0.004 > 0 or high + 0.004 < 0)})
        return found

    def robustness(self) -> list[dict]:
        found = []
        for task in self.scopes:
            for name in FLEXIBLE:
                record: dict[str, Any] = {"section": "folds", "probe": "linear", "metric": "roc_auc", "task": task}
                record["representation"] = name
                for key, value, width in (
                    ("relative_drop", 100 * LOSSES.get(name, 0.045), 2),
                    ("chance_corrected_drop", 280 * LOSSES.get(name, 0.045), 7),
                    ("area", self.level(task), 0.01),
                    ("effective_robustness", 0.055 - LOSSES.get(name, 0.045), 0.006),
                ):
                    one = self.valued(value, width)
                    record |= {key: one["value"], f"{key}_low": one["low"], f"{key}_high": one["high"]}
                worst = self.valued(self.level(task) - 0.1)
                record["worst_subset"] = {"visible": ["graph"], "value": worst["value"]}
                record["worst_subset"] |= {"value_low": worst["low"], "value_high": worst["high"]}
                found.append(record)
        return found

    def modality_value(self) -> list[dict]:
        found = []
        for task in self.scopes:
            for name in MAIN:
                for modality, value in zip(MODALITIES, (0.13, 0.07, 0.09), strict=True):
                    one = self.valued(value)
                    record = {"section": "folds", "metric": "roc_auc", "task": task, "representation": name}
                    found.append(
                        {
                            **record,
                            "modality": modality,
                            "shapley": one["value"],
                            "low": one["low"],
                            "high": one["high"],
                        }
                    )
        return found

    def hiding(self) -> list[dict]:
        found = []
        for task in self.scopes:
            for name in FLEXIBLE:
                ways = [("random", rate, None, rate * (1 - rate**2)) for rate in (0.0, 0.1, 0.25, 0.5, 0.75)]
                ways += [("not-at-random", rate, None, rate * 0.9) for rate in (0.1, 0.25, 0.5)]
                ways += [("imbalanced", 0.75, modality, 0.28) for modality in MODALITIES]
                ways += [("corrupted", None, modality, 0.0) for modality in MODALITIES]
                for protocol, rate, target, realised in ways:
                    absent = 1.2 if protocol == "corrupted" else 2.2 * realised
                    record = {
                        "task": task,
                        "representation": name,
                        "protocol": protocol,
                        "rate": rate,
                        "target": target,
                    }
                    record |= {"realised": realised, "metric": "roc_auc", **self.score(task, name, absent)}
                    found.append({**record, "draws": 5 if rate and protocol != "corrupted" else 1})
        return found

    def training_rates(self) -> list[dict]:
        found = []
        for task in self.scopes:
            for name in MAIN:
                for complete in (False, True) if name.startswith("concat") else (False,):
                    for train in (0.0, 0.25, 0.5, 0.75):
                        for test in (0.0, 0.1, 0.25, 0.5, 0.75):
                            record = {"task": task, "representation": name, "complete_rows": complete}
                            record |= {"train_rate": train, "test_rate": test, "metric": "roc_auc"}
                            worse = 0.08 * train * complete
                            found.append({**record, **self.score(task, name, 2 * test + worse * 20)})
        return found

    def reconstruction(self) -> list[dict]:
        found = []
        for task in self.tasks:
            for visible in SUBSETS[1:]:
                for target in (name for name in MODALITIES if name not in visible):
                    record: dict[str, Any] = {"task": task, "target": target, "visible": list(visible)}
                    record |= {"cosine": 0.96, "centred_cosine": 0.62, "r2": 0.4, "r2_median": 0.35}
                    for key, value in (
                        ("skill_mean", 0.55),
                        ("skill_ridge", 0.06 if len(visible) == 2 else -0.04),
                        ("skill_knn", 0.3 if target != "graph" else -1.8),
                        ("recall_1", 0.4),
                        ("recall_10", 0.7),
                        ("mrr", 0.5),
                        ("mrr_over_ridge", -0.02),
                    ):
                        one = self.valued(value, 0.03)
                        record |= {key: one["value"], f"{key}_low": one["low"], f"{key}_high": one["high"]}
                    record |= {"ridge_recall_1": 0.42, "ridge_recall_10": 0.71, "ridge_mrr": 0.52}
                    found.append({**record, "candidates": 10000, "molecules": 152, "test_molecules": 152})
        return found

    def alignment(self) -> list[dict]:
        found: list[dict] = []
        for task in self.tasks:
            for visible in SUBSETS:
                record = {"task": task, "visible": list(visible), "molecules": 152, "queries": 152, "candidates": 152}
                record["cosine"] = {name: 0.8 if name in visible else 0.5 for name in MODALITIES}
                record["cosine_others"] = dict.fromkeys(MODALITIES, 0.21)
                found.append({**record, "uniformity": -2.9, "recall_1": 0.91, "recall_10": 0.98, "mrr": 0.94})
            for query in MODALITIES:
                for answer in (name for name in MODALITIES if name != query):
                    record = {"task": task, "query": query, "answer": answer, "queries": 152, "candidates": 152}
                    found.append({**record, "recall_1": 0.44, "recall_10": 0.8, "mrr": 0.6})
        return found

    def collapse(self) -> list[dict]:
        found: list[dict] = []
        for number, task in enumerate(self.tasks):
            for visible in SUBSETS:
                weights = [0.4 + 0.02 * number, 0.35, 0.25 - 0.02 * number]
                alone = len(visible) == 1
                share = {m: None if alone or m not in visible else w for m, w in zip(MODALITIES, weights, strict=True)}
                record = {"task": task, "visible": list(visible), "molecules": 152, "choices": 0 if alone else 152}
                entropy = {"sample_entropy": 0.9, "marginal_entropy": 0.96, "mutual_information": 0.06}
                record |= {"attention": share, **(dict.fromkeys(entropy) if alone else entropy)}
                found.append({**record, "effective_rank": 182.4, "participation_ratio": 31.7})
            for modality in MODALITIES:
                record = {"task": task, "modality": modality, "molecules": 152, "compared": 152, "gate_mean": 0.5}
                record |= {"gate_open": 0.52, "gate_closed": 0.1, "gate_gini": 0.31, "gate_deviation": 0.12}
                found.append({**record, "removed": 0.08, "shuffled": 0.31})
        return found

    def task(self, number: int, name: str) -> dict:
        parts = {"train": 1209 + 6000 * (name == "hiv"), "valid": 151, "test": 152}
        leak = {"task": name, "readable": 152, "with_scaffold": 150, "molecule_in_train": number % 2}
        leak |= {"test": 152, "molecule_in_pool": 3 * number}
        leaks = [{**leak, "fold": "given", "scaffold_in_train": 61}]
        if not self.quick:
            leaks += [{**leak, "fold": f"scaffold-cv-{fold}", "scaffold_in_train": 0} for fold in range(10)]
        return {
            "name": name,
            "kind": "binary",
            "labels": [f"label {label}" for label in range(12 if name == "tox21" else 1)],
            "classes": [],
            "split": "given",
            "folds": 1 if self.quick else 10,
            "repeats": 1 if self.quick else 2,
            "molecules": parts,
            "in_no_part": 3,
            "present": dict(zip(MODALITIES, (1.0, 0.999, 0.95), strict=True)),
            "nothing_present_test": 0,
            "base_rate": 0.45,
            "leaks": leaks,
        }


def example_report(tasks: tuple[str, ...] = TASKS, *, quick: bool = False, seed: int = 0) -> dict[str, Any]:
    """A standard report, or what `--quick` leaves of it."""
    made = Example(tasks, quick=quick, seed=seed)
    split = "given" if quick else "scaffold-cv"
    tables = made.table("folds", split, "linear", "transferred", "roc_auc", OFFSETS)
    tables += made.table("folds", split, "linear", "transferred", "pr_auc", OFFSETS)
    comparisons = made.comparisons("folds", "transferred", OFFSETS)
    if not quick:
        tables += made.table("folds", split, "linear", "refitted", "roc_auc", MAIN)
        comparisons += made.comparisons("folds", "refitted", MAIN)
        for metric in ("roc_auc", "pr_auc"):
            tables += made.table("given", "given", "linear", "transferred", metric, [*OFFSETS, "fused (no-alignment)"])
        for probe in ("knn", "boosting"):
            tables += made.table("probes", "given", probe, "transferred", "roc_auc", [*MODALITIES, *MAIN, "ecfp"])
    training = {"data": {"fingerprint": "abc"}, "versions": {"torch": "2.6"}, "history": history()}
    models = [{"name": "pool", "dim": 512, "ablation": False, "training": training}]
    if not quick:
        models.append({"name": "no-alignment", "dim": 512, "ablation": True, "training": training})
    calibration = [
        {"section": "given", "task": task, "representation": name, "visible": list(visible), "brier": 0.16, "ece": 0.07}
        for task in tasks
        for name in FLEXIBLE
        for visible in SUBSETS
    ]
    subsets = [
        {
            "section": "folds",
            "probe": "linear",
            "fitting": "transferred",
            "task": task,
            "representation": name,
            "visible": list(visible),
            "metric": "roc_auc",
            "folds": 10,
            **made.score(task, name, 3 - len(visible)),
        }
        for task in tasks
        for name in OFFSETS
        for visible in SUBSETS
        if name in FLEXIBLE or set(name.split("+")) <= set(visible)
    ]
    statistics = {"resamples": 1000, "confidence": 0.95, "seed": 0}
    evaluation = {"extent": "quick" if quick else "standard", "split": {"kind": split, "folds": 5}}
    widths = {"smiles": 512, "selfies": 384, "graph": 600, "concat-mean": 1496, "concat-ridge": 1496, "fused": 512}
    chosen = {"linear": {"c": 0.01}, "knn": {"k": 15.0}}
    return {
        "title": "Evaluation under missing modalities",
        "settings": {"evaluation": {**evaluation, "statistics": statistics}, "run": {"train": {"epochs": 12}}},
        "versions": {"python": "3.11", "torch": "2.6"},
        "models": models,
        "modalities": list(MODALITIES),
        "dims": widths | {"ecfp": 2048, "pca-512": 512, "random-512": 512, "projection-mean": 512},
        "tasks": [made.task(number, name) for number, name in enumerate(tasks)],
        "tables": tables,
        "comparisons": comparisons,
        "robustness": made.robustness(),
        "modality_value": made.modality_value(),
        "calibration": [] if quick else calibration,
        "subsets": subsets,
        "hiding": [] if quick else made.hiding(),
        "training_rates": [] if quick else made.training_rates(),
        "reconstruction": made.reconstruction(),
        "alignment": made.alignment(),
        "collapse": made.collapse(),
        "imputers": [
            {
                "kind": "ridge",
                "visible": list(v),
                "target": t,
                "alpha": 0.01,
                "rows": 50000,
                "held_rows": 2500,
                "held_mse": [0.5],
            }
            for v in SUBSETS[1:]
            for t in MODALITIES
            if t not in v
        ],
        "choices": [
            {"task": task, "representation": name, "probe": probe, "chosen": found}
            for task in tasks
            for name in MAIN
            for probe, found in chosen.items()
        ],
    }


def history() -> list[dict[str, Any]]:
    """Records as training writes them."""
    return [
        {
            "step": step,
            "rows": step * 512,
            "epoch": step // 18,
            "learning_rate": 1e-3,
            "gradient_norm": 1.0,
            "loss": 2.5 / (1 + step / 40) + 0.4,
            "reconstruction": 1.0 / (1 + step / 60) + 0.2,
            "diversity": 0.08,
            "alignment": 3.0 / (1 + step / 15) + 0.05,
            "hidden_rate": min(0.1 + step / 480, 0.6),
            "attention": {name: [0.45, 0.25, 0.3][i] + 0.0004 * step * (1 - i) for i, name in enumerate(MODALITIES)},
            "gate": {name: 0.5 + (0.001 - 0.0008 * i) * step for i, name in enumerate(MODALITIES)},
            "residual": {name: 0.9 / (1 + step / (90 + 50 * i)) for i, name in enumerate(MODALITIES)},
        }
        for step in range(20, 401, 20)
    ]


def as_written(report: dict[str, Any]) -> dict[str, Any]:
    """As it comes back from a file."""
    return json.loads(json.dumps(report))
