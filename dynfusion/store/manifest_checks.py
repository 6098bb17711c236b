"""What must fit together in a manifest before anything that it says is used as a size or a place in a file."""

from collections.abc import Sequence
from itertools import pairwise

ShardSizes = tuple[int, int, int]
"""Rows, blocks and bytes of a shard."""


def check_numbers(dim: int, columns: dict[str, int]) -> None:
    """Raise ValueError unless each of these columns, by name, has `dim` entries."""
    for name, count in columns.items():
        if count != dim:
            raise ValueError(f"found {count} numbers in {name}, allowed are as many as dim, {dim}")


def check_geometry(
    starts: tuple[int, int], validity: Sequence[int], values: Sequence[int], dims: Sequence[int], block_rows: int
) -> None:
    """Raise ValueError unless presence and values of every modality lie within a block, and apart.

    `starts` are the first block's first byte and the bytes of a block.
    """
    first_block, block_bytes = starts
    if not len(validity) == len(values) == len(dims):
        raise ValueError(
            f"found {len(validity)} validity_offsets and {len(values)} values_offsets, allowed is one for each of "
            f"{len(dims)} modalities"
        )
    if first_block % 2 or block_bytes % 2:
        raise ValueError(f"found blocks of {block_bytes} bytes from byte {first_block} on, allowed are even numbers")
    places = [(start, start + -(-block_rows // 8)) for start in validity]
    places += [(start, start + 2 * block_rows * dim) for start, dim in zip(values, dims, strict=True)]
    if min(start for start, _ in places) < 0 or max(end for _, end in places) > block_bytes:
        raise ValueError(f"found offsets that lead out of a block, allowed are places within its {block_bytes} bytes")
    if any(start % 2 for start in values):
        raise ValueError("found a values_offset that is odd, allowed are even ones")
    if any(end > start for (_, end), (start, _) in pairwise(sorted(places))):
        raise ValueError("found offsets that make presence or values of two modalities lie over each other")


def check_part(name: str, rows: int, block_rows: int, starts: tuple[int, int], shards: Sequence[ShardSizes]) -> None:
    """Raise ValueError unless the shards of a part have its rows, in whole blocks but for its last, and room for them.

    `starts` as for `check_geometry`.
    """
    found = sum(shard_rows for shard_rows, _, _ in shards)
    if found != rows:
        raise ValueError(f"found {name} of {found} rows, the manifest says {rows}")
    for number, (shard_rows, blocks, size) in enumerate(shards):
        if blocks != -(-shard_rows // block_rows) or (shard_rows % block_rows and number < len(shards) - 1):
            raise ValueError(
                f"found {name}.{number} of {shard_rows} rows in {blocks} blocks, allowed are whole blocks of "
                f"{block_rows} rows but for the last one of all"
            )
        if size < starts[0] + blocks * starts[1]:
            raise ValueError(f"found {name}.{number} of {size} bytes, its {blocks} blocks need more")


def check_different(what: str, names: Sequence[str]) -> None:
    """Raise ValueError when a name stands twice."""
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise ValueError(f"found {what} {twice[0]!r} twice, each may stand once")


def check_rows(what: str, pairs: Sequence[tuple[int, int]]) -> None:
    """Raise ValueError unless the files of a kind have as many rows as they must: pairs of (needed, found)."""
    for needed, found in pairs:
        if found != needed:
            raise ValueError(f"found {what} of {found} rows, allowed are {needed}")
