"""Pictures in and out of a command: the first frames of a video or an image file, and MP4 files that anything plays."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from cosmos_data.config import DataConfig
from cosmos_data.errors import ClipError, DataError
from cosmos_data.manifest import Clip
from cosmos_data.plan import box_size, central_box
from cosmos_data.transform import cut_and_scale
from cosmos_data.video import BadVideoError, RgbConverter, probe_video, read_frames


def read_first_frames(path: Path, num_frames: int, data: DataConfig) -> Tensor:
    """uint8 [3, num_frames, H, W]: the middle of the picture, cut and scaled as training windows are.

    Raises DataError where the file is missing, is no video or image, has fewer frames or is smaller than asked for.
    """
    if not path.is_file():
        raise DataError(f"--input {path} is not a file; name a video or an image")
    try:
        info = probe_video(path)
    except BadVideoError as error:
        raise DataError(f"--input {path}: {error}; name a video or an image") from error
    if info.num_frames < num_frames:
        raise DataError(
            f"--input {path} has {info.num_frames} frames and {num_frames} are the condition; use a longer video, or a "
            "smaller sample.num_condition_frames"
        )
    if info.height_px < data.height_px or info.width_px < data.width_px:
        raise DataError(
            f"--input {path} is {info.width_px}x{info.height_px} px, smaller than the {data.width_px}x{data.height_px} "
            "px that this model was trained at; use a larger picture"
        )
    clip = Clip(
        clip_id=path.name,
        path=str(path.absolute()),
        start_frame=0,
        num_frames=info.num_frames,
        fps=info.fps,
        height_px=info.height_px,
        width_px=info.width_px,
        codec=info.codec,
        color_matrix=info.color_matrix,
        first_pts=info.first_pts,
        digest="",
        caption="",
        split="heldout",
    )
    box = central_box(info.height_px, info.width_px, *box_size(clip, data))
    to_rgb = RgbConverter()
    try:
        frames = [to_rgb(frame) for frame in read_frames(clip, start_frame=0, num_frames=num_frames)]
    except ClipError as error:
        raise DataError(f"--input {error}") from error
    return cut_and_scale(torch.from_numpy(np.stack(frames)), box, data.height_px, data.width_px, flip=False)


def write_mp4(path: Path, video_3THW: Tensor, *, fps: float) -> None:
    """H.264 in MP4, visually lossless. uint8 RGB; written aside, then renamed."""
    aside = path.with_suffix(".partial.mp4")
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(str(aside), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "12"})
        assert isinstance(stream, av.VideoStream)
        _, _, stream.height, stream.width = video_3THW.shape
        stream.pix_fmt = "yuv420p"
        for picture in video_3THW.permute(1, 2, 3, 0).contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    aside.rename(path)
