"""The ridge reference against scikit-learn on single molecules, and the models whose skill over it is known."""

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from dynfusion.evaluation.reference import Reference, fit_reference, pack_statistics, read, write
from dynfusion.evaluation.representations.imputers import (
    collect,
    fit_ridge,
    impute,
    ridge_plan,
    standardise,
    standardise_present,
)
from dynfusion.evaluation.representations.pool import read_pool
from dynfusion.evaluation.settings import ImputerSettings
from dynfusion.evaluation.validation import validate
from dynfusion.evaluation.validation_settings import ValidationSettings
from dynfusion.store.dataset import Dataset
from tests.datasets import DIMS, packed

NAMES = tuple(DIMS)
HOW = ImputerSettings(alphas=(0.01,))
SETTINGS = ValidationSettings()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return packed(tmp_path_factory.mktemp("data"), rows=400, holdout=0.15)


@pytest.fixture(scope="module")
def reference(dataset: Dataset) -> Reference:
    return fit_reference(dataset, HOW, SETTINGS.rows)


class Filling:
    """A model that fills in what is hidden by ridge, by the pool's mean or by looking the molecule up."""

    modalities, dims = NAMES, DIMS

    def __init__(self, dataset: Dataset, how: str, order: tuple[str, ...] = NAMES) -> None:
        self.modalities, self.how = order, how
        self.units = pack_statistics(dataset.manifest)
        pool = read_pool([dataset], modalities=order, statistics=self.units, max_rows=HOW.pool_rows)
        self.imputers = collect(
            pool, [fit_ridge(pool, *pair, settings=HOW) for pair in ridge_plan(order)], settings=HOW
        )
        self.known = dataset.read("holdout").values

    def statistics(self) -> Any:
        return self.units

    def encode(self, embeddings: Any, present: Any) -> np.ndarray:
        return np.concatenate([embeddings[name] for name in NAMES], axis=1)

    def reconstruct(self, embeddings: Any, present: Any) -> dict[str, np.ndarray]:
        visible = np.stack([present[name] for name in self.modalities], axis=1)
        if self.how == "truth":
            found = [self._look_up(embeddings, present, row) for row in range(len(visible))]
            return {name: self.known[name][found].astype(np.float32) for name in NAMES}
        scaled = standardise_present(embeddings, visible, modalities=self.modalities, statistics=self.units)
        if self.how == "ridge":
            scaled = impute(self.imputers, scaled, visible)
        mean_and_std = {name: self.units[name] for name in NAMES}
        return {name: (mean + std * scaled[name]).astype(np.float32) for name, (mean, std) in mean_and_std.items()}

    def _look_up(self, embeddings: Any, present: Any, row: int) -> int:
        shown = [name for name in NAMES if present[name][row]]
        return int(
            np.flatnonzero(np.all([(self.known[n] == embeddings[n][row]).all(axis=1) for n in shown], axis=0))[0]
        )


def test_errors_agree_with_scikit_learn_on_single_molecules(dataset: Dataset, reference: Reference) -> None:
    statistics = pack_statistics(dataset.manifest)
    train, held = (dataset.read(part) for part in ("train", "holdout"))

    def scaled(rows: Any, name: str) -> np.ndarray:
        return standardise(rows.values[name], statistics[name]).astype(float)

    def ridge(names: tuple[str, ...], target: str) -> Ridge:
        complete = train.present[:, [NAMES.index(name) for name in (*names, target)]].all(axis=1)
        inputs = np.concatenate([scaled(train, name)[complete] for name in names], axis=1)
        return Ridge(alpha=0.01 * complete.sum()).fit(inputs, scaled(train, target)[complete])

    fitted = {pair: ridge(*pair) for pair in ridge_plan(NAMES)}
    expected: dict[tuple[tuple[str, ...], str], list[float]] = {}
    for names in [chosen for size in (1, 2) for chosen in combinations(NAMES, size)]:
        for row in range(len(held.row_ids)):
            shown = tuple(name for name in names if held.present[row, NAMES.index(name)])
            for target in set(NAMES) - set(names):
                if shown and held.present[row, NAMES.index(target)]:
                    inputs = np.concatenate([scaled(held, name)[row] for name in shown])
                    guess = np.clip(fitted[shown, target].predict(inputs[None])[0], -8, 8)
                    expected.setdefault((names, target), []).append(((scaled(held, target)[row] - guess) ** 2).sum())
    assert len(expected) == len(reference.errors) == 9
    for one in reference.errors:
        assert one.molecules == len(expected[one.visible, one.target])
        assert one.squared_error == pytest.approx(np.mean(expected[one.visible, one.target]), rel=1e-4)
        assert (one.alpha, one.fitted_rows > 200) == (0.01, True)
    assert (reference.dataset, reference.rows) == (dataset.manifest.fingerprint, dataset.manifest.holdout_rows)


