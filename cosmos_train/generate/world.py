"""Sampling a diffusion world model: noise -> latents, with text guidance and conditioning frames (Video2World).

Latents in here are whitened and scaled to sigma_data, as in training. One seed is one video: noise is drawn per sample
on the CPU in fp32, whatever the device and the layout.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cosmos_train.generate.config import SampleConfig
from cosmos_train.objectives.edm import c_in, c_noise, denoised, first_frames_mask
from cosmos_train.objectives.samplers import SAMPLERS, karras_sigmas


class Network(Protocol):
    """F(x; c_noise) of a world model that is whole on this rank, such as cosmos_train.models.dit.model.DiT."""

    def __call__(
        self,
        x_BCTHW: Tensor,
        c_noise_B: Tensor,
        text_BSE: Tensor,
        *,
        fps_B: Sequence[float],
        condition_mask_B1THW: Tensor | None,
    ) -> Tensor: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """What is asked for: one entry of the batch is one video."""

    text_BSE: Tensor
    negative_text_BSE: Tensor
    fps_B: Sequence[float]
    shape_CTHW: tuple[int, int, int, int]
    seed_B: Sequence[int]
    given_BCTHW: Tensor | None = None
    """Latents whose first num_condition_frames are the conditions; what lies behind them is not looked at."""


@torch.no_grad()
def sample_world(
    network: Network,
    scene: Scene,
    config: SampleConfig,
    *,
    sigma_data: float,
    has_condition_mask: bool,
    on_step: Callable[[int], None] = lambda _step: None,
) -> Tensor:
    """Latents [B, C, T, H, W] in fp32; conditioning frames come back as they were given.

    Args:
        has_condition_mask: whether the network has Video2World's mask channel; it must where frames are given.
        on_step: called with the number of finished steps.

    Raises:
        ValueError: conditioning frames for a network without the mask channel, or more of them than frames.
    """
    noise_BCTHW = _noise(scene, "video")
    device = scene.text_BSE.device
    condition = _Condition.of(scene, config, has_condition_mask=has_condition_mask)
    dtype = scene.text_BSE.dtype

    def denoise(x_BCTHW: Tensor, sigma: float) -> Tensor:
        sigma_B = torch.full((len(scene.fps_B),), sigma, dtype=torch.float64, device=device)
        scaled, mask = condition.apply(x_BCTHW * c_in(sigma_B[0], sigma_data), sigma, sigma_data)

        def predict(text_BSE: Tensor) -> Tensor:
            output = network(
                scaled.to(dtype),
                c_noise(sigma_B).float(),
                text_BSE,
                fps_B=scene.fps_B,
                condition_mask_B1THW=mask,
            )
            return denoised(output, x_BCTHW, sigma_B, sigma_data)

        x0 = predict(scene.text_BSE)
        if config.guidance > 0:
            x0 = x0 + config.guidance * (x0 - predict(scene.negative_text_BSE))
        return condition.restore(x0)

    sigmas = karras_sigmas(config.num_steps, sigma_max=config.sigma_max, sigma_min=config.sigma_min, rho=config.rho)
    if config.last_step == "none":
        sigmas = sigmas[:-1]
    start_std = math.hypot(config.sigma_max, 1) if config.start_std == "hypot" else config.sigma_max
    x_BCTHW = SAMPLERS[config.sampler](denoise, noise_BCTHW.double().to(device) * start_std, sigmas, on_step)
    return condition.restore(x_BCTHW).float()


@dataclass(frozen=True, slots=True)
class _Condition:
    """The given frames during sampling; a video without any has an all-zero mask."""

    given_BCTHW: Tensor | None
    noisy_BCTHW: Tensor | None
    """The given latents with the light noise that training puts on them too."""
    mask_B1T11: Tensor | None
    augment_sigma: float

    @classmethod
    def of(cls, scene: Scene, config: SampleConfig, *, has_condition_mask: bool) -> "_Condition":
        num_frames = config.num_condition_frames if scene.given_BCTHW is not None else 0
        if num_frames and not has_condition_mask:
            raise ValueError(
                "conditioning frames were given, but this model has no condition mask (model.condition_mask=false): "
                "it is a Text2World model; sample it without --input"
            )
        if num_frames > scene.shape_CTHW[1]:
            raise ValueError(
                f"sample.num_condition_frames={num_frames}, but the video has {scene.shape_CTHW[1]} latent frames"
            )
        if not has_condition_mask:
            return cls(None, None, None, config.augment_sigma)
        device = scene.text_BSE.device
        mask = first_frames_mask(torch.tensor([num_frames] * len(scene.fps_B), device=device), scene.shape_CTHW[1])
        if scene.given_BCTHW is None:
            return cls(None, None, mask, config.augment_sigma)
        noise = _noise(scene, "condition").to(device)
        noisy = scene.given_BCTHW + config.augment_sigma * noise
        return cls(scene.given_BCTHW.double(), noisy.double(), mask, config.augment_sigma)

    def apply(self, scaled_BCTHW: Tensor, sigma: float, sigma_data: float) -> tuple[Tensor, Tensor | None]:
        """(network input, condition mask). Below the conditions' own noise level they are no condition any more."""
        if self.mask_B1T11 is None:
            return scaled_BCTHW, None
        mask = self.mask_B1T11 if sigma > self.augment_sigma else torch.zeros_like(self.mask_B1T11)
        full_mask = mask.expand(-1, -1, -1, *scaled_BCTHW.shape[3:])
        if self.noisy_BCTHW is None:
            return scaled_BCTHW, full_mask
        conditions = self.noisy_BCTHW * c_in(torch.tensor(self.augment_sigma, dtype=torch.float64), sigma_data)
        return torch.where(mask > 0, conditions, scaled_BCTHW), full_mask

    def restore(self, x0_BCTHW: Tensor) -> Tensor:
        """The given latents at the conditioning frames, x0 elsewhere."""
        if self.given_BCTHW is None or self.mask_B1T11 is None:
            return x0_BCTHW
        return torch.where(self.mask_B1T11 > 0, self.given_BCTHW, x0_BCTHW)


def _noise(scene: Scene, purpose: str) -> Tensor:
    """[B, C, T, H, W] standard normal, each video from its own seed."""
    offset = {"video": 0, "condition": 1}[purpose]
    return torch.stack(
        [
            torch.randn(scene.shape_CTHW, generator=torch.Generator().manual_seed(2 * seed + offset))
            for seed in scene.seed_B
        ]
    )
