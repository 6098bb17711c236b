"""What the loop needs from an engine, and the plain one: torch, with or without a process group.

Engines mean the same thing. Each rank backpropagates `world_size * coefficients @ totals`, gradients are averaged over
ranks, and so the applied gradient is that of `coefficients @ sum of totals`, whatever the world size and however many
micro-batches. Clipping and learning rate are given, never an engine's own default.
"""

from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn

from dynfusion.fusion.batch import Batch
from dynfusion.fusion.objective import FusionObjective
from dynfusion.training.config import EngineSettings, TrainSettings
from dynfusion.training.host_memory import keep_freed_memory
from dynfusion.training.plain_state import read_plain

OPTIMIZER_FILE = "optimizer.pt"


@runtime_checkable
class Engine(Protocol):
    """Backward passes, optimizer steps and sums over ranks. Every method but the properties is called on all ranks."""

    rank: int
    world_size: int
    device: torch.device

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The objective's (totals, observations) for one micro-batch."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one micro-batch's share of the loss."""

    def step(self, learning_rate: float) -> Float[Tensor, ""]:
        """Average gradients over ranks, clip, update, forget them. Returns the gradient's norm before clipping, on the
        device: nothing here waits for it.
        """

    def sum(self, vector: Float[Tensor, " entries"]) -> Float[Tensor, " entries"]:
        """The vector summed over ranks; its argument stays as it was."""

    def weights(self) -> dict[str, Tensor]:
        """The objective's full state, on the CPU; filled on rank 0 at least."""

    def save(self, folder: Path) -> None:
        """Write this rank's part of what `load` needs beside the weights."""

    def load(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Take up where `save` and `weights` left off."""


class TorchEngine:
    """Plain torch; one flat all-reduce of all gradients where there is a process group."""

    def __init__(
        self, objective: FusionObjective, train: TrainSettings, engine: EngineSettings, device: torch.device
    ) -> None:
        self.device = device
        self.objective = prepared(objective, engine, device)
        self.optimizer = make_optimizer(self.objective, train)
        self.gradient_clipping = train.gradient_clipping
        grouped = distributed.is_available() and distributed.is_initialized()
        self.rank = distributed.get_rank() if grouped else 0
        self.world_size = distributed.get_world_size() if grouped else 1
        self.flat: Tensor | None = None
        if self.world_size > 1:  # all begin with the same bits, also where processors round differently
            for parameter in self.objective.parameters():
                distributed.broadcast(parameter.data, src=0)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.objective(batch)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self, learning_rate: float) -> Float[Tensor, ""]:
        gradients = [parameter.grad for parameter in self.objective.parameters() if parameter.grad is not None]
        self._average(gradients)
        norm = clip(self.objective, gradients, self.gradient_clipping)
        set_learning_rate(self.optimizer, learning_rate)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def sum(self, vector: Float[Tensor, " entries"]) -> Float[Tensor, " entries"]:
        return sum_over_ranks(vector, self.world_size)

    def weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu() for name, tensor in self.objective.state_dict().items()}

    def save(self, folder: Path) -> None:
        if self.rank == 0:
            torch.save(self.optimizer.state_dict(), folder / OPTIMIZER_FILE)

    def load(self, folder: Path, weights: dict[str, Tensor]) -> None:
        self.objective.load_state_dict(weights)
        self.optimizer.load_state_dict(read_plain(folder / OPTIMIZER_FILE))

    def _average(self, gradients: list[Tensor]) -> None:
        if self.world_size == 1:
            return
        self.flat = flat = torch.cat([gradient.flatten() for gradient in gradients], out=self.flat)
        distributed.all_reduce(flat)
        flat /= self.world_size
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def prepared(objective: FusionObjective, engine: EngineSettings, device: torch.device) -> FusionObjective:
    """The objective on its device, compiled and under autocast where the settings say so, so that any engine wraps it.

    Autocast is within the module's own `forward`: around it, DeepSpeed would switch it off; and DeepSpeed's own would
    have the gradients of every linear layer reduced in bfloat16.
    """
    if device.type == "cpu":
        keep_freed_memory()
    objective = objective.to(device)
    if engine.precision == "bf16":
        autocast = torch.autocast(device.type, dtype=torch.bfloat16)
        objective.forward = autocast(objective.forward)  # type: ignore[method-assign]
    if engine.compile:
        objective.compile(dynamic=False)
    return objective


WITHOUT_BF16 = ("DEFAULT", "AVX2")
"""Processors, as torch names their instructions, that have none for bf16."""


def precision_note(precision: str, device: torch.device) -> str:
    """A warning where bf16 has no instructions on this processor, else nothing.

    oneDNN then multiplies one number after another: 64 rows/s where fp32 reached 747 (EXPERIMENTS.md, 2026-11-30).
    """
    if precision == "bf16" and device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in WITHOUT_BF16:
        return "this processor has no instructions for bf16, which is many times slower than engine.precision=fp32 here"
    return ""


def make_optimizer(objective: FusionObjective, train: TrainSettings) -> torch.optim.AdamW:
    """AdamW that decays matrices only; the same object serves every engine."""
    matrices = [parameter for parameter in objective.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in objective.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": train.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=train.learning_rate, fused=True)


def clip(module: nn.Module, gradients: list[Tensor], largest: float) -> Float[Tensor, ""]:
    """Scale the module's gradients to a total norm of `largest` at most, 0 never does. Returns the norm before.

    On a CPU, where looking at the norm costs nothing, gradients that are short enough are not passed over.
    """
    norm = torch.nn.utils.get_total_norm(gradients)
    if largest > 0 and (norm.device.type != "cpu" or not norm <= largest):
        torch.nn.utils.clip_grads_with_norm_(module.parameters(), largest, norm)
    return norm


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def sum_over_ranks(vector: Tensor, world_size: int) -> Tensor:
    """A new tensor: the vector summed over ranks."""
    total = vector.clone()
    if world_size > 1:
        distributed.all_reduce(total)
    return total