@pytest.mark.parametrize("order", [NAMES, NAMES[::-1]])
@pytest.mark.parametrize(("how", "skill"), [("ridge", 0), ("truth", 1)])
def test_the_ridge_itself_has_skill_0_and_the_truth_has_skill_1(
    dataset: Dataset, reference: Reference, how: str, skill: float, order: tuple[str, ...]
) -> None:
    found = validate(Filling(dataset, how, order), dataset, {}, SETTINGS, reference)
    assert found["over_ridge"] == pytest.approx(skill, abs=1e-4)


def test_the_pool_mean_has_the_skill_that_its_errors_say(dataset: Dataset, reference: Reference) -> None:
    statistics, held = pack_statistics(dataset.manifest), dataset.read("holdout")
    skills = []
    for one in reference.errors:
        shown = held.present[:, [NAMES.index(name) for name in one.visible]].any(axis=1)
        rows = np.flatnonzero(shown & held.present[:, NAMES.index(one.target)])
        truth = standardise(held.values[one.target][rows], statistics[one.target])
        skills.append(1 - np.mean([(row.astype(float) ** 2).sum() for row in truth]) / one.squared_error)
    found = validate(Filling(dataset, "mean"), dataset, {}, SETTINGS, reference)
    assert found["over_ridge"] == pytest.approx(np.mean(skills), rel=1e-4)
    assert found["over_ridge"] < -1, "worse than ridge"
    assert found["reconstruction"] == pytest.approx(0, abs=1e-6)


def test_skill_is_in_the_units_of_the_pack_whatever_statistics_the_model_brings(
    dataset: Dataset, reference: Reference
) -> None:
    model = Filling(dataset, "ridge")
    before = validate(model, dataset, {}, SETTINGS, reference)
    model.statistics = lambda: {name: (mean + 1, 3 * std) for name, (mean, std) in model.units.items()}  # type: ignore[method-assign]
    after = validate(model, dataset, {}, SETTINGS, reference)
    assert after["over_ridge"] == before["over_ridge"]
    assert after["reconstruction"] != before["reconstruction"]


def test_a_reference_adds_a_metric_and_changes_no_other(dataset: Dataset, reference: Reference) -> None:
    model = Filling(dataset, "ridge")
    bare = validate(model, dataset, {}, SETTINGS)
    found = validate(model, dataset, {}, SETTINGS, reference)
    assert set(found) - set(bare) == {"over_ridge"}
    assert {name: found[name] for name in bare} == bare


def test_it_is_made_on_the_rows_that_validation_looks_at(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    few, asked = ValidationSettings(rows=20), []
    model, original = Filling(dataset, "ridge"), Dataset.read
    monkeypatch.setattr(
        Dataset, "read", lambda self, part, rows=None: (asked.append((part, rows)), original(self, part, rows))[1]
    )
    made = fit_reference(dataset, HOW, few.rows)
    at_fit = [rows for part, rows in asked if part == "holdout"]
    asked.clear()
    found = validate(model, dataset, {}, few, made)
    ((part, rows),) = asked
    assert part == "holdout"
    assert any(np.array_equal(rows, other) for other in at_fit)
    assert made.rows == len(rows) < dataset.manifest.holdout_rows
    assert found["over_ridge"] == pytest.approx(0, abs=1e-4)


def test_what_was_written_is_read_back(dataset: Dataset, reference: Reference) -> None:
    assert read(write(reference), "here", manifest=dataset.manifest, rows=SETTINGS.rows) == reference


def test_a_reference_of_other_data_or_rows_or_versions_is_refused(
    dataset: Dataset, reference: Reference, tmp_path: Path
) -> None:
    content = write(reference)
    other = packed(tmp_path, rows=400, seed=1, holdout=0.15)
    with pytest.raises(
        ValueError, match=r"^validation\.reference here: it was made on data set \w{32}, allowed is one"
    ):
        read(content, "here", manifest=other.manifest, rows=SETTINGS.rows)
    with pytest.raises(
        ValueError, match=r"made on \d\d held-out molecules, allowed .* the 16 that validation\.rows=20 "
    ):
        read(content, "here", manifest=dataset.manifest, rows=20)
    for wrong, place in (
        (content[:-20], "Invalid JSON"),
        (content.replace(b'"rows"', b'"lines"'), "rows: Field required|lines: Unexpected"),
        (content.replace(b'"squared_error": ', b'"squared_error": -', 1), r"errors\.0\.squared_error: "),
    ):
        with pytest.raises(ValueError, match=rf"here: not a reference of this version, .*({place})"):
            read(wrong, "here", manifest=dataset.manifest, rows=SETTINGS.rows)


def test_by_default_the_penalty_is_the_best_of_the_grid_on_held_rows(dataset: Dataset) -> None:
    alphas = {one.alpha for one in fit_reference(dataset, ImputerSettings(alphas=(1e-3, 1e3)), SETTINGS.rows).errors}
    assert alphas == {1e-3}
