"""SELFIES n-grams: how often each run of one to three SELFIES tokens occurs, hashed into a fixed width.

Source: Krenn et al., SELFIES, Mach. Learn.: Sci. Technol. 2020, 10.1088/2632-2153/aba947. The tokens are those of
RDKit's canonical isomeric SMILES, so the vector does not depend on how the molecule was spelled. SELFIES cannot write
every molecule (an iodine with two bonds, many metal complexes): those rows are absent.
"""

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float32

from dynfusion.encoders.encoded import Encoded, encode_each, log_counts
from dynfusion.encoders.molecules import parse

LONGEST = 3
DIM = 512  # as good under a logistic probe as 1,024 with a few thousand molecules, and easier to reconstruct


def encode(smiles: Sequence[str]) -> Encoded:
    """log(1 + count) of each hashed n-gram, in [0, 12) for any molecule of under 10^5 tokens.

    A molecule that cannot be read, or that SELFIES cannot write, is an absent row.
    """
    return encode_each(smiles, DIM, _vector)


def description() -> str:
    """One line: the encoder's name, parameters and library versions."""
    import rdkit
    import selfies

    versions = f"selfies={selfies.__version__} rdkit={rdkit.__version__}"
    return f"selfies-ngrams n=1..{LONGEST} dim={DIM} hash=crc32 values=log1p(count) {versions}"


def tokens(smiles: str) -> list[str] | None:
    """The SELFIES tokens of a molecule ("CCO" -> ["[C]", "[C]", "[O]"]); None when there are none."""
    import selfies
    from rdkit import Chem

    molecule = parse(smiles)
    if molecule is None:
        return None
    try:
        return list(selfies.split_selfies(selfies.encoder(Chem.MolToSmiles(molecule))))
    except selfies.EncoderError:
        return None


def ngrams(words: Sequence[str]) -> Iterator[str]:
    """Every run of one to three neighbouring tokens, joined; tokens are bracketed, so runs cannot be confused."""
    for length in range(1, LONGEST + 1):
        for start in range(len(words) - length + 1):
            yield "".join(words[start : start + length])


def column(ngram: str) -> int:
    """The column an n-gram is counted in, the same on every machine (Python's own hash differs by process)."""
    return zlib.crc32(ngram.encode()) % DIM


def _vector(smiles: str) -> Float32[np.ndarray, " dim"] | None:
    words = tokens(smiles)
    if words is None:
        return None
    columns = np.fromiter((column(ngram) for ngram in ngrams(words)), np.int64)
    return log_counts(np.bincount(columns, minlength=DIM))
