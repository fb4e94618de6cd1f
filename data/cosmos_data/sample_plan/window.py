"""What part of a clip a window shows: its stride in time, its place in the picture."""

from dataclasses import dataclass

import numpy as np

from cosmos_data.config import DataConfig
from cosmos_data.errors import DataError
from cosmos_data.manifests.clip import Clip
from cosmos_data.manifests.manifest import Manifest

FPS_TOLERANCE = 0.25
"""How far a window's frame rate may be from data.target_fps, as a share of it: 60 and 30 fps serve a plan of 24."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """A part of a picture, in its pixels."""

    top_px: int
    left_px: int
    height_px: int
    width_px: int

    @property
    def rows(self) -> slice:
        """Return its rows in [H, W]."""
        return slice(self.top_px, self.top_px + self.height_px)

    @property
    def columns(self) -> slice:
        """Return its columns in [H, W]."""
        return slice(self.left_px, self.left_px + self.width_px)


def strides_for(fps_N: np.ndarray, target_fps: float) -> np.ndarray:
    """Return int64 [N]: the strides that bring rates nearest to the target; 0 where that is not near."""
    strides_N = np.maximum(1, np.rint(fps_N / target_fps)).astype(np.int64)
    is_near_N = np.abs(fps_N / strides_N / target_fps - 1) <= FPS_TOLERANCE + 1e-6
    return np.where(is_near_N, strides_N, 0)


def stride_for(fps: float, target_fps: float) -> int | None:
    """Return the stride that brings `fps` nearest to the target; None where that is not near."""
    return int(strides_for(np.array([fps]), target_fps)[0]) or None


def stride_of(clip: Clip, config: DataConfig) -> int:
    """Return the stride of a clip's windows; 0 where its frame rate does not serve."""
    return config.frame_stride if config.target_fps is None else stride_for(clip.fps, config.target_fps) or 0


def span_frames(clip: Clip, config: DataConfig) -> int:
    """Return how many frames of the clip one window spans, first to last."""
    return (config.num_frames - 1) * stride_of(clip, config) + 1


def nearest_buckets(height_px_N: np.ndarray, width_px_N: np.ndarray, sizes: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Return int64 [N]: numbers of the sizes whose ratio of the sides is nearest; of equally near ones the first."""
    ratios_N, ratios_S = np.log(height_px_N / width_px_N), np.log([height / width for height, width in sizes])
    nearest_N = np.zeros(len(ratios_N), dtype=np.int64)
    distance_N = np.full(len(ratios_N), np.inf)
    for number, ratio in enumerate(ratios_S):
        further_N = np.abs(ratios_N - ratio)
        nearest_N[further_N < distance_N] = number
        distance_N = np.minimum(distance_N, further_N)
    return nearest_N


def nearest_bucket(height_px: int, width_px: int, sizes: tuple[tuple[int, int], ...]) -> int:
    """Return the number of the size whose ratio of the sides is nearest; of equally near ones the first."""
    return int(nearest_buckets(np.array([height_px]), np.array([width_px]), sizes)[0])


def fits_window(clips: Manifest, strides_N: np.ndarray, config: DataConfig) -> np.ndarray:
    """Return bool [N]: which clips are as long and as large as their windows; strides_N are theirs."""
    height_px_N, width_px_N = clips.column("height_px"), clips.column("width_px")
    fits_N = clips.column("num_frames") >= (config.num_frames - 1) * strides_N + 1
    if config.resize != "pad":
        sizes_S2 = np.array(config.sizes_px)[nearest_buckets(height_px_N, width_px_N, config.sizes_px)]
        fits_N &= (height_px_N >= sizes_S2[:, 0]) & (width_px_N >= sizes_S2[:, 1])
    return fits_N


def check_window_fits(clip: Clip, config: DataConfig) -> None:
    """Raise `DataError` where a clip is too short for a window, or smaller than what is cut out of it."""
    span = span_frames(clip, config)
    if clip.num_frames < span:
        raise DataError(
            f"clip {clip.clip_id} has {clip.num_frames} frames, and a window of data.num_frames={config.num_frames}"
            f" with a stride of {stride_of(clip, config)} spans {span}; use shorter windows, or build the manifest with"
            " longer clips"
        )
    height_px, width_px = config.sizes_px[nearest_bucket(clip.height_px, clip.width_px, config.sizes_px)]
    if config.resize != "pad" and (clip.height_px < height_px or clip.width_px < width_px):
        raise DataError(
            f"clip {clip.clip_id} is {clip.width_px}x{clip.height_px} px, smaller than the {width_px}x{height_px} of"
            " its windows (data.width_px, data.height_px, data.buckets); use a smaller size or data.resize=pad, or pack"
            " the manifest with upscaling allowed"
        )


def box_size(clip: Clip, config: DataConfig, height_px: int, width_px: int) -> tuple[int, int]:
    """Return (height_px, width_px) of the part of the video's picture that a window of that size shows."""
    match config.resize:
        case "crop":
            return height_px, width_px
        case "resize_crop":
            return largest_box(clip.height_px, clip.width_px, height_px, width_px)
        case "pad":
            return clip.height_px, clip.width_px


def inner_box(clip: Clip, config: DataConfig, height_px: int, width_px: int) -> Box | None:
    """Return where in the window a picture that is not cut lies: in the middle, as large as fits."""
    if config.resize != "pad":
        return None
    scale = min(height_px / clip.height_px, width_px / clip.width_px)
    inner_height_px = min(height_px, max(1, round(clip.height_px * scale)))
    inner_width_px = min(width_px, max(1, round(clip.width_px * scale)))
    return central_box(height_px, width_px, inner_height_px, inner_width_px)


def largest_box(height_px: int, width_px: int, target_height_px: int, target_width_px: int) -> tuple[int, int]:
    """Return the largest part of a picture that has the target's shape, to whole pixels."""
    if height_px * target_width_px <= width_px * target_height_px:
        return height_px, max(1, height_px * target_width_px // target_height_px)
    return max(1, width_px * target_height_px // target_width_px), width_px


def central_box(height_px: int, width_px: int, box_height_px: int, box_width_px: int) -> Box:
    return Box(
        top_px=(height_px - box_height_px) // 2,
        left_px=(width_px - box_width_px) // 2,
        height_px=box_height_px,
        width_px=box_width_px,
    )
