"""What ridge regression makes of the held-out molecules: made once per sweep, read by every trial's validation.

    pool's training rows --> ridge of every (visible subset, absent modality) --+--> squared errors --> reference.json
    held-out rows that a check looks at (held_out.py) --------------------------+

The penalties are chosen on all held-out molecules of the pack, those looked at among them: if anything, that favours
the ridge. Errors are in units of the pack's training statistics, clipped as the fusion model sees them, whatever
statistics the model that is held against them carries.
"""

import json
from dataclasses import asdict, dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from dynfusion.evaluation.held_out import held_out, rows_looked_at, views
from dynfusion.evaluation.representations.imputers import (
    Statistics,
    collect,
    fit_ridge,
    impute,
    ridge_plan,
    standardise_present,
)
from dynfusion.evaluation.representations.pool import read_pool
from dynfusion.evaluation.settings import ImputerSettings
from dynfusion.evaluation.threads import one_thread
from dynfusion.printable import quoted
from dynfusion.store.dataset import Dataset
from dynfusion.store.manifest import Manifest

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
Count = Annotated[int, Field(ge=0)]
NotNegative = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class RidgeError:
    """How far one ridge is off."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    visible: tuple[str, ...]
    target: str
    squared_error: NotNegative
    """Summed over dimensions, mean over `molecules`; in standardised units."""
    molecules: Count
    """Held-out ones that have the target and show something of the subset."""
    alpha: NotNegative
    fitted_rows: Count


@dataclass(frozen=True)
class Reference:
    """Squared errors of ridge regressions on the held-out molecules of one data set."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    dataset: Annotated[str, Field(pattern=r"^[0-9A-Za-z]{1,64}$")]
    """Fingerprint of its manifest."""
    rows: Count
    """Held-out molecules looked at."""
    errors: tuple[RidgeError, ...]

    def squared_errors(self) -> dict[tuple[frozenset[str], str], float]:
        """By (visible subset, absent modality), whatever the order of modalities."""
        return {(frozenset(one.visible), one.target): one.squared_error for one in self.errors}


def fit_reference(dataset: Dataset, settings: ImputerSettings, rows: int) -> Reference:
    """The reference on at most `rows` held-out molecules, the ones that a validation with `validation.rows` looks at.

    Pairs that no such molecule has are left out. Raises ValueError when the pool cannot fit a pair, as `fit_ridge`.
    """
    manifest = dataset.manifest
    statistics, task = pack_statistics(manifest), held_out(dataset, rows)
    pool = read_pool([dataset], modalities=task.modalities, statistics=statistics, max_rows=settings.pool_rows)
    fitted = [fit_ridge(pool, visible, target, settings=settings) for visible, target in ridge_plan(task.modalities)]
    imputers = collect(pool, fitted, settings=settings)
    scaled = standardise_present(task.values, task.present, modalities=task.modalities, statistics=statistics)
    errors = []
    with one_thread():
        for view in views(task):
            guesses = impute(imputers, {name: values[view.rows] for name, values in scaled.items()}, view.visible)
            for target, known in view.hidden(task):
                if not known.any():
                    continue
                error = squared_error(scaled[target][view.rows[known]], guesses[target][known])
                ridge = imputers.ridges[view.shown, target]
                errors.append(RidgeError(view.shown, target, error, int(known.sum()), ridge.alpha, ridge.rows))
    return Reference(manifest.fingerprint, len(task.ids), tuple(errors))


def pack_statistics(manifest: Manifest) -> Statistics:
    """Mean and standard deviation of every modality over the pack's training rows."""
    return {spec.name: (np.asarray(spec.mean), np.asarray(spec.std)) for spec in manifest.modalities}


def squared_error(truth: np.ndarray, guess: np.ndarray) -> float:
    """Summed over dimensions, mean over molecules; of standardised values."""
    return float(np.square(truth - guess, dtype=np.float64).sum(axis=1).mean())


def write(reference: Reference) -> bytes:
    """The reference as JSON."""
    return (json.dumps(asdict(reference), indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()


def read(content: bytes, where: str, *, manifest: Manifest, rows: int) -> Reference:
    """A reference for validation on `rows` held-out molecules of a data set.

    Raises ValueError when it is torn, of another version, or belongs to other data or another number of molecules.
    """
    try:
        found = TypeAdapter(Reference).validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = quoted(".".join(str(part) for part in first["loc"])) or "its content"
        raise ValueError(
            f"validation.reference {where}: not a reference of this version, {place}: {first['msg']}"
        ) from None
    if found.dataset != manifest.fingerprint:
        raise ValueError(
            f"validation.reference {where}: it was made on data set {found.dataset}, allowed is one made on "
            f"{manifest.fingerprint}, the data that are trained on"
        )
    expected = len(rows_looked_at(manifest, rows))
    if found.rows != expected:
        raise ValueError(
            f"validation.reference {where}: it was made on {found.rows} held-out molecules, allowed is one made on the "
            f"{expected} that validation.rows={rows} looks at"
        )
    return found
