"""Exponential moving average of the weights: fp32 copies of what this rank holds, divided as the parameters are."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Ema:
    """average <- decay * average + (1 - decay) * weight, after every step."""

    def __init__(self, pieces: Sequence[nn.Module], decay: float) -> None:
        self.decay = decay
        self.params = {name: param for piece in pieces for name, param in piece.named_parameters()}
        self.average: dict[str, Tensor] = {name: p.detach().float().clone() for name, p in self.params.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        weights = [p.detach().float() for p in self.params.values()]
        averages = list(self.average.values())
        torch._foreach_lerp_(averages, weights, 1 - self.decay)  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def copy_to_params(self) -> None:
        """Overwrite the weights with their average, for sampling."""
        for name, param in self.params.items():
            param.copy_(self.average[name])
