"""The EDM denoising objective (Karras et al., arXiv 2206.00364) with Cosmos' weighting and Video2World conditioning.

D(x; sigma) = c_skip x + c_out F(c_in x; c_noise), trained on x = x0 + sigma * noise. x0 are whitened latents times
sigma_data. Letters as in the DiT: B batch, C channels, T latent frames, H W latent rows and columns. Sigma is [B].

Everything that is random is a function of (seed, index of the sample in the run): see draw_noise. So it is the same in
every layout and after every resume, and there is no generator state to save.
"""

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from cosmos_train.objectives.config import EdmConfig

SIGMA_EDGES = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, math.inf)
"""Noise levels at which the error is logged apart."""


def c_skip(sigma: Tensor, sigma_data: float) -> Tensor:
    """sigma_data^2 / (sigma^2 + sigma_data^2), table 1."""
    return sigma_data**2 / (sigma**2 + sigma_data**2)


def c_out(sigma: Tensor, sigma_data: float) -> Tensor:
    """sigma sigma_data / sqrt(sigma^2 + sigma_data^2), table 1."""
    return sigma * sigma_data / (sigma**2 + sigma_data**2).sqrt()


def c_in(sigma: Tensor, sigma_data: float) -> Tensor:
    """1 / sqrt(sigma^2 + sigma_data^2), table 1."""
    return 1 / (sigma**2 + sigma_data**2).sqrt()


def c_noise(sigma: Tensor) -> Tensor:
    """ln(sigma) / 4, table 1."""
    return sigma.log() / 4


def loss_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """lambda(sigma) = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2: every noise level starts with the same loss."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseDraw:
    """Everything random about a batch of samples."""

    sigma_B: Tensor
    noise_BCTHW: Tensor
    augment_sigma_B: Tensor
    augment_noise_BCTHW: Tensor
    num_condition_frames_B: Tensor
    """Latent frames given as conditions; 0 for an ordinary sample."""
    drop_condition_B: Tensor
    drop_text_B: Tensor
    drop_steering_B: Tensor
    """Whether a sample's camera path and actions are dropped."""

    @property
    def tensors(self) -> list[Tensor]:
        """All of it, in the order of the fields."""
        return [getattr(self, field.name) for field in fields(self)]

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> "NoiseDraw":
        """The draw that has these tensors."""
        return cls(**{field.name: tensor for field, tensor in zip(fields(cls), tensors, strict=True)})


