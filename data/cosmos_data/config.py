"""The `data` section of a run: where the manifest is and what a training window looks like.

Plain values only, without torch or av, so that a login node can check a run. Usable with `OmegaConf.structured`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from cosmos_data.errors import DataError

Resize = Literal["crop", "resize_crop", "pad"]
DecoderName = Literal["auto", "dali", "pyav"]
Buckets = Literal["one", "256", "512", "720"]

SIZES_PX: dict[str, tuple[tuple[int, int], ...]] = {
    "256": ((256, 256), (320, 256), (256, 320), (320, 192), (192, 320)),
    "512": ((512, 512), (640, 512), (512, 640), (640, 384), (384, 640)),
    "720": ((960, 960), (960, 704), (704, 960), (1280, 704), (704, 1280)),
}
"""(height_px, width_px) of a resolution's five buckets, near 1:1, 4:3, 3:4, 16:9 and 9:16, as NVIDIA's training code
has them (DFM, video_size.py). All sides divide by 64."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    manifest: str
    """Path of the manifest that lists the clips: an Arrow file; Parquet and JSON lines are read row by row."""

    blend: dict[str, float] = field(default_factory=dict)
    """Further manifests, and how many samples are drawn from each for one sample from `manifest`. A finished latent
    cache, which has each window once, is of one manifest."""

    quarantine: str = ""
    """A JSON lines file that names clips by digest, as a run's quarantine.jsonl does: they are left out."""

    num_frames: int
    """Frames in one training window."""

    height_px: int
    """Height of a training window, in pixels; with buckets, of the one size that is sampled and evaluated at."""

    width_px: int
    """Width of a training window, in pixels; see height_px."""

    buckets: Buckets = "one"
    """one: all windows are height_px x width_px. 256, 512, 720: five sizes about that large, each clip in the one whose
    aspect ratio is nearest to its own; the windows of a step have one size."""

    frame_stride: int = 1
    """Take every n-th frame of the clip: 2 turns 30 frames per second into 15."""

    target_fps: float | None = None
    """Instead of frame_stride: each clip's stride brings it as near as it can to so many frames per second. Clips that
    stay more than a quarter away are left out."""

    flip: bool = True
    """Mirror half of the windows left to right. Turn it off where left and right mean something (driving, text). Clips
    with a camera, actions or a trajectory are never mirrored."""

    resize: Resize = "resize_crop"
    """crop: a random crop at native scale. resize_crop: the largest crop of the right shape, scaled to size. pad: the
    whole picture, scaled to fit and padded by reflection."""

    decoder: DecoderName = "auto"
    """auto: for each clip DALI where it can decode it, else PyAV. dali, pyav: that one for all, or an error."""

    max_bad_share: float = 0.05
    """Stop when more than this share of the clips (0 to 1) cannot be decoded; below it they are replaced."""

    prefetch_batches: int = 2
    """Batches decoded ahead of the training step. No influence on what is trained on."""

    memory_mib: int = 4096
    """Bytes of decoded windows that a process may hold ahead; fewer batches are prefetched where they would pass it."""

    stall_sec: float = 120.0
    """A batch that takes longer to decode stops the run, naming its clips."""

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
            "memory_mib": self.memory_mib,
        }
        for key, value in counts.items():
            if value < 1:
                raise DataError(f"data.{key}={value} is not a positive count; use 1 or more")
        if not self.manifest:
            raise DataError("data.manifest='' names no file; give the path of a manifest (.arrow)")
        if not 0 <= self.max_bad_share <= 1:
            raise DataError(f"data.max_bad_share={self.max_bad_share} is not a share; use a number from 0 to 1")
        for key, value in (("target_fps", self.target_fps), ("stall_sec", self.stall_sec)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise DataError(f"data.{key}={value} is not positive; use a number greater than 0")
        if self.target_fps is not None and self.frame_stride != 1:
            raise DataError(
                f"data.frame_stride={self.frame_stride} and data.target_fps={self.target_fps} both say which frames are"
                " taken; use one of them"
            )
        for path, weight in self.blend.items():
            if not (math.isfinite(weight) and weight > 0):
                raise DataError(f"data.blend: {path} has weight {weight}; use a number greater than 0, or remove it")
        # omegaconf checks literals, a direct call does not.
        for key, value, allowed in (
            ("resize", self.resize, Resize),
            ("decoder", self.decoder, DecoderName),
            ("buckets", self.buckets, Buckets),
        ):
            if value not in get_args(allowed):
                raise DataError(f"data.{key}={value!r} is unknown; use one of {', '.join(get_args(allowed))}")
        if self.buckets != "one" and (self.height_px, self.width_px) not in SIZES_PX[self.buckets]:
            raise DataError(
                f"data.height_px={self.height_px} and data.width_px={self.width_px} are none of the sizes of"
                f" data.buckets={self.buckets}; use one of "
                + ", ".join(f"{height}x{width}" for height, width in SIZES_PX[self.buckets])
            )

    def of_size(self, height_px: int, width_px: int) -> "DataConfig":
        """Return the same configuration with windows of this one size."""
        return replace(self, height_px=height_px, width_px=width_px, buckets="one")

    def files(self) -> Iterator[tuple[str, str]]:
        """Yield (key, path) of all that is read besides videos."""
        yield "data.manifest", self.manifest
        yield from (("data.blend", manifest) for manifest in self.blend)
        if self.quarantine:
            yield "data.quarantine", self.quarantine

    @property
    def sizes_px(self) -> tuple[tuple[int, int], ...]:
        """Return (height_px, width_px) of the windows."""
        return ((self.height_px, self.width_px),) if self.buckets == "one" else SIZES_PX[self.buckets]
