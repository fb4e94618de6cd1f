"""What a video that is to be steered looks like, and what a clip of a manifest would steer it with."""

from dataclasses import dataclass, replace
from pathlib import Path

from cosmos_data.config import DataConfig
from cosmos_data.errors import DataError
from cosmos_data.manifests.clip import Clip
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.sample_plan.plan import central_sample
from cosmos_data.sample_plan.window import span_frames, stride_for
from cosmos_data.sample_plan.window_conditions import WindowConditions, conditions_of

CLIP_MARK = "#"
"""MANIFEST#CLIP names a clip of a manifest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SteeredVideo:
    """The video that is asked for, as conditions must fit it."""

    num_frames: int
    fps: float
    height_px: int
    width_px: int


def names_clip(source: str) -> bool:
    """Return whether a command's argument names a clip of a manifest."""
    return CLIP_MARK in source and not Path(source).exists()


def conditions_of_clip(source: str, video: SteeredVideo, data: DataConfig) -> WindowConditions:
    """Return the conditions of a clip from its first frame on, cut to the video as a training window's are.

    Args:
        source: MANIFEST#CLIP, or MANIFEST#CLIP.VIEW for a view that is not the first.
        data: how the model's windows are cut out of pictures.

    Raises:
        DataError: there is no such clip, its conditions are impossible, or it is shorter than the video or of a frame
            rate that does not serve it.
    """
    path, _, name = source.rpartition(CLIP_MARK)
    clip = _find_clip(Path(path), name)
    stride = stride_for(clip.fps, video.fps)
    if stride is None:
        raise DataError(
            f"{source} has {clip.fps:g} frames per second and the video {video.fps:g}, and no stride brings them "
            "together; name a clip of another rate, or give --fps"
        )
    size = data.of_size(video.height_px, video.width_px)
    config = replace(size, num_frames=video.num_frames, frame_stride=stride, target_fps=None)
    if clip.num_frames < span_frames(clip, config):
        raise DataError(
            f"{source} has {clip.num_frames} frames, fewer than the {span_frames(clip, config)} that a video of "
            f"{video.num_frames} frames at {video.fps:g} per second spans; name a longer clip, or give --num-frames"
        )
    return conditions_of(central_sample(clip, config))


def _find_clip(path: Path, name: str) -> Clip:
    if not path.is_file():
        raise DataError(f"{path}{CLIP_MARK}{name}: {path} is not a file; name a manifest, {CLIP_MARK} and a clip of it")
    rows = Manifest.read(path)
    names = rows.arrow_column("clip_id").to_pylist()
    if name in names:
        return rows[names.index(name)].each_view()[0]
    clip_id, _, view = name.rpartition(".")
    if clip_id in names:
        for clip in rows[names.index(clip_id)].each_view():
            if clip.view == view:
                return clip
    shown = ", ".join(names[:3])
    raise DataError(f"{path} has no clip {name!r}; its {len(names)} clips are {shown}{', ...' * (len(names) > 3)}")
