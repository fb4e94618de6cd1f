"""The `data` section of a run: where the manifest is and what a training window looks like.

Plain values only, without torch or av, so that a login node can check a run. Usable with `OmegaConf.structured`.
"""

from dataclasses import dataclass
from typing import Literal, get_args

Resize = Literal["crop", "resize_crop"]
DecoderName = Literal["auto", "dali", "pyav"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    manifest: str
    """Path of the Parquet manifest that lists the clips."""

    num_frames: int
    """Frames in one training window."""

    height_px: int
    """Height of a training window, in pixels."""

    width_px: int
    """Width of a training window, in pixels."""

    frame_stride: int = 1
    """Take every n-th frame of the clip: 2 turns 30 frames per second into 15."""

    flip: bool = True
    """Mirror half of the windows left to right. Turn it off where left and right mean something (driving, text)."""

    resize: Resize = "resize_crop"
    """crop: a random crop at native scale. resize_crop: the largest crop of the right shape, scaled to size."""

    decoder: DecoderName = "auto"
    """auto: DALI where it can decode every clip, else PyAV. dali, pyav: that one, or an error."""

    max_bad_share: float = 0.05
    """Stop when more than this share of the clips (0 to 1) cannot be decoded; below it they are replaced."""

    prefetch_batches: int = 2
    """Batches decoded ahead of the training step. No influence on what is trained on."""

    num_workers: int = 4
    """Decoding threads per process. No influence on what is trained on."""

    def __post_init__(self) -> None:
        counts = {
            "num_frames": self.num_frames,
            "height_px": self.height_px,
            "width_px": self.width_px,
            "frame_stride": self.frame_stride,
            "prefetch_batches": self.prefetch_batches,
            "num_workers": self.num_workers,
        }
        for key, value in counts.items():
            if value < 1:
                raise ValueError(f"data.{key}={value} is not a positive count; use 1 or more")
        if not self.manifest:
            raise ValueError("data.manifest='' names no file; give the path of a manifest (.parquet)")
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"data.max_bad_share={self.max_bad_share} is not a share; use a number from 0 to 1")
        # omegaconf checks literals, a direct call does not.
        for key, value, allowed in (("resize", self.resize, Resize), ("decoder", self.decoder, DecoderName)):
            if value not in get_args(allowed):
                raise ValueError(f"data.{key}={value!r} is unknown; use one of {', '.join(get_args(allowed))}")

    @property
    def span_frames(self) -> int:
        """Frames of the clip that one window spans, first to last."""
        return (self.num_frames - 1) * self.frame_stride + 1
