"""Pictures in and out of a command: the first frames of a video or an image file, and MP4 files that anything plays."""

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import av.error
import numpy as np
import torch
from av.video.reformatter import ColorRange, VideoReformatter
from torch import Tensor

from cosmos_data.config import DataConfig
from cosmos_data.decoders.transform import fit_frames
from cosmos_data.errors import ClipError, DataError
from cosmos_data.location import VideoFile
from cosmos_data.readers.given_clips import clip_of_pictures, whole_video
from cosmos_data.sample_plan.plan import central_sample
from cosmos_data.videos.opened import BadVideoError, open_container
from cosmos_data.videos.pictures import read_pictures
from cosmos_data.videos.video import RgbConverter, read_frames
from cosmos_data.videos.written_colours import matrix_of_size, tag_colours, yuv_frame
from cosmos_data.whole_file import whole_file


def read_first_frames(path: Path, num_frames: int, data: DataConfig, *, crop: bool) -> Tensor:
    """Return uint8 [3, num_frames, H, W] of the size that `data` says.

    crop: the middle of a picture of another size, cut and scaled as training windows are.

    Raises DataError where the file is missing, is no video or image, has fewer frames or is of another size, with crop
    a smaller one.
    """
    if not path.is_file():
        raise DataError(f"--input {path} is not a file; name a video or an image")
    try:
        pictures = read_pictures(path, num_frames)
        clip = whole_video(path) if pictures is None else clip_of_pictures(path, pictures, fps=data.target_fps or 24)
    except BadVideoError as error:
        raise DataError(f"--input {path}: {error}; name a video or an image") from error
    except DataError as error:
        raise DataError(f"--input {error}") from error
    if clip.num_frames < num_frames:
        raise DataError(
            f"--input {path} has {clip.num_frames} frames and {num_frames} are the condition; use a longer video, or a "
            "smaller sample.num_condition_frames"
        )
    if not crop and (clip.height_px, clip.width_px) != (data.height_px, data.width_px):
        raise DataError(
            f"--input {path} is {clip.width_px}x{clip.height_px} px, and this model was trained at "
            f"{data.width_px}x{data.height_px} px; give a picture of that size, or add --crop to have the middle of "
            "this one cut out and scaled"
        )
    if clip.height_px < data.height_px or clip.width_px < data.width_px:
        raise DataError(
            f"--input {path} is {clip.width_px}x{clip.height_px} px, smaller than the {data.width_px}x{data.height_px} "
            "px that this model was trained at; use a larger picture"
        )
    if pictures is None:
        to_rgb = RgbConverter()
        try:
            pictures = [to_rgb(frame) for frame in read_frames(clip, start_frame=0, num_frames=num_frames)]
        except ClipError as error:
            raise DataError(f"--input {error}") from error
    return fit_frames(torch.from_numpy(np.stack(pictures)), central_sample(clip, data))


def tile(videos_3THW: Sequence[Tensor]) -> Tensor:
    """Return videos of one shape side by side, uint8 [3, T, rows * H, columns * W]; in rows, black where there are too
    few."""
    columns = math.ceil(math.sqrt(len(videos_3THW)))
    rows = math.ceil(len(videos_3THW) / columns)
    black = torch.zeros_like(videos_3THW[0])
    filled = [*videos_3THW, *[black] * (rows * columns - len(videos_3THW))]
    return torch.cat([torch.cat(filled[row * columns : (row + 1) * columns], dim=3) for row in range(rows)], dim=2)


def write_mp4(path: Path, video_3THW: Tensor, *, fps: float) -> None:
    """Write H.264 in MP4, visually lossless, tagged with its colours, of uint8 RGB. It is written aside, then
    renamed."""
    write_mp4_pieces(path, [video_3THW], fps=fps)


def write_mp4_pieces(path: Path, pieces: Iterable[Tensor], *, fps: float, comment: str = "") -> None:
    """Do as `write_mp4` with consecutive pieces [3, t, H, W] of a video, at least one; `comment` becomes the file's
    tag.

    Colours have half the picture's resolution, as players expect; the full one where a side is odd and has no half.
    """
    rate, to_yuv = Fraction(fps).limit_denominator(1001), VideoReformatter()
    with whole_file(path) as aside, av.open(str(aside), "w", format="mp4") as container:
        container.metadata["comment"] = comment
        stream = container.add_stream("libx264", rate=rate, options={"crf": "12"})
        assert isinstance(stream, av.VideoStream)
        waiting = iter(pieces)
        first_3THW = next(waiting)
        _, _, height_px, width_px = first_3THW.shape
        pixel_format = "yuv444p" if height_px % 2 or width_px % 2 else "yuv420p"
        matrix = matrix_of_size(height_px, width_px)
        stream.height, stream.width, stream.pix_fmt = height_px, width_px, pixel_format
        tag_colours(stream, matrix, ColorRange.MPEG)
        for piece_3THW in chain([first_3THW], waiting):
            for rgb_HW3 in piece_3THW.permute(1, 2, 3, 0).contiguous().numpy():
                frame = yuv_frame(to_yuv, rgb_HW3, pixel_format, matrix, ColorRange.MPEG)
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def mp4_comment(path: Path) -> str:
    """Return what `write_mp4_pieces` wrote with the video; empty where there is no such file."""
    if not path.is_file():
        return ""
    try:
        with open_container(VideoFile(str(path))) as container:
            return container.metadata.get("comment", "")
    except (av.error.FFmpegError, BadVideoError) as error:
        reason = error.strerror if isinstance(error, av.error.FFmpegError) else error
        raise DataError(f"{path} is there and is no video ({reason}); remove it") from error