def draw_noise(
    config: EdmConfig,
    *,
    seed: int,
    indices: Sequence[int],
    shape_CTHW: Sequence[int],
    stream: str = "noise",
    steering_dropout: float = 0.0,
) -> NoiseDraw:
    """Draw for each sample index of the run from a generator of its own. fp32, on the CPU.

    A fixed order of draws: a new one is added at the end, else a run's noise would change under it. At least one frame
    is left to be predicted, so an image (T = 1) has no conditioning frame.

    Args:
        stream: keeps what is numbered by itself apart, as images are from videos.
        steering_dropout: probability that what steers a sample is dropped.
    """
    video_scale = math.sqrt(shape_CTHW[1]) if config.scale_sigma_by_frames else 1.0
    num_counts = config.max_condition_frames - config.min_condition_frames + 1
    draws: list[tuple[Tensor, ...]] = []
    for index in indices:
        digest = hashlib.sha256(f"{stream}/{seed}/{index}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        normal, uniform = torch.randn(2, generator=generator), torch.rand(3, generator=generator)
        draws.append(
            (  # in the order of NoiseDraw's fields
                (normal[0] * config.log_sigma_std + config.log_sigma_mean).exp() * video_scale,
                torch.randn(*shape_CTHW, generator=generator),
                (normal[1] * config.log_augment_sigma_std + config.log_augment_sigma_mean).exp(),
                torch.randn(*shape_CTHW, generator=generator),
                (config.min_condition_frames + (uniform[0] * num_counts).long()).clamp(max=shape_CTHW[1] - 1),
                uniform[1] < config.condition_dropout,
                uniform[2] < config.text_dropout,
                torch.rand((), generator=generator) < steering_dropout,
            )
        )
    return NoiseDraw.of([torch.stack(drawn) for drawn in zip(*draws, strict=True)])


def first_frames_mask(num_condition_frames_B: Tensor, num_frames: int) -> Tensor:
    """[B, 1, T, 1, 1] with 1 at the first n frames of each sample."""
    index_T = torch.arange(num_frames, device=num_condition_frames_B.device)
    return (index_T < num_condition_frames_B[:, None]).float()[:, None, :, None, None]


@dataclass(frozen=True, kw_only=True, slots=True)
class NoisyInput:
    """What the network is given, and what its answer is compared with."""

    net_input_BCTHW: Tensor
    """Already scaled by c_in."""
    noisy_BCTHW: Tensor
    """x0 + sigma * noise, for the skip connection."""
    is_condition_B1T11: Tensor
    """1 at conditioning frames: their error does not count."""
    condition_mask_B1T11: Tensor
    """What the network is told: the same, but zero where the condition was dropped."""


def add_noise(x0_BCTHW: Tensor, draw: NoiseDraw, config: EdmConfig) -> NoisyInput:
    """Noise the sample; put lightly noised true latents, or zeros where dropped, at its conditioning frames."""
    sigma, augment_sigma = _over_video(draw.sigma_B), _over_video(draw.augment_sigma_B)
    noisy = x0_BCTHW + sigma * draw.noise_BCTHW
    is_condition = first_frames_mask(draw.num_condition_frames_B, x0_BCTHW.shape[2])
    kept = 1 - _over_video(draw.drop_condition_B.float())
    condition = (x0_BCTHW + augment_sigma * draw.augment_noise_BCTHW) * c_in(augment_sigma, config.sigma_data) * kept
    return NoisyInput(
        net_input_BCTHW=torch.where(is_condition > 0, condition, noisy * c_in(sigma, config.sigma_data)),
        noisy_BCTHW=noisy,
        is_condition_B1T11=is_condition,
        condition_mask_B1T11=is_condition * kept,
    )


def denoised(output_BCTHW: Tensor, noisy_BCTHW: Tensor, sigma_B: Tensor, sigma_data: float) -> Tensor:
    """D = c_skip x + c_out F, in fp32."""
    sigma = _over_video(sigma_B)
    return c_skip(sigma, sigma_data) * noisy_BCTHW + c_out(sigma, sigma_data) * output_BCTHW.float()


def edm_loss(
    x0_BCTHW: Tensor,
    output_BCTHW: Tensor,
    noisy: NoisyInput,
    sigma_B: Tensor,
    uncertainty_B: Tensor | None,
    config: EdmConfig,
    *,
    padding_B1HW: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, weighted squared error, the error of each sample [B]); the first two are means over the samples.

    Conditioning frames count as predicted: no error, but they stay in the mean and keep the term u(sigma). Cells that
    are padding (1 in the mask) are left out of the mean, unless config.loss_on_padding.
    """
    prediction = denoised(output_BCTHW, noisy.noisy_BCTHW, sigma_B, config.sigma_data)
    square = ((prediction - x0_BCTHW) * (1 - noisy.is_condition_B1T11)).square()
    if padding_B1HW is None or config.loss_on_padding:
        mean_B = square.mean(dim=(1, 2, 3, 4))
    else:
        counts_BHW = 1 - padding_B1HW[:, 0]
        mean_B = (square.mean(dim=(1, 2)) * counts_BHW).sum(dim=(1, 2)) / counts_BHW.sum(dim=(1, 2))
    error_B = loss_weight(sigma_B, config.sigma_data) * mean_B
    loss_B = error_B if uncertainty_B is None else error_B * torch.exp(-uncertainty_B) + uncertainty_B
    return loss_B.mean() * config.loss_scale, error_B.mean(), error_B


def by_noise_level(error_B: Tensor, sigma_B: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """{range of sigma: (sum of the errors of its samples, their number)}, each between two of SIGMA_EDGES."""
    found = {}
    for low, high in itertools.pairwise(SIGMA_EDGES):
        is_in_B = ((sigma_B >= low) & (sigma_B < high)).float()
        found[f"{low:g}-{high:g}"] = ((error_B * is_in_B).sum(), is_in_B.sum())
    return found


def _over_video(x_B: Tensor) -> Tensor:
    return x_B[:, None, None, None, None]
