"""How a pack is cut into jobs so that it stays within its memory; none of these numbers changes a byte of the pack."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dynfusion.store.mapped_rows import MappedRows
from dynfusion.store.source import Piece
from dynfusion.store.sources import Source
from dynfusion.store.table import Table

_PROGRAM_BYTES = 300 << 20
_BUCKET_BYTES = 32 << 20
_CHUNK_BYTES = 16 << 20
_BUCKETS = 1024
_RUN_BYTES = 64 << 10
_JOB_BYTES = 32 << 20
_JOBS = 256
_CHUNK_ROWS = 1 << 18
_TEXT_BYTES = 400
"""About what a row's id, texts and places take while a bucket is joined."""


@dataclass(frozen=True)
class Plan:
    """`num_buckets` of the first pass, and the rows read at a time of each source (the table's come last)."""

    num_buckets: int
    chunk_rows: tuple[int, ...]


def mappable_bytes(memory_bytes: int) -> int:
    """How much of the memory files that stay where they lie may take: what the jobs need is left."""
    return max(memory_bytes - _PROGRAM_BYTES, 0) * 7 // 8


def make_plan(
    sources: Sequence[Source], table: Table | None, mapped: Mapping[str, MappedRows], *, memory_bytes: int, threads: int
) -> Plan:
    """Buckets and chunks so small that `threads` jobs at a time stay within the memory (what the program itself takes
    and `mapped` files are set aside first), and chunks so large that a bucket's run in one is worth a read."""
    memory_bytes -= sum(found.vectors.bytes for found in mapped.values())
    share = max(memory_bytes - _PROGRAM_BYTES, memory_bytes // 4) // threads
    parts: list[tuple[int, tuple[Piece, ...]]] = [(source.dim, source.pieces) for source in sources]
    if table is not None:
        parts.append((0, table.pieces))
    widths = [0 if source.name in mapped else 2 * source.dim for source in sources] + [0]
    total = sum(
        sum(_rows(piece, dim) for piece in pieces) * (width + _TEXT_BYTES)
        for width, (dim, pieces) in zip(widths, parts, strict=False)
    )
    num_buckets = max(-(-total // min(max(_BUCKET_BYTES, total // _BUCKETS), share // 4)), 1)
    chunk_bytes = max(_CHUNK_BYTES, num_buckets * _RUN_BYTES)
    chunk_rows = (
        min(share // (20 * dim + 2 * _TEXT_BYTES), chunk_bytes // (2 * dim + 64), _CHUNK_ROWS) for dim, _ in parts
    )
    return Plan(num_buckets, tuple(max(rows, 64) for rows in chunk_rows))


def group_pieces(pieces: Sequence[Piece]) -> tuple[tuple[Piece, ...], ...]:
    """Neighbouring pieces that one job reads: few enough jobs that every bucket can open what each has left.

    Pieces of a packed dataset and of its new sources are never read by one job.
    """
    target = max(_JOB_BYTES, sum(piece.bytes for piece in pieces) // _JOBS)
    groups: list[list[Piece]] = []
    size = target
    for piece in pieces:
        if size >= target or groups[-1][-1].packed != piece.packed:
            groups.append([])
            size = 0
        groups[-1].append(piece)
        size += piece.bytes
    return tuple(tuple(group) for group in groups)


def rows_known(pieces: Sequence[Piece]) -> int:
    """Rows of the pieces that say so before they are read."""
    return sum(piece.rows or 0 for piece in pieces)


def _rows(piece: Piece, dim: int) -> int:
    """The piece's rows; of a file that does not say, a guess from its bytes that is rather too many."""
    return piece.rows if piece.rows is not None else piece.bytes // max(2 * dim, 16) + 1
