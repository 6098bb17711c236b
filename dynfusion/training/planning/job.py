"""A run as its cost sees it: steps, shapes and bytes, out of settings and manifests."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from dynfusion.fusion.losses import LossSettings
from dynfusion.fusion.masking import MaskingSettings
from dynfusion.fusion.model import ModelSettings
from dynfusion.store.batch_buffers import buffer_bytes
from dynfusion.store.dataset import Dataset
from dynfusion.store.device_gather import blocks_of_a_slab
from dynfusion.store.feed import num_buffers
from dynfusion.store.foresight import least_blocks
from dynfusion.store.manifest import Manifest
from dynfusion.store.order import Order, deal_groups
from dynfusion.training.assemble import START_ROWS, check_shares, make_mixture
from dynfusion.training.config import DataSettings, EngineSettings, TrainSettings
from dynfusion.training.planning.work import Shape, decoded_shares
from dynfusion.training.sources import Sources


@runtime_checkable
class RunParts(Protocol):
    """The parts of a run's settings that its cost depends on."""

    @property
    def data(self) -> DataSettings: ...
    @property
    def model(self) -> ModelSettings: ...
    @property
    def loss(self) -> LossSettings: ...
    @property
    def masking(self) -> MaskingSettings: ...
    @property
    def train(self) -> TrainSettings: ...
    @property
    def engine(self) -> EngineSettings: ...


@dataclass(frozen=True)
class Place:
    """Who works where."""

    workers: int
    nodes: int
    on_gpu: bool

    @property
    def workers_per_node(self) -> int:
        """On the node with the most."""
        return -(-self.workers // self.nodes)


@dataclass(frozen=True)
class Stored:
    """One data set of a run."""

    far: bool
    """On S3, not in a folder."""
    rows: int
    """Training rows."""
    files_bytes: int
    """Of everything beside the manifest: what a cache must hold to keep the data set."""
    shards_bytes: int
    """Of the training rows' shards."""
    num_blocks: int
    block_bytes: int
    least_blocks: int
    """That the busiest worker needs at a time, to stream them."""
    slab_blocks: int
    """That it holds on a GPU at a time when not all rows are kept there, two such slabs."""
    epoch_share: float
    """How often an epoch passes over it."""

    @property
    def blocks_bytes(self) -> int:
        return self.num_blocks * self.block_bytes


@dataclass(frozen=True)
class Job:
    """What the busiest worker of a run does, and for how long."""

    place: Place
    shape: Shape
    """Of its largest micro-batch."""
    micro_batches: int
    worker_rows: int
    """Its rows of one step."""
    global_rows: int
    steps_per_epoch: int
    epochs: int
    skipped_rows: int
    """Rows that an epoch leaves out."""
    buffers: int
    """Batch buffers that go round, of all data sets."""
    stored: tuple[Stored, ...]
    start_rows: int
    """Rows that a principal start looks at; 0 where the weights are random."""

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    @property
    def row_bytes(self) -> int:
        """Of one row in a batch buffer."""
        return buffer_bytes(1, self.shape.dims)


def job_of(run: RunParts, sources: Sources, place: Place) -> Job:
    """The job of a run on these workers.

    Raises ValueError as training would, for batches that cannot be made of this data or shared by so many workers.
    """
    mixture = make_mixture(sources, run.data, run.train)
    for order in mixture.orders:
        check_shares(order, run.train, place.workers)
    groups = max(len(deal_groups(order.num_groups, 0, place.workers)) for order in mixture.orders)
    rows = groups * mixture.rows_per_group
    feed, dims = run.data.feed.shared_by(len(mixture.orders)), sources.datasets[0].manifest.dims
    present = _present_shares([dataset.manifest for dataset in sources.datasets])
    shape = Shape(
        dims=dims,
        model=run.model,
        loss=run.loss,
        precision=run.engine.precision,
        rows=-(-groups // run.train.accumulation) * mixture.rows_per_group,
        group_rows=mixture.rows_per_group,
        decoded=decoded_shares(present, run.loss, run.masking, on_gpu=place.on_gpu),
    )
    lanes = [order.lanes_of(deal_groups(order.num_groups, 0, place.workers)) for order in mixture.orders]
    parts = zip(sources.datasets, mixture.orders, lanes, mixture.shares, strict=True)
    return Job(
        place=place,
        shape=shape,
        micro_batches=run.train.accumulation,
        worker_rows=rows,
        global_rows=run.train.global_batch_rows,
        steps_per_epoch=mixture.steps_per_epoch,
        epochs=run.train.epochs,
        skipped_rows=sum(order.skipped_rows for order in mixture.orders),
        buffers=len(mixture.orders) * num_buffers(rows, dims, feed),
        stored=tuple(_stored(dataset, order, mine, share) for dataset, order, mine, share in parts),
        start_rows=min(START_ROWS, sources.rows) if run.train.start == "principal" else 0,
    )


def _stored(dataset: Dataset, order: Order, lanes: range, steps: int) -> Stored:
    manifest = dataset.manifest
    return Stored(
        far=dataset.remote is not None,
        rows=manifest.rows,
        files_bytes=sum(file.bytes for file in manifest.files),
        shards_bytes=sum(shard.bytes for shard in manifest.shards),
        num_blocks=manifest.layout.num_blocks,
        block_bytes=manifest.geometry.block_bytes,
        least_blocks=least_blocks(order, lanes),
        slab_blocks=blocks_of_a_slab(order, len(lanes)),
        epoch_share=steps / order.steps_per_epoch,
    )


def _present_shares(manifests: Sequence[Manifest]) -> tuple[float, ...]:
    """Share of the training rows in which each modality is present."""
    rows = sum(manifest.rows for manifest in manifests)
    columns = zip(*(manifest.modalities for manifest in manifests), strict=True)
    return tuple(sum(spec.present_rows for spec in column) / rows for column in columns)
