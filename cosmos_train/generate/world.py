"""Sampling a diffusion world model: noise -> latents, with text guidance and conditioning frames (Video2World).

Latents in here are whitened and scaled to sigma_data, as in training. One seed is one video: noise is drawn per sample
on the CPU in fp32, whatever the device, the layout and the batch. A batch is K videos of one scene, such as K futures
of one state: they share its text, its conditioning frames and what the network makes of the noise level.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cosmos_train.conditions.conditioner import ConditionTensors
from cosmos_train.config.errors import ConfigError
from cosmos_train.generate.config import SampleConfig
from cosmos_train.generate.network import Evaluate, NetworkInput
from cosmos_train.objectives.edm import c_in, c_noise, denoised, first_frames_mask
from cosmos_train.objectives.samplers import SAMPLERS, karras_sigmas

NOT_STEERED = ConditionTensors()


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """What is asked for: one seed is one video. Text and given latents with a batch of 1 are those of all videos."""

    text_BSE: Tensor
    negative_text_BSE: Tensor
    fps_B: Sequence[float]
    shape_CTHW: tuple[int, int, int, int]
    seed_B: Sequence[int]
    text_mask_BS: Tensor | None = None
    negative_text_mask_BS: Tensor | None = None
    """1 at the text states that are seen; none, as the released models are sampled: all of them."""
    given_BCTHW: Tensor | None = None
    """Latents whose first num_condition_frames are the conditions; what lies behind them is not looked at."""
    noise_BCTHW: Tensor | None = None
    """The first noise, of deviation 1, in place of what the seeds give."""
    augment_noise_BCTHW: Tensor | None = None
    """The noise of deviation 1 that augment_sigma puts on the conditions, in place of what the seeds give."""
    padding_mask_B1HW: Tensor | None = None
    """As DiT.forward takes it."""
    steering: ConditionTensors = NOT_STEERED
    """The camera path and the actions of each video."""

    def __post_init__(self) -> None:
        batch = len(self.seed_B)
        for name, size in (
            ("text_BSE", len(self.text_BSE)),
            ("negative_text_BSE", len(self.negative_text_BSE)),
            ("text_mask_BS", 1 if self.text_mask_BS is None else len(self.text_mask_BS)),
            ("negative_text_mask_BS", 1 if self.negative_text_mask_BS is None else len(self.negative_text_mask_BS)),
            ("given_BCTHW", 1 if self.given_BCTHW is None else len(self.given_BCTHW)),
        ):
            if size not in (1, batch):
                raise ConfigError(f"scene.{name} has a batch of {size} and there are {batch} seeds; use 1 or {batch}")
        for name, noise in (("noise_BCTHW", self.noise_BCTHW), ("augment_noise_BCTHW", self.augment_noise_BCTHW)):
            if noise is not None and tuple(noise.shape) not in ((1, *self.shape_CTHW), (batch, *self.shape_CTHW)):
                shapes = f"[1 or {batch}, {', '.join(map(str, self.shape_CTHW))}]"
                raise ConfigError(f"scene.{name} is of shape {list(noise.shape)}; give {shapes}")
        if len(self.fps_B) != batch or not all(0 < fps < math.inf for fps in self.fps_B):
            raise ConfigError(
                f"scene.fps_B={list(self.fps_B)} must be one rate greater than 0 for each of {batch} seeds"
            )


OnStep = Callable[[int], None]


@torch.no_grad()
def sample_scene(
    evaluate: Evaluate,
    scene: Scene,
    config: SampleConfig,
    *,
    sigma_data: float,
    has_condition_mask: bool,
    on_step: OnStep = lambda _step: None,
) -> Tensor:
    """Latents [B, C, T, H, W] in fp32; conditioning frames come back as they were given.

    Args:
        has_condition_mask: whether the network has Video2World's mask channel; it must where frames are given.
        on_step: called with the number of finished steps.

    Raises:
        ValueError: conditioning frames for a network without the mask channel, of another size, more of them than
            frames, or fewer than asked for.
    """
    noise_BCTHW = _noise(scene, "video") if scene.noise_BCTHW is None else scene.noise_BCTHW
    device, dtype = scene.text_BSE.device, scene.text_BSE.dtype
    condition = _Condition.of(scene, config, has_condition_mask=has_condition_mask)
    texts, steering = [(scene.text_BSE, scene.text_mask_BS)], [scene.steering]
    if config.is_guided:
        texts.append((scene.negative_text_BSE, scene.negative_text_mask_BS))
        steering.append(scene.steering.zeros() if config.guide_condition else scene.steering)

    def denoise(x_BCTHW: Tensor, sigma: float) -> Tensor:
        sigma_1 = torch.tensor([sigma], dtype=torch.float64, device=device)
        scaled, noise_level = x_BCTHW * c_in(sigma_1, sigma_data), c_noise(sigma_1).float()
        branches = [condition.apply(scaled, sigma, sigma_data)] * len(texts)
        if config.guide_frames:
            branches[1] = condition.dropped(scaled, sigma)
        outputs = evaluate(
            [
                NetworkInput(
                    x_BCTHW=net_input.to(dtype),
                    c_noise_B=noise_level,
                    text_BSE=text,
                    fps_B=scene.fps_B,
                    condition_mask_B1THW=mask,
                    padding_mask_B1HW=scene.padding_mask_B1HW,
                    text_mask_BS=text_mask,
                    extra_BCTHW=steered.extra_BCTHW,
                    action_BTRA=steered.action_BTRA,
                    embodiment_B=steered.embodiment_B,
                )
                for (net_input, mask), (text, text_mask), steered in zip(branches, texts, steering, strict=True)
            ]
        )
        x0, *x0_uncond = (denoised(output, x_BCTHW, sigma_1, sigma_data) for output in outputs)
        for uncond in x0_uncond:
            x0 = x0 + config.guidance_weight * (x0 - uncond)
        return condition.restore(x0, sigma)

    sigmas = karras_sigmas(config.num_steps, sigma_max=config.sigma_max, sigma_min=config.sigma_min, rho=config.rho)
    if config.last_step == "none":
        sigmas = sigmas[:-1]
    start_std = math.hypot(config.sigma_max, 1) if config.start_std == "hypot" else config.sigma_max
    x_BCTHW = SAMPLERS[config.sampler](denoise, noise_BCTHW.double().to(device) * start_std, sigmas, on_step)
    return condition.restore(x_BCTHW).float()


def window_seeds(seed_B: Sequence[int], window: int) -> list[int]:
    """Seeds of the n-th window of long videos: the videos' own for the first, unrelated to any video's for others."""
    if window == 0:
        return list(seed_B)
    digests = (hashlib.sha256(f"window/{window}/{seed}".encode()).digest() for seed in seed_B)
    return [int.from_bytes(digest[:8], "big") >> 2 for digest in digests]


@dataclass(frozen=True, slots=True)
class _Condition:
    """The given frames during sampling; a video without any has an all-zero mask.

    As in the released inference code: while the sample is noisier than the conditions, it carries them, lightly noised,
    and its estimate is them; from there on (sigma <= augment_sigma) these frames are denoised like the others. The mask
    channel marks them throughout.
    """

    given_BCTHW: Tensor | None
    noisy_BCTHW: Tensor | None
    """The given latents with the light noise that training puts on them too."""
    mask_11T11: Tensor | None
    augment_sigma: float

    @classmethod
    def of(cls, scene: Scene, config: SampleConfig, *, has_condition_mask: bool) -> "_Condition":
        num_frames = config.num_condition_frames if scene.given_BCTHW is not None else 0
        if num_frames and not has_condition_mask:
            raise ConfigError(
                "conditioning frames were given, but this model has no condition mask (model.condition_mask=false): "
                "it is a Text2World model; sample it without --input"
            )
        if num_frames > scene.shape_CTHW[1]:
            raise ConfigError(
                f"sample.num_condition_frames={num_frames}, but the video has {scene.shape_CTHW[1]} latent frames"
            )
        if not has_condition_mask:
            return cls(None, None, None, config.augment_sigma)
        device = scene.text_BSE.device
        mask = first_frames_mask(torch.tensor([num_frames], device=device), scene.shape_CTHW[1])
        if scene.given_BCTHW is None:
            return cls(None, None, mask, config.augment_sigma)
        given = _first_frames(scene.given_BCTHW, num_frames, scene.shape_CTHW)
        noise = scene.augment_noise_BCTHW
        noise = _noise(scene, "condition") if noise is None else noise
        noisy = given + config.augment_sigma * noise.to(device)
        return cls(given.double(), noisy.double(), mask, config.augment_sigma)

    def apply(self, scaled_BCTHW: Tensor, sigma: float, sigma_data: float) -> tuple[Tensor, Tensor | None]:
        """(network input, condition mask)."""
        if self.mask_11T11 is None:
            return scaled_BCTHW, None
        mask = self.mask_11T11.expand(len(scaled_BCTHW), 1, -1, *scaled_BCTHW.shape[3:])
        if self.noisy_BCTHW is None or sigma <= self.augment_sigma:
            return scaled_BCTHW, mask
        conditions = self.noisy_BCTHW * c_in(torch.tensor(self.augment_sigma, dtype=torch.float64), sigma_data)
        return torch.where(self.mask_11T11 > 0, conditions, scaled_BCTHW), mask

    def dropped(self, scaled_BCTHW: Tensor, sigma: float) -> tuple[Tensor, Tensor | None]:
        """The same without the conditions: zeros while they would be there, an all-zero mask, as dropout trains it."""
        if self.mask_11T11 is None:
            return scaled_BCTHW, None
        no_mask = scaled_BCTHW.new_zeros(len(scaled_BCTHW), 1, *scaled_BCTHW.shape[2:])
        if self.noisy_BCTHW is None or sigma <= self.augment_sigma:
            return scaled_BCTHW, no_mask
        return scaled_BCTHW * (1 - self.mask_11T11), no_mask

    def restore(self, x0_BCTHW: Tensor, sigma: float = math.inf) -> Tensor:
        """The given latents at the conditioning frames while they are conditions, x0 elsewhere."""
        if self.given_BCTHW is None or self.mask_11T11 is None or sigma <= self.augment_sigma:
            return x0_BCTHW
        return torch.where(self.mask_11T11 > 0, self.given_BCTHW, x0_BCTHW)


def _first_frames(given_BCTHW: Tensor, num_frames: int, shape_CTHW: tuple[int, int, int, int]) -> Tensor:
    """The given latents' first frames, followed by zeros up to the video's length."""
    channels, total, *size_HW = shape_CTHW
    found = given_BCTHW.shape
    if found[1] != channels or list(found[3:]) != size_HW or found[2] < num_frames:
        raise ConfigError(
            f"conditioning latents of shape {list(found)} do not fit a video of {channels} channels and "
            f"{size_HW[0]} x {size_HW[1]} cells with sample.num_condition_frames={num_frames}; "
            f"give latents [1 or B, {channels}, at least {num_frames}, {size_HW[0]}, {size_HW[1]}]"
        )
    frames = given_BCTHW[:, :, :num_frames]
    return torch.cat((frames, frames.new_zeros(*found[:2], total - num_frames, *found[3:])), dim=2)


def _noise(scene: Scene, purpose: str) -> Tensor:
    """[B, C, T, H, W] standard normal, each video from its own seed."""
    offset = {"video": 0, "condition": 1}[purpose]
    return torch.stack(
        [
            torch.randn(scene.shape_CTHW, generator=torch.Generator().manual_seed(2 * seed + offset))
            for seed in scene.seed_B
        ]
    )
