"""A labelled task as arrays: what a packed, labelled dataset says about its molecules, dropped ones included."""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

from dynfusion.evaluation.tasks.structure import Structure
from dynfusion.store.dataset import Dataset

Kind = Literal["binary", "multiclass", "regression"]
SPLITS = ("train", "valid", "test")
MAX_CLASSES = 20
HASHED_TEST_SHARE = 0.2


@dataclass(frozen=True)
class TaskData:
    """One task; rows are ordered by id, so that nothing depends on how the pack was shuffled."""

    name: str
    ids: np.ndarray
    """[rows] strings."""
    smiles: np.ndarray
    """[rows] strings, empty when unknown."""
    modalities: tuple[str, ...]
    values: dict[str, np.ndarray]
    """Per modality float32 [rows, dim], zero where absent."""
    present: Bool[np.ndarray, "rows modalities"]
    labels: Float[np.ndarray, "rows labels"]
    """NaN where missing; a multiclass label is the class number."""
    label_names: tuple[str, ...]
    kind: Kind
    split: np.ndarray
    """[rows] of "train", "valid" or "test", empty for a row of no part."""
    split_name: str = "given"
    class_names: tuple[str, ...] = ()
    structure: Structure | None = None
    """What RDKit says of the SMILES; None until somebody who may load RDKit has filled it in."""

    def rows(self, part: str) -> np.ndarray:
        """Row numbers of one part of the split, ascending."""
        return np.flatnonzero(self.split == part)

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any value, label, id, split or structure."""
        digest = hashlib.sha256()
        for text in (self.name, self.kind, self.split_name, *self.modalities, *self.label_names, *self.class_names):
            digest.update(text.encode() + b"\0")
        digest.update("\0".join(map(str, self.ids)).encode() + "\0".join(map(str, self.split)).encode())
        for array in (self.present, self.labels, *(self.values[name] for name in self.modalities)):
            digest.update(np.ascontiguousarray(array).tobytes())
        if self.structure is not None:
            digest.update("\0".join((*self.structure.keys.tolist(), *self.structure.scaffolds.tolist())).encode())
            digest.update(self.structure.fingerprints.tobytes())
        return digest.hexdigest()[:16]


def read_task(name: str, dataset: Dataset) -> TaskData:
    """The task in a packed dataset: every molecule of the metadata table, those without any modality included.

    Training and held-out shards are joined: the split of a task is its split column, never the pack's hold-out. Without
    a split column one molecule in five, chosen by a hash of its id, is the test set (`split_name` says "hashed").

    Raises ValueError when the pack has no labels, or when labels or split hold what is not allowed.
    """
    manifest = dataset.manifest
    if not manifest.label_columns:
        raise ValueError(f"task {name}: {dataset.uri} has no label columns, pack it with --table and --labels")
    parts = [dataset.read("train"), dataset.read("holdout")]
    table = pa.concat_tables([dataset.table("train"), dataset.table("holdout"), dataset.table("dropped")])
    dropped = table.num_rows - sum(len(part.present) for part in parts)
    ids = np.array(table["id"].to_pylist(), dtype=str)
    order = np.argsort(ids, kind="stable")
    specs = manifest.modalities
    values = {
        spec.name: _rows_with_dropped([part.values[spec.name] for part in parts], dropped)[order] for spec in specs
    }
    present = np.concatenate([*(part.present for part in parts), np.zeros((dropped, len(specs)), dtype=bool)])[order]
    labels, kind, class_names = label_array(name, table, manifest.label_columns)
    split, split_name = split_array(name, table, manifest.split_column, ids)
    return TaskData(
        name=name,
        ids=ids[order],
        smiles=np.array([text or "" for text in table["smiles"].to_pylist()], dtype=str)[order],
        modalities=tuple(spec.name for spec in specs),
        values=values,
        present=present,
        labels=labels[order],
        label_names=tuple(manifest.label_columns),
        kind=kind,
        split=split[order],
        split_name=split_name,
        class_names=class_names,
    )


def _rows_with_dropped(parts: list[np.ndarray], dropped: int) -> np.ndarray:
    dim = parts[0].shape[1]
    return np.concatenate([*parts, np.zeros((dropped, dim), dtype=np.float16)]).astype(np.float32)


def label_array(name: str, table: pa.Table, columns: tuple[str, ...]) -> tuple[np.ndarray, Kind, tuple[str, ...]]:
    """Labels float64 [rows, columns] with NaN where missing, what kind they are, and the names of classes.

    Raises ValueError when there is no column, a label is infinite, all are missing, or several columns hold classes.
    """
    if not columns:
        raise ValueError(f"task {name}: it has no label column, allowed are data packed with --table and --labels")
    found = [_label_column(table[column].to_pylist()) for column in columns]
    labels = np.stack([numbers for numbers, _ in found], axis=1)
    if np.isinf(labels).any():
        raise ValueError(f"task {name}: a label is infinite, allowed are finite numbers and missing")
    observed = labels[~np.isnan(labels)]
    if len(observed) == 0:
        raise ValueError(f"task {name}: every label in {', '.join(columns)} is missing")
    if np.isin(observed, (0.0, 1.0)).all():
        return labels, "binary", found[0][1]
    classes = np.unique(observed)
    if np.array_equal(classes, np.arange(len(classes))) and len(classes) <= MAX_CLASSES:
        if len(columns) > 1:
            raise ValueError(f"task {name}: {len(columns)} label columns of several classes, allowed is one")
        return labels, "multiclass", found[0][1] or tuple(str(int(value)) for value in classes)
    return labels, "regression", ()


def _label_column(entries: list[Any]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Numbers as they are; strings as the number of their class in alphabetical order, with the classes' names."""
    if not any(isinstance(entry, str) for entry in entries):
        return np.array([np.nan if entry is None else float(entry) for entry in entries], dtype=np.float64), ()
    names = tuple(sorted({entry for entry in entries if entry is not None}))
    number = {text: float(position) for position, text in enumerate(names)}
    return np.array([np.nan if entry is None else number[entry] for entry in entries], dtype=np.float64), names


def split_array(name: str, table: pa.Table, column: str | None, ids: np.ndarray) -> tuple[np.ndarray, str]:
    """[rows] "train", "valid", "test" or empty, and what the split is called: "given", or "hashed" without a column.

    Raises ValueError for anything else in the column, and when no row is for training or for testing.
    """
    if column is None:
        draws = [int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32 for text in ids.tolist()]
        return np.where(np.array(draws) < HASHED_TEST_SHARE, "test", "train"), "hashed"
    split = np.array([entry or "" for entry in table[column].to_pylist()], dtype=str)
    wrong = sorted(set(split.tolist()) - {*SPLITS, ""})
    if wrong:
        raise ValueError(f"task {name}: split column {column} holds {wrong[0]!r}, allowed are {', '.join(SPLITS)}")
    for part in ("train", "test"):
        if part not in split:
            raise ValueError(f"task {name}: split column {column} has no {part} row")
    return split, "given"
