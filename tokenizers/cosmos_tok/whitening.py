"""Whitening of latents: zero mean and unit variance for every channel at every latent frame.

z_white = (z - mean) / std, with one mean and one standard deviation per channel and per latent-frame index. The index
matters because frame 0 is coded alone and spreads differently from the rest: the CV8x8x8 tokenizer's channel 12 has
a deviation of 0.36 there and of 0.70 later. A shorter clip uses the first frames' statistics. (Cosmos-Predict1's latent
normalisation; its factor sigma_data belongs to the diffusion objective, not here.)

Stored latents stay raw; they are whitened when loaded, and what a model generates is unwhitened before decoding.

B batch, C latent channels, T latent frames, H W latent rows and columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cosmos_tok.config import TokenizerError
from cosmos_tok.weight_file import refuse_stand_in
from cosmos_tok.whole_file import whole_file


@dataclass(frozen=True, eq=False)
class LatentStatistics:
    """Mean and standard deviation [C, T], float32, and what they were computed from."""

    mean_CT: Tensor
    std_CT: Tensor
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mean_CT.ndim != 2 or self.mean_CT.shape != self.std_CT.shape:
            raise TokenizerError(
                f"latent statistics have a mean of shape {list(self.mean_CT.shape)} and a deviation of shape "
                f"{list(self.std_CT.shape)}; both must be [channels, latent frames]"
            )
        bad_CT = ~(self.mean_CT.isfinite() & self.std_CT.isfinite() & (self.std_CT > 0))
        if bad_CT.any():
            channel, frame = bad_CT.nonzero()[0].tolist()
            raise TokenizerError(
                f"latent statistics at channel {channel}, latent frame {frame} are mean "
                f"{self.mean_CT[channel, frame].item():g} and deviation {self.std_CT[channel, frame].item():g}; both "
                f"must be finite and the deviation positive: compute them from more, and more varied, clips"
            )

    def whiten(self, z_BCTHW: Tensor) -> Tensor:
        """(z - mean) / std, of the dtype of z; ValueError if z has other channels or more latent frames."""
        mean, std = self._matching(z_BCTHW)
        return (z_BCTHW - mean) / std

    def unwhiten(self, z_BCTHW: Tensor) -> Tensor:
        """z * std + mean, the inverse of `whiten`."""
        mean, std = self._matching(z_BCTHW)
        return z_BCTHW * std + mean

    def _matching(self, z_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
        channels, frames = self.mean_CT.shape
        if z_BCTHW.ndim != 5 or z_BCTHW.shape[1] != channels or z_BCTHW.shape[2] > frames:
            raise TokenizerError(
                f"latents of shape {list(z_BCTHW.shape)} do not fit statistics of {channels} channels and {frames} "
                f"latent frames; use latents [B, {channels}, at most {frames}, H, W] or statistics of longer clips"
            )
        used = slice(None, z_BCTHW.shape[2])
        mean, std = self.mean_CT[:, used, None, None], self.std_CT[:, used, None, None]
        return mean.to(z_BCTHW), std.to(z_BCTHW)


class LatentStatisticsAccumulator:
    """Statistics of any number of latents in one pass, in float64 and with a fixed amount of memory.

    Clips may be shorter than `num_latent_frames`: each frame index counts its own values. Means and sums of squared
    deviations are merged batch by batch (Chan, Golub, LeVeque 1983), which does not cancel as E[z^2] - E[z]^2 does.
    """

    def __init__(self, num_channels: int, num_latent_frames: int) -> None:
        self.count_T = torch.zeros(num_latent_frames, dtype=torch.float64)
        self.mean_CT = torch.zeros(num_channels, num_latent_frames, dtype=torch.float64)
        self.squares_CT = torch.zeros_like(self.mean_CT)

    def update(self, z_BCTHW: Tensor) -> None:
        """Take in raw latents of any dtype, on any device."""
        channels, frames = self.mean_CT.shape
        if z_BCTHW.ndim != 5 or z_BCTHW.shape[1] != channels or z_BCTHW.shape[2] > frames or z_BCTHW.numel() == 0:
            raise TokenizerError(
                f"latents of shape {list(z_BCTHW.shape)} do not fit an accumulator of {channels} channels and {frames} "
                f"latent frames; use latents [B, {channels}, at most {frames}, H, W] that are not empty"
            )
        values_CTN = z_BCTHW.detach().double().permute(1, 2, 0, 3, 4).flatten(2).cpu()
        mean_CT = values_CTN.mean(dim=2)
        squares_CT = (values_CTN - mean_CT.unsqueeze(2)).square().sum(dim=2)
        self._merge(torch.full((values_CTN.shape[1],), values_CTN.shape[2], dtype=torch.float64), mean_CT, squares_CT)

    def merge(self, other: "LatentStatisticsAccumulator") -> None:
        """Take in what another one of this shape took in, e.g. on another rank; it may be nothing."""
        self._merge(other.count_T, other.mean_CT, other.squares_CT)

    def to_lists(self) -> dict[str, list]:
        """As values that JSON knows and gives back exactly."""
        return {"count": self.count_T.tolist(), "mean": self.mean_CT.tolist(), "squares": self.squares_CT.tolist()}

    @classmethod
    def from_lists(cls, values: Mapping[str, list]) -> "LatentStatisticsAccumulator":
        """Of what to_lists gave."""
        found = cls(len(values["mean"]), len(values["count"]))
        found.count_T, found.mean_CT, found.squares_CT = (
            torch.tensor(values[name], dtype=torch.float64) for name in ("count", "mean", "squares")
        )
        return found

    def statistics(self, metadata: Mapping[str, str] | None = None) -> LatentStatistics:
        """What was taken in so far; the deviation is that of the population, divided by n."""
        if not self.count_T.all():
            frame = int((self.count_T == 0).nonzero()[0])
            raise TokenizerError(
                f"no clip had a latent frame {frame}, of {len(self.count_T)} asked for; "
                f"add longer clips or accumulate only {frame} latent frame(s)"
            )
        std_CT = (self.squares_CT / self.count_T).sqrt()
        return LatentStatistics(self.mean_CT.float(), std_CT.float(), dict(metadata or {}))

    def _merge(self, count_T: Tensor, mean_CT: Tensor, squares_CT: Tensor) -> None:
        used = slice(None, mean_CT.shape[1])
        before_T, total_T = self.count_T[used], self.count_T[used] + count_T
        share_T = count_T / total_T.clamp(min=1)
        change_CT = mean_CT - self.mean_CT[:, used]
        self.mean_CT[:, used] += change_CT * share_T
        self.squares_CT[:, used] += squares_CT + change_CT.square() * before_T * share_T
        self.count_T[used] = total_T


def save_statistics(path: Path, statistics: LatentStatistics) -> None:
    """Write a safetensors file with the tensors `mean` and `std` [C, T]; complete under its name, or absent."""
    tensors = {"mean": statistics.mean_CT.contiguous().cpu(), "std": statistics.std_CT.contiguous().cpu()}
    with whole_file(path) as aside:
        save_file(tensors, aside, metadata=dict(statistics.metadata))


def load_statistics(path: Path) -> LatentStatistics:
    """Read what `save_statistics` wrote; ValueError if the file is missing, damaged or something else."""
    if path.exists():
        refuse_stand_in(path)
    try:
        with safe_open(path, framework="pt") as file:
            return LatentStatistics(file.get_tensor("mean"), file.get_tensor("std"), file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise TokenizerError(
            f"latent statistics {path} cannot be read: {error}; compute and save them again"
        ) from error
