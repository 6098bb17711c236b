"""DeepSpeed behind the loop's engine. DeepSpeed itself is imported when an engine is made: inside a training worker.

Two ways in which it silently differs from plain torch are closed here: it clips at 1.0 unless told otherwise, and its
backward divides by the accumulation steps once more unless `scale_wrt_gas=False`. At stage 0 it neither tells the
gradient's norm nor leaves out the exchange with nobody, so clipping is ours there and a single rank exchanges nothing.
"""

from contextlib import nullcontext
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from dynfusion.edges.deepspeed_config import configuration, import_deepspeed
from dynfusion.edges.deepspeed_state import check_state
from dynfusion.edges.universal_checkpoint import place_steps, saved_ranks, universal
from dynfusion.fusion.batch import Batch
from dynfusion.fusion.objective import FusionObjective
from dynfusion.training.config import EngineSettings, TrainSettings
from dynfusion.training.engine import clip, make_optimizer, prepared, set_learning_rate, sum_over_ranks

TAG = "deepspeed"


class DeepSpeedEngine:
    """ZeRO stages 0 to 3 over the process group that is already there."""

    def __init__(
        self, objective: FusionObjective, train: TrainSettings, engine: EngineSettings, device: torch.device
    ) -> None:
        deepspeed = import_deepspeed(device)
        objective = prepared(objective, engine, device)
        self.gradient_clipping = train.gradient_clipping
        self.stage = engine.zero_stage
        try:
            self.engine, self.optimizer, _, _ = deepspeed.initialize(
                model=objective,
                optimizer=make_optimizer(objective, train),
                config=configuration(train, engine),
            )
        except deepspeed.DeepSpeedConfigError as error:
            raise ValueError(f"setting engine.deepspeed: {error}") from error
        self.gathered = deepspeed.zero.GatheredParameters if engine.zero_stage == 3 else None
        self.micro_batches = 0
        self.device = device
        self.rank = torch.distributed.get_rank()
        self.world_size = torch.distributed.get_world_size()
        if self.stage == 0:
            self.engine.enable_backward_allreduce = self.world_size > 1

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.engine(batch)

    def backward(self, loss: Tensor) -> None:
        """One micro-batch. DeepSpeed wants its own `step` after each; before the last one that only counts."""
        self.engine.backward(loss, scale_wrt_gas=False)
        self.micro_batches += 1
        if self.micro_batches % self.engine.gradient_accumulation_steps() != 0:
            self.engine.step()

    def step(self, learning_rate: float) -> Float[Tensor, ""]:
        set_learning_rate(self.optimizer, learning_rate)
        if self.stage == 0:  # gradients are averaged by now
            gradients = [p.grad for p in self.engine.module.parameters() if p.grad is not None]
            norm = clip(self.engine.module, gradients, self.gradient_clipping)
            self.engine.step()
            return norm
        self.engine.step()
        return torch.as_tensor(self.engine.get_global_grad_norm(), device=self.device)

    def sum(self, vector: Float[Tensor, " entries"]) -> Float[Tensor, " entries"]:
        return sum_over_ranks(vector, self.world_size)

    def weights(self) -> dict[str, Tensor]:
        parameters = list(self.engine.module.parameters())
        whole = self.gathered(parameters) if self.gathered else nullcontext()
        with whole:
            return {name: tensor.detach().cpu().clone() for name, tensor in self.engine.module.state_dict().items()}

    def save(self, folder: Path) -> None:
        self.engine.save_checkpoint(str(folder), tag=TAG, save_latest=False)

    def load(self, folder: Path, weights: dict[str, Tensor]) -> None:
        check_state(folder / TAG)
        ranks = saved_ranks(folder / TAG)
        if ranks in (0, self.world_size):
            self._load(folder)
            return
        groups = self.optimizer.optimizer.param_groups
        decays = [group["weight_decay"] for group in groups]
        with universal(folder, TAG) as converted:
            self.engine._config.load_universal_checkpoint = True
            try:
                self._load(converted)
            finally:
                self.engine._config.load_universal_checkpoint = False
        for group, decay in zip(groups, decays, strict=True):  # stage 3's gives every group the first one's
            group["weight_decay"] = decay
        # stage 3's universal checkpoint leaves the count of steps out: AdamW would correct for it anew
        steps = float(self.engine.global_steps) if self.stage == 3 else None
        place_steps(self.optimizer.optimizer.state.values(), steps)

    def _load(self, folder: Path) -> None:
        path, _ = self.engine.load_checkpoint(str(folder), tag=TAG)
        if path is None:
            raise ValueError(f"checkpoint {folder}: holds nothing that DeepSpeed stage {self.stage} can load")
