"""Where each block of a part lies far away: its shard, its bytes, its checksum."""

import numpy as np

from dynfusion.store.manifest import Manifest
from dynfusion.store.origin import Blocks, Origin, fetch_blocks
from dynfusion.store.part import Part, block_offsets, blocks_of, shards_of


class BlockCatalogue:
    """The blocks of one part by number."""

    def __init__(self, manifest: Manifest, part: Part, table: np.ndarray) -> None:
        """`table` is the table of all blocks. Raises ValueError when it does not fit the manifest."""
        self.offsets = block_offsets(table, manifest, part)
        self.block_bytes = manifest.geometry.block_bytes
        self.slot_bytes = self.block_bytes + self.block_bytes % 2
        self._checksums = blocks_of(table, manifest, part)["crc32"]
        self._paths = [shard.path for shard in shards_of(manifest, part)]
        self._firsts = np.cumsum([0, *(shard.blocks for shard in shards_of(manifest, part))])

    def __len__(self) -> int:
        return len(self.offsets)

    def fetch(self, origin: Origin, block: int, slot: np.ndarray) -> None:
        """The block's bytes into `slot`, verified. Raises ValueError when they cannot be had."""
        shard = int(np.searchsorted(self._firsts, block, "right")) - 1
        within = block - int(self._firsts[shard])
        wanted = Blocks(self._paths[shard], within, int(self.offsets[block]), [int(self._checksums[block])])
        slot[: self.block_bytes] = np.frombuffer(fetch_blocks(origin, wanted, self.block_bytes), np.uint8)
