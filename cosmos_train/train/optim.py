"""The learning rate as a pure function of the step: nothing to save, nothing to restore."""

import math

from cosmos_train.train.config import OptimConfig


def learning_rate(step: int, optim: OptimConfig, num_steps: int) -> float:
    """Rate of the update that makes step `step` (counted from 1): linear warm-up, then the configured decay."""
    if step <= optim.warmup_steps:
        return optim.lr * step / optim.warmup_steps
    progress = (step - optim.warmup_steps) / max(1, num_steps - optim.warmup_steps)
    if optim.decay == "constant":
        return optim.lr
    share = 1 - progress if optim.decay == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return optim.min_lr + (optim.lr - optim.min_lr) * share
