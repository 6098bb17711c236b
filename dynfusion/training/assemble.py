"""From a packed data set and settings to the parts of the loop: order, plan, objective."""

import torch

from dynfusion.fusion.losses import LossSettings
from dynfusion.fusion.masking import MaskingSettings
from dynfusion.fusion.model import FusionNetwork, ModelSettings
from dynfusion.fusion.objective import FusionObjective
from dynfusion.store.manifest import Manifest
from dynfusion.store.order import Order, Position, deal_groups
from dynfusion.training.config import DataSettings, TrainSettings
from dynfusion.training.loop import Plan


def make_objective(manifest: Manifest, model: ModelSettings, loss: LossSettings, *, seed: int) -> FusionObjective:
    """Network and losses for the data set's modalities, its statistics in the buffers, weights drawn from `seed`."""
    torch.manual_seed(seed)
    network = FusionNetwork({spec.name: spec.dim for spec in manifest.modalities}, model)
    network.set_statistics({spec.name: (spec.mean, spec.std) for spec in manifest.modalities})
    return FusionObjective(network, loss)


def make_order(manifest: Manifest, data: DataSettings, train: TrainSettings) -> Order:
    """The order of the data set for this batch size and seed.

    Raises ValueError when an epoch would hold no whole global batch.
    """
    order = Order(manifest.layout, manifest.fingerprint, train.seed, train.global_batch_rows, data.group_rows)
    if order.steps_per_epoch == 0:
        raise ValueError(
            f"train.global_batch_rows: found {train.global_batch_rows}, the data set {data.uri} has "
            f"{manifest.rows} training rows, allowed is at most that"
        )
    return order


def make_plan(order: Order, train: TrainSettings, masking: MaskingSettings) -> Plan:
    """What the run does in all."""
    return Plan(train=train, masking=masking, order=order)


def check_shares(order: Order, train: TrainSettings, world_size: int) -> None:
    """Whether every worker gets whole contrast groups, and one for each of its micro-batches.

    Raises ValueError naming the setting otherwise.
    """
    fewest = min(len(deal_groups(order.num_groups, rank, world_size)) for rank in range(world_size))
    if train.accumulation > fewest:
        raise ValueError(
            f"train.accumulation: found {train.accumulation}, allowed is at most {fewest}, since {world_size} workers "
            f"share {order.num_groups} contrast groups of {order.rows_per_group} rows and none is split"
        )


def position_of(plan: Plan, step: int) -> Position:
    """Where the feed stands before step `step` of the run."""
    epoch, within = divmod(step, plan.steps_per_epoch)
    return Position(epoch, within)
