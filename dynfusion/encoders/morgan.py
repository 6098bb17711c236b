"""Morgan counts: how often each circular neighbourhood occurs, hashed into a fixed width.

Source: Rogers and Hahn, Extended-Connectivity Fingerprints, J. Chem. Inf. Model. 2010, 10.1021/ci100050t, as RDKit's
Morgan generator computes it (radius 2 is their ECFP4, without chirality); counts instead of bits.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float32

from dynfusion.encoders.encoded import Encoded, encode_each, log_counts
from dynfusion.encoders.molecules import parse

RADIUS = 2
DIM = 512  # as good under a logistic probe as 1,024 and 2,048 with a few thousand molecules, and easier to reconstruct


def encode(smiles: Sequence[str]) -> Encoded:
    """log(1 + count) of each hashed neighbourhood, in [0, 12) for any molecule of under 10^5 atoms.

    An unreadable SMILES is an absent row.
    """
    return encode_each(smiles, DIM, _vector)


def description() -> str:
    """One line: the encoder's name, parameters and library versions."""
    import rdkit

    return f"morgan radius={RADIUS} dim={DIM} values=log1p(count) rdkit={rdkit.__version__}"


def _vector(smiles: str) -> Float32[np.ndarray, " dim"] | None:
    molecule = parse(smiles)
    return None if molecule is None else log_counts(_generator().GetCountFingerprintAsNumPy(molecule))


@lru_cache(maxsize=1)
def _generator() -> Any:
    from rdkit.Chem import rdFingerprintGenerator

    return rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=DIM)
