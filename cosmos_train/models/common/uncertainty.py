"""u(sigma): the learned uncertainty that balances noise levels in training (the released checkpoints' `logvar`)."""

import torch
from torch import Tensor, nn

from cosmos_train.parallel.shard import Fill


class LearnedUncertainty(nn.Module):
    """128 random Fourier features of c_noise, then a linear layer without bias.

    The features are drawn once and kept as buffers in the checkpoint: another draw would be another function.
    """

    frequency: Tensor
    phase: Tensor

    def __init__(self, num_features: int = 128) -> None:
        super().__init__()
        device = torch.get_default_device()
        generator = torch.Generator().manual_seed(0)
        frequency, phase = (draw(num_features, generator=generator, device="cpu") for draw in (torch.randn, torch.rand))
        self.register_buffer("frequency", (2 * torch.pi * frequency).to(device))
        self.register_buffer("phase", (2 * torch.pi * phase).to(device))
        self.linear = nn.Linear(num_features, 1, bias=False)

    def forward(self, c_noise_B: Tensor) -> Tensor:
        """[B] -> [B] in fp32."""
        angle = c_noise_B.float()[:, None] * self.frequency + self.phase
        return (angle.cos() * 2**0.5 @ self.linear.weight.float().T).squeeze(1)

    def init_weights(self, fill: Fill) -> None:
        """u = 0: training starts with EDM's own weighting."""
        fill("linear.weight", self.linear.weight, lambda weight, _generator: weight.zero_())
