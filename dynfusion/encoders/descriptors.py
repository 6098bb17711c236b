"""RDKit's 2D descriptors: about two hundred computed properties, brought into float16's range, and a flag.

`Ipc` and `AvgIpc` are left out: `Ipc` grows exponentially with the atoms (beyond 1e20 for drugs), and both come from
the coefficients of a characteristic polynomial, which cancel so badly for large molecules that the same molecule gives
another second digit from process to process (seen on 11 of 9,413): no reproducible run can stand on that.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from dynfusion.encoders.encoded import Encoded, encode_each
from dynfusion.encoders.molecules import parse, quiet_rdkit

LEFT_OUT = ("Ipc", "AvgIpc")


def encode(smiles: Sequence[str]) -> Encoded:
    """sign(x) log(1 + |x|) of each descriptor x, in (-710, 710), then a flag: 1 when one could not be computed, else 0.

    A descriptor that could not be computed or is not finite (no partial charges for a metal, say) becomes the fixed
    value 0; the row stays present. A row is absent when the SMILES cannot be read or no descriptor is finite.
    """
    return encode_each(smiles, len(names()) + 1, _vector)


def description() -> str:
    """One line: the encoder's name, parameters and library versions."""
    import rdkit

    return (
        f"descriptors dim={len(names()) + 1} without={','.join(LEFT_OUT)} values=signed-log1p rdkit={rdkit.__version__}"
    )


def names() -> tuple[str, ...]:
    """The descriptors in the order of their columns; the flag's column follows the last."""
    return tuple(name for name, _ in _descriptors())


def signed_log(values: Float64[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """sign(x) log(1 + |x|): monotone, odd, close to x near 0, and inside float16's range for any finite double."""
    return (np.sign(values) * np.log1p(np.abs(values))).astype(np.float32)


def with_flag(raw: Float64[np.ndarray, " descriptors"]) -> Float32[np.ndarray, " dim"] | None:
    """The vector of raw descriptor values: imputed, compressed, and the flag behind them; None when none is finite."""
    finite = np.isfinite(raw)
    if not finite.any():
        return None
    return np.append(signed_log(np.where(finite, raw, 0.0)), np.float32(not finite.all()))


def _vector(smiles: str) -> Float32[np.ndarray, " dim"] | None:
    molecule = parse(smiles)
    if molecule is None:
        return None
    with quiet_rdkit():
        return with_flag(np.array([_value(function, molecule) for _, function in _descriptors()], np.float64))


def _value(function: Callable[[Any], float], molecule: Any) -> float:
    try:
        return float(function(molecule))
    except (ArithmeticError, RuntimeError, ValueError):  # what RDKit raises when a descriptor has no value
        return float("nan")


@lru_cache(maxsize=1)
def _descriptors() -> tuple[tuple[str, Callable[[Any], float]], ...]:
    from rdkit.Chem import Descriptors

    return tuple((name, function) for name, function in Descriptors.descList if name not in LEFT_OUT)
