"""From packed data sets and settings to the parts of the loop: order, plan, objective."""

from collections.abc import Sequence

import numpy as np
import torch

from dynfusion.fusion.losses import LossSettings
from dynfusion.fusion.masking import MaskingSettings
from dynfusion.fusion.model import FusionNetwork, ModelSettings
from dynfusion.fusion.objective import FusionObjective
from dynfusion.fusion.principal import start_at_principal_directions
from dynfusion.store.manifest import Manifest, ModalitySpec
from dynfusion.store.order import Order, Position, deal_groups
from dynfusion.training.config import DataSettings, TrainSettings
from dynfusion.training.loop import Plan
from dynfusion.training.mixture import Mixture
from dynfusion.training.sources import Sources

START_ROWS = 16_384


def make_objective(
    modalities: Sequence[ModalitySpec], model: ModelSettings, loss: LossSettings, *, seed: int
) -> FusionObjective:
    """Network and losses for these modalities, their statistics in the buffers, weights drawn from `seed`."""
    torch.manual_seed(seed)
    network = FusionNetwork({spec.name: spec.dim for spec in modalities}, model)
    network.set_statistics({spec.name: (spec.mean, spec.std) for spec in modalities})
    return FusionObjective(network, loss)


def begin(network: FusionNetwork, sources: Sources, train: TrainSettings) -> None:
    """Set the weights that `train.start` asks for, from the data sets' first rows (a pack is shuffled)."""
    if train.start == "random":
        return
    rows = [dataset.read("train", slice(0, -(-START_ROWS // len(sources.datasets)))) for dataset in sources.datasets]
    values = [torch.from_numpy(np.concatenate([part.values[name] for part in rows])) for name in network.modalities]
    present = torch.from_numpy(np.concatenate([part.present for part in rows]))
    start_at_principal_directions(network, values, present, seed=train.seed)


def start_from(network: FusionNetwork, trained: FusionNetwork, folder: str) -> None:
    """Give a network the weights of a trained one, and the statistics that those weights were learned with.

    Raises ValueError when the two are not built alike.
    """
    mine, theirs = (
        {"modalities": dict(built.widths), **built.settings.model_dump(exclude={"completion"})}
        for built in (network, trained)
    )
    for name, value in mine.items():
        if theirs[name] != value:
            raise ValueError(
                f"setting train.init: the model in {folder} has {name} {theirs[name]!r}, this run {value!r}"
            )
    network.load_state_dict(trained.state_dict())


def make_order(manifest: Manifest, data: DataSettings, train: TrainSettings) -> Order:
    """The order of one data set for this batch size and seed.

    Raises ValueError when an epoch would hold no whole global batch.
    """
    order = Order(manifest.layout, manifest.fingerprint, train.seed, train.global_batch_rows, data.group_rows)
    if order.steps_per_epoch == 0:
        raise ValueError(
            f"train.global_batch_rows: found {train.global_batch_rows}, the data set {', '.join(data.uris)} has "
            f"{manifest.rows} training rows, allowed is at most that"
        )
    return order


def make_mixture(sources: Sources, data: DataSettings, train: TrainSettings) -> Mixture:
    """The orders of all data sets of a run.

    Raises ValueError as `make_order`, and when their contrast groups cannot have the same number of rows.
    """
    orders = tuple(make_order(dataset.manifest, data, train) for dataset in sources.datasets)
    sizes = sorted({order.rows_per_group for order in orders})
    if len(sizes) > 1:
        raise ValueError(
            f"setting data.group_rows: left open, the data sets would get contrast groups of {sizes} rows, name one "
            "number that fits them all"
        )
    return Mixture(orders, sources.weights)


def make_plan(order: Order | Mixture, train: TrainSettings, masking: MaskingSettings) -> Plan:
    """What the run does in all; a single order is a mixture of one."""
    return Plan(train, masking, order if isinstance(order, Mixture) else Mixture((order,), (1.0,)))


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
