"""The learning rate as a pure function of the step."""

import math

from dynfusion.training.config import TrainSettings


def learning_rate(settings: TrainSettings, step: int, total_steps: int) -> float:
    """The rate of step `step` (from 0): linear warm-up, then half a cosine down to `final_share` of the peak."""
    warmup = settings.warmup_share * total_steps
    if step < warmup:
        return settings.learning_rate * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1.0, total_steps - 1 - warmup)
    share = settings.final_share + (1 - settings.final_share) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
    return settings.learning_rate * share
