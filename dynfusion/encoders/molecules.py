"""Molecules as text: what a list of them must satisfy, how one is read, and the key that makes two spellings one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


class RowError(ValueError):
    """One row is wrong; the sentence begins with "row N", so that a caller who knows the file can put it in front."""


@dataclass(frozen=True)
class Molecules:
    """Row for row: an id, unique and not empty, and a SMILES text (empty where none was given).

    Raises RowError when an id is empty, repeated or holds a line break, or when a SMILES holds one; rows count from 1.
    Raises ValueError when there is no row at all.
    """

    ids: tuple[str, ...]
    smiles: tuple[str, ...]

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.smiles), (len(self.ids), len(self.smiles))
        if not self.ids:
            raise ValueError("no molecule found, at least one row is needed")
        first_row: dict[str, int] = {}
        for row, (name, text) in enumerate(zip(self.ids, self.smiles, strict=True), start=1):
            if not name:
                raise RowError(f"row {row}: the id is empty, every molecule needs one")
            if len(name.splitlines()) > 1 or len(text.splitlines()) > 1:
                raise RowError(f"row {row}: id {name!r} or SMILES {text!r} holds a line break, which is not allowed")
            if name in first_row:
                raise RowError(f"row {row}: id {name!r} was already used in row {first_row[name]}, ids must be unique")
            first_row[name] = row

    def __len__(self) -> int:
        return len(self.ids)


@contextmanager
def quiet_rdkit() -> Iterator[None]:
    """RDKit writes no log lines inside the `with`, and logs as before after it."""
    from rdkit import rdBase

    with rdBase.BlockLogs():
        yield


def parse(smiles: str) -> Any | None:
    """The RDKit molecule of a SMILES; None when it cannot be read or has no atom.

    Text behind the SMILES ("CCO ethanol") makes it unreadable rather than being dropped: a mistaken blank would
    otherwise silently cut a molecule in two. CXSMILES extensions are allowed.
    """
    from rdkit import Chem

    parameters: Any = Chem.SmilesParserParams()
    parameters.parseName = False
    with quiet_rdkit():
        molecule = Chem.MolFromSmiles(smiles, parameters)
    return molecule if molecule is not None and molecule.GetNumAtoms() > 0 else None


def canonical_key(smiles: str) -> str | None:
    """Canonical SMILES without stereochemistry and isotopes: equal for all spellings and stereoisomers of a molecule.

    None when the SMILES cannot be read.
    """
    molecule = parse(smiles)
    return None if molecule is None else key_of(molecule)


def canonical_keys(smiles: Sequence[str]) -> list[str | None]:
    """`canonical_key` of each."""
    return [canonical_key(text) for text in smiles]


def key_of(molecule: Any) -> str:
    """`canonical_key` of a molecule that RDKit has read already."""
    from rdkit import Chem

    return str(Chem.MolToSmiles(molecule, isomericSmiles=False))
