"""`blocks.bin`: where every block lies and its checksum, 16 bytes a block, memory-mapped.

    16 bytes  "dynfusion blocks"
    then per block, training shards first, little-endian: offset uint64, rows uint32, CRC-32 uint32

390,625 blocks (10^8 rows) as JSON would cost 50-90 MB of memory; here they cost page cache.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dynfusion.store.manifest import Manifest

BLOCK_DTYPE = np.dtype([("offset", "<u8"), ("rows", "<u4"), ("crc32", "<u4")])
_MAGIC = b"dynfusion blocks"


def write_blocks(path: Path, tables: Sequence[np.ndarray]) -> None:
    """The block tables of all shards, one after another."""
    with path.open("wb") as file:
        file.write(_MAGIC)
        for table in tables:
            file.write(np.ascontiguousarray(table, BLOCK_DTYPE).tobytes())


def read_blocks(folder: Path, manifest: Manifest) -> np.ndarray:
    """The table of all blocks [blocks] with fields offset, rows, crc32; a read-only memory map.

    Raises ValueError when the file is missing or does not have one entry per block.
    """
    path = folder / manifest.blocks.path
    expected = sum(shard.blocks for shard in (*manifest.shards, *manifest.holdout_shards))
    size = path.stat().st_size if path.is_file() else 0
    if size != len(_MAGIC) + expected * BLOCK_DTYPE.itemsize:
        raise ValueError(f"{path}: found {size} bytes, the manifest's {expected} blocks need another size")
    return np.memmap(path, BLOCK_DTYPE, mode="r", offset=len(_MAGIC), shape=(expected,))


def parse_blocks(content: bytes) -> np.ndarray:
    """The same table from the bytes of a whole `blocks.bin`."""
    return np.frombuffer(content, BLOCK_DTYPE, offset=len(_MAGIC))


def wrong_checksum(shard: str | Path, block: int) -> str:
    """The sentence about a damaged block of the shard at this address."""
    return (
        f"shard {shard}: the checksum of block {block} is wrong, the file is damaged; "
        "`dynfusion verify` names all that is, copy or pack the data set again"
    )
