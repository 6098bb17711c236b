"""What a run reads from an object store, and the cache that would spare it: bytes by epoch, from manifests alone.

    a cache that holds the data sets    every node brings every shard once
    a smaller one, or none              every epoch brings every block, but for the share that a worker still has

A worker reads other blocks every epoch, so what it still has of the last one is as likely to be needed as any.
"""

from dataclasses import dataclass

from dynfusion.store.origin import CacheSettings
from dynfusion.training.planning.job import Job, Stored


@dataclass(frozen=True)
class Reading:
    """Bytes from the store by all nodes together, and what the cache has to do with it."""

    far: bool
    """Whether anything lies in a store."""
    first_epoch_bytes: float
    later_epoch_bytes: float
    cache_needed_bytes: int
    """For a node to keep the data sets, so that a store is read once."""
    cache_bytes: int
    """What `data.cache_bytes` allows it; 0 without `data.cache_dir`."""
    streaming_bytes: int
    """Memory, or room in a cache that is too small, for the blocks of a worker's coming steps."""

    def total_bytes(self, epochs: int) -> float:
        """Of the whole run."""
        return self.first_epoch_bytes + (epochs - 1) * self.later_epoch_bytes


def reading(job: Job, cache: CacheSettings) -> Reading:
    """What a run reads from afar; nothing of local data sets."""
    far = [stored for stored in job.stored if stored.far]
    needed = sum(stored.files_bytes for stored in far)
    allowed = cache.cache_bytes if far and cache.cache_dir is not None else 0
    whole = needed <= allowed
    share = allowed // job.place.workers_per_node
    if whole:
        first, later = float(job.place.nodes * sum(stored.shards_bytes for stored in far)), 0.0
    else:
        first = sum(stored.epoch_share * stored.blocks_bytes for stored in far)
        later = sum(stored.epoch_share * stored.blocks_bytes * (1 - _kept(stored, share)) for stored in far)
    return Reading(
        far=bool(far),
        first_epoch_bytes=first,
        later_epoch_bytes=later,
        cache_needed_bytes=needed,
        cache_bytes=allowed,
        streaming_bytes=0 if whole else sum(slots(stored, share) * stored.block_bytes for stored in far),
    )


def slots(stored: Stored, share_bytes: int) -> int:
    """Blocks that a worker holds of a data set that it streams, given its share of a cache, 0 without one."""
    if not share_bytes:
        return min(2 * stored.least_blocks, stored.num_blocks)
    return min(max(share_bytes // stored.block_bytes, stored.least_blocks), stored.num_blocks)


def _kept(stored: Stored, share_bytes: int) -> float:
    """Share of all blocks that a worker still has from the epoch before, beside those that it is reading."""
    return max(0, slots(stored, share_bytes) - 2 * stored.least_blocks) / stored.num_blocks
