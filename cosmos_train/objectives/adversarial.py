"""The adversarial term of the tokenizer: a discriminator of video patches and the hinge losses of both sides.

One backward pass serves both sides. The discriminator's loss sees reconstructions without their graph, and the
tokenizer's term sees the discriminator through `frozen`, without its parameters' graph: so neither puts a gradient on
the other, and every parameter is met once, which is what megatron-core's DDP counts on.

The discriminator is trained from the run's first step, also where its term starts later: Adam's moments are then warm,
weight decay has not worn it down, and every parameter has a gradient, which DDP counts on too. Both sides have one
learning rate, and gradients are clipped by the norm over both.

B batch, T frames, H rows, W columns; patches lie on a grid [T', H', W'].
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_train.objectives.config import DiscriminatorConfig

MAX_ADAPTIVE_WEIGHT = 1e4


def discriminator_hinge(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """(E max(0, 1 - D(x)) + E max(0, 1 + D(x'))) / 2 (Lim and Ye, arXiv 1705.02894): margins of 1, then no gradient."""
    return (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()) / 2


def generator_hinge(fake_logits: Tensor) -> Tensor:
    """-E D(x'), the other side of the hinge loss."""
    return -fake_logits.mean()


def adaptive_weight(others: Tensor, adversarial: Tensor, last_weight: Tensor) -> Tensor:
    """|d others / d w| / (|d adversarial / d w| + 1e-6) at the decoder's last weight (VQGAN, arXiv 2012.09841, eq. 7).

    Keeps the adversarial term as strong as all others together. Costs a second backward pass through the terms, not
    through the tokenizer; a constant, so nothing learns to change it.
    """
    [by_others] = torch.autograd.grad(others, last_weight, retain_graph=True)
    [by_adversarial] = torch.autograd.grad(adversarial, last_weight, retain_graph=True)
    return (by_others.float().norm() / (by_adversarial.float().norm() + 1e-6)).clamp(max=MAX_ADAPTIVE_WEIGHT)


def frozen(module: nn.Module, *inputs: Tensor) -> Tensor:
    """The module's output, with gradients to the inputs and none to the parameters.

    Not by switching `requires_grad` off and on, which megatron-core's DDP finds out and refuses.
    """
    constants = {name: param.detach() for name, param in module.named_parameters()}
    return torch.func.functional_call(module, constants, inputs)


class PatchDiscriminator(nn.Module):
    """Video [B, 3, T, H, W] -> logits [B, 1, T', H', W'], each about a patch of it; above 0 is "real".

    Convolutions that halve height and width, all but the first of them also time (rounded up, so that a single frame
    passes), as in PatchGAN (Isola et al., arXiv 1611.07004). Norms are of each sample by itself: what one says of a
    sample depends neither on its batch nor on how ranks divide it, and there are no running statistics to save.
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        widths = [config.channels * min(2**i, 8) for i in range(config.num_halvings)]
        layers: list[nn.Module] = [_halving(3, widths[0], time=1), nn.LeakyReLU(0.2)]
        for narrow, wide in itertools.pairwise(widths):
            layers += [_halving(narrow, wide, time=2), _norm(wide), nn.LeakyReLU(0.2)]
        layers += [nn.Conv3d(widths[-1], widths[-1], 3, padding=1), _norm(widths[-1]), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv3d(widths[-1], 1, 3, padding=1))

    def forward(self, video_B3THW: Tensor) -> Tensor:
        """Logits of the weights' dtype."""
        return self.layers(video_B3THW)


def _halving(in_channels: int, out_channels: int, *, time: int) -> nn.Conv3d:
    return nn.Conv3d(in_channels, out_channels, (3, 4, 4), stride=(time, 2, 2), padding=1)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(channels, 32), channels)
