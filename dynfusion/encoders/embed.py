"""Molecules -> a folder of embeddings, by processes.

ids, smiles --chunks of 64 rows--> worker processes --in order--> partial folder --rename--> out
"""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float16, UInt8

from dynfusion.encoders import descriptors, morgan, selfies_ngrams
from dynfusion.encoders.encoded import Encoded, to_float16
from dynfusion.encoders.folder import read_folder, write_lines
from dynfusion.encoders.molecules import Molecules, RowError, canonical_keys
from dynfusion.store.reasons import Reason
from dynfusion.store.whole import written_whole

CHUNK_ROWS = 64


@dataclass(frozen=True)
class Encoder:
    """`encode`: SMILES -> vectors. `description`: one line that identifies them. `needs`: packages it imports."""

    encode: Callable[[Sequence[str]], Encoded]
    description: Callable[[], str]
    needs: tuple[str, ...]


ENCODERS = {
    "morgan": Encoder(morgan.encode, morgan.description, ("rdkit",)),
    "descriptors": Encoder(descriptors.encode, descriptors.description, ("rdkit",)),
    "selfies-ngrams": Encoder(selfies_ngrams.encode, selfies_ngrams.description, ("rdkit", "selfies")),
}


@dataclass(frozen=True)
class Chunk:
    """What comes back for neighbouring rows, as it is stored; a group is empty where the SMILES cannot be read."""

    values: Float16[np.ndarray, "rows dim"]
    reasons: UInt8[np.ndarray, " rows"]
    groups: list[str]


def embed(
    ids: Sequence[str],
    smiles: Sequence[str],
    *,
    encoder: str,
    out: Path,
    workers: int = 1,
    on_bad: Literal["error", "absent"] = "error",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """`out`, a folder as dynfusion.encoders.folder describes it; the same bytes for any number of workers.

    An empty or unreadable SMILES is refused, or with `on_bad="absent"` an absent row with its reason. A molecule that
    the encoder cannot express is an absent row either way. `progress(done, total)` counts rows. When `out` already
    holds the same encoder's embeddings of the same molecules, nothing is computed. With more than one worker a script
    must guard its entry point (`if __name__ == "__main__"`), since the processes are spawned.

    Raises ValueError for an unknown encoder, a missing package, a wrong row (named), or an `out` that holds
    something else; nothing half-written stays behind.
    """
    molecules = Molecules(tuple(ids), tuple(smiles))
    chosen = _encoder(encoder)
    if workers < 1:
        raise ValueError(f"workers: found {workers}, at least 1 is needed")
    if out.exists():
        _check_same(out, molecules, chosen, on_bad=on_bad)
        return out
    with written_whole(out) as partial, _chunks(molecules, encoder, workers) as chunks:
        groups = _write_arrays(partial, molecules, chunks, on_bad=on_bad, progress=progress)
        write_lines(partial / "ids.txt", molecules.ids)
        write_lines(partial / "smiles.txt", molecules.smiles)
        write_lines(partial / "groups.txt", groups)
        write_lines(partial / "encoder.txt", [chosen.description()])
    return out


def encode_chunk(encoder: str, smiles: Sequence[str]) -> Chunk:
    """The work of one process: vectors, reasons and groups of neighbouring rows."""
    values, row_reasons = to_float16(ENCODERS[encoder].encode(smiles))
    empty = np.array([not text for text in smiles])
    row_reasons[empty] = Reason.NOT_GIVEN
    return Chunk(values, row_reasons, [key or "" for key in canonical_keys(smiles)])


def _encoder(name: str) -> Encoder:
    if name not in ENCODERS:
        raise ValueError(f"encoder {name!r}: unknown, allowed are {', '.join(ENCODERS)}")
    for package in ENCODERS[name].needs:
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"encoder {name}: needs the package {package}, install it with pip install dynfusion[chem]"
            )
    return ENCODERS[name]


@contextmanager
def _chunks(molecules: Molecules, encoder: str, workers: int) -> Iterator[Iterator[Chunk]]:
    """Chunks in row order. Processes are spawned, never forked: the caller may run threads (Ray, torch)."""
    pieces = [molecules.smiles[start : start + CHUNK_ROWS] for start in range(0, len(molecules), CHUNK_ROWS)]
    workers = min(workers, len(pieces))
    if workers == 1:
        yield map(encode_chunk, [encoder] * len(pieces), pieces)
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    try:
        yield pool.map(encode_chunk, [encoder] * len(pieces), pieces)
    finally:
        pool.shutdown(cancel_futures=True)


def _write_arrays(
    folder: Path,
    molecules: Molecules,
    chunks: Iterator[Chunk],
    *,
    on_bad: str,
    progress: Callable[[int, int], None] | None,
) -> list[str]:
    """Writes embeddings.npy chunk by chunk, then reasons.npy; the groups of all rows."""
    total = len(molecules)
    values: np.ndarray | None = None
    row_reasons = np.empty(total, np.uint8)
    groups: list[str] = []
    for chunk in chunks:
        start, stop = len(groups), len(groups) + len(chunk.groups)
        groups += chunk.groups
        if on_bad == "error":
            _refuse_unreadable(molecules, chunk.groups, start)
        if values is None:
            shape = (total, chunk.values.shape[1])
            values = np.lib.format.open_memmap(folder / "embeddings.npy", "w+", np.float16, shape)
        values[start:stop], row_reasons[start:stop] = chunk.values, chunk.reasons
        if progress is not None:
            progress(stop, total)
    np.save(folder / "reasons.npy", row_reasons)
    return groups


def _refuse_unreadable(molecules: Molecules, groups: Sequence[str], start: int = 0) -> None:
    if "" not in groups:
        return
    row = start + groups.index("")
    name, text = molecules.ids[row], molecules.smiles[row]
    found = f"SMILES {text!r} cannot be read" if text else "the SMILES is empty"
    raise RowError(f"row {row + 1}, id {name!r}: {found}; correct it, or let such rows be absent with --on-bad absent")


def _check_same(out: Path, molecules: Molecules, encoder: Encoder, *, on_bad: str) -> None:
    """Raises ValueError unless the folder `out` is what `embed` would write there."""
    found = read_folder(out)
    if (found.ids, found.smiles, found.encoder) != (molecules.ids, molecules.smiles, encoder.description()):
        raise ValueError(f"{out}: already exists and holds other embeddings, choose another folder or remove it")
    if on_bad == "error":
        _refuse_unreadable(molecules, found.groups)
