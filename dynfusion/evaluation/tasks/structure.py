"""What the atoms of a task's molecules say: which rows are one molecule, which share a scaffold, ECFP counts."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8


@dataclass(frozen=True)
class Structure:
    """Row for row of a task; `dynfusion.encoders.structure` makes it, since only that layer knows RDKit."""

    keys: np.ndarray
    """[rows] canonical SMILES without stereochemistry and isotopes, "" where the SMILES cannot be read."""
    scaffolds: np.ndarray
    """[rows] Bemis-Murcko scaffold as SMILES without stereochemistry, "" for acyclic and unreadable molecules."""
    heavy_atoms: Int64[np.ndarray, " rows"]
    """0 where unreadable."""
    fingerprints: UInt8[np.ndarray, "rows bits"]
    """ECFP4 counts, clipped at 255; zero where unreadable."""

    def __post_init__(self) -> None:
        lengths = {len(self.keys), len(self.scaffolds), len(self.heavy_atoms), len(self.fingerprints)}
        assert len(lengths) == 1, lengths

    @property
    def readable(self) -> np.ndarray:
        """[rows] whether the SMILES could be read."""
        return self.keys != ""


def scaffold_groups(structure: Structure) -> np.ndarray:
    """[rows] the name of the group that must not be cut by a split.

    That is the scaffold; an acyclic molecule has none and its key is the group; what cannot be read stands alone.
    Molecules of one key are in one group either way. An acyclic key has no ring and a scaffold has one, so the two
    never meet.
    """
    alone = np.array([f"row {row}" for row in range(len(structure.keys))], dtype=str)
    named = np.where(structure.scaffolds != "", structure.scaffolds, structure.keys)
    return np.where(structure.readable, named, alone)
