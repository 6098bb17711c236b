"""What a second process does in the tests of shared caches; it imports no torch, so that it starts quickly."""

import hashlib
from multiprocessing.queues import Queue

import numpy as np

from dynfusion.edges.object_store import ObjectStore
from dynfusion.edges.s3_address import S3Address
from dynfusion.store.dataset import Dataset, open_dataset
from dynfusion.store.order import Order, Position, deal_groups
from dynfusion.store.origin import CacheSettings, Remote


def remote_dataset(endpoint: str, bucket: str, cache: CacheSettings, processes: int) -> Dataset:
    """The data set under `set` in the bucket."""
    store = ObjectStore(S3Address(bucket, "set", endpoint), stall_seconds=60.0)
    return open_dataset(f"s3://{bucket}/set", Remote(store, cache, processes))


def epoch_digest(dataset: Dataset, rank: int, world_size: int) -> str:
    """A digest of every byte that one rank reads in the first epoch, in its order."""
    order = Order(dataset.manifest.layout, dataset.manifest.fingerprint, 5, 64)
    lanes = order.lanes_of(deal_groups(order.num_groups, rank, world_size))
    part, digest = dataset.part_along(order, lanes, Position(0, 0)), hashlib.sha256()
    for step in range(order.steps_per_epoch):
        rows = order.rows(0, step, lanes)
        with part.held(rows, Position(0, step)):
            starts, place = part.starts(rows)
            for modality in range(len(part.dims)):
                digest.update(np.ascontiguousarray(part.values(modality)[part.value_index(starts, place, modality)]))
                digest.update(part.presence(starts, place, modality))
    part.close()
    return digest.hexdigest()


def read_rank(endpoint: str, bucket: str, cache: CacheSettings, rank: int, answers: "Queue[tuple[int, str]]") -> None:
    """One of two ranks, in a process of its own."""
    answers.put((rank, epoch_digest(remote_dataset(endpoint, bucket, cache, 2), rank, 2)))


def read_all(endpoint: str, bucket: str, cache: CacheSettings) -> None:
    """Everything, until somebody kills this process."""
    epoch_digest(remote_dataset(endpoint, bucket, cache, 1), 0, 1)
