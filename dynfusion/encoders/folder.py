"""The folder an encoder writes and `pack` reads, row for row:

embeddings.npy  float16 [rows, dim], an absent row is NaN throughout
reasons.npy     uint8 [rows], why a row is absent (dynfusion.store.reasons)
ids.txt         one id a line
smiles.txt      one SMILES a line as it was given, empty where none was
groups.txt      one stereo-free canonical SMILES a line, empty where the SMILES cannot be read
encoder.txt     one line: the encoder's name, parameters and library versions
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float16, UInt8

from dynfusion.store.npy_files import array_header
from dynfusion.store.reasons import Reason
from dynfusion.store.source import first_line
from dynfusion.store.whole import written_whole


@dataclass(frozen=True)
class EmbeddingFolder:
    """A folder read back; `values` is a read-only memory map."""

    ids: tuple[str, ...]
    smiles: tuple[str, ...]
    groups: tuple[str, ...]
    values: Float16[np.ndarray, "rows dim"]
    reasons: UInt8[np.ndarray, " rows"]
    encoder: str


def write_lines(path: Path, lines: Sequence[str]) -> None:
    """UTF-8 text, one entry a line."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def read_lines(path: Path) -> tuple[str, ...]:
    """The entries that `write_lines` wrote. Raises ValueError when the file is missing."""
    try:
        return tuple(path.read_text(encoding="utf-8").split("\n")[:-1])
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text, byte {error.start} is wrong") from None
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file, expected a folder as `dynfusion embed` writes it") from None


def read_folder(folder: Path) -> EmbeddingFolder:
    """Raises ValueError naming the file when one is missing or its rows disagree with ids.txt."""
    ids, smiles, groups = (read_lines(folder / f"{name}.txt") for name in ("ids", "smiles", "groups"))
    encoder = read_lines(folder / "encoder.txt")
    values, row_reasons = (_read_array(folder / f"{name}.npy") for name in ("embeddings", "reasons"))
    columns = {"smiles.txt": smiles, "groups.txt": groups, "embeddings.npy": values, "reasons.npy": row_reasons}
    for name, array, kind, axes in (("embeddings.npy", values, "float16", 2), ("reasons.npy", row_reasons, "uint8", 1)):
        if array.dtype.name != kind or array.ndim != axes:
            raise ValueError(
                f"{folder / name}: {array.dtype.name} of shape {array.shape}, allowed is {kind} of {axes} axes"
            )
    for name, column in columns.items():
        if len(column) != len(ids):
            raise ValueError(f"{folder / name}: {len(column)} rows, but ids.txt in the same folder has {len(ids)}")
    return EmbeddingFolder(ids, smiles, groups, values, np.asarray(row_reasons), "".join(encoder))


def copy_without(folder: Path, rows: Bool[np.ndarray, " rows"], *, out: Path) -> Path:
    """`out`: a copy of the folder in which the present ones of these rows are absent, "dropped on purpose".

    Raises ValueError when `out` exists.
    """
    source = read_folder(folder)
    dropped = rows & (source.reasons == Reason.PRESENT)
    with written_whole(out) as partial:
        for name in ("ids.txt", "smiles.txt", "groups.txt", "encoder.txt"):
            shutil.copyfile(folder / name, partial / name)
        np.save(partial / "embeddings.npy", np.where(dropped[:, None], np.float16(np.nan), source.values))
        np.save(partial / "reasons.npy", np.where(dropped, np.uint8(Reason.DROPPED), source.reasons))
    return out


def _read_array(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            array_header(file)
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file, expected a folder as `dynfusion embed` writes it") from None
    except (EOFError, OverflowError, ValueError) as error:  # the second for a shape below zero
        raise ValueError(f"{path}: not readable as a NumPy array, {first_line(error)}") from None
