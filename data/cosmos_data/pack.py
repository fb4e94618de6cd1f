"""Re-encoding a manifest's clips for training: one short file per clip, at the size that is trained on.

Random windows are cheap in such files: key frames are close together (every frame for mjpeg, every 12th for vp9 and
h264), no frame of another clip is decoded on the way, and mjpeg and vp9 are codecs that DALI has on the CPU too.
Colours become BT.601, which every decoder here reads alike. Clip names, captions and splits stay as they are.
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import torch
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream

from cosmos_data.build import file_sha256
from cosmos_data.errors import DataError
from cosmos_data.manifest import Clip, Manifest, clip_digest
from cosmos_data.plan import central_box, largest_box
from cosmos_data.transform import cut_and_scale
from cosmos_data.video import ACCURATE, RgbConverter, probe_video, read_frames

PackCodec = Literal["mjpeg", "vp9", "h264"]


@dataclass(frozen=True, slots=True)
class Encoding:
    encoder: str
    suffix: str
    pixel_format: str
    color_range: ColorRange
    options: Mapping[str, str]


ENCODINGS: dict[PackCodec, Encoding] = {
    # Quantiser 2 of 31: the finest that FFmpeg recommends; 1 costs half as much again.
    "mjpeg": Encoding("mjpeg", ".avi", "yuvj420p", ColorRange.JPEG, {"qmin": "2", "qmax": "2"}),
    # No lag: then there are no hidden reference frames, and every packet is a frame that is shown.
    "vp9": Encoding(
        "libvpx-vp9",
        ".webm",
        "yuv420p",
        ColorRange.MPEG,
        {
            "crf": "20",
            "b": "0",
            "g": "12",
            "lag-in-frames": "0",
            "deadline": "realtime",
            "cpu-used": "6",
        },
    ),
    "h264": Encoding(
        "libx264",
        ".mp4",
        "yuv420p",
        ColorRange.MPEG,
        {"crf": "16", "g": "12", "keyint_min": "12", "sc_threshold": "0", "bf": "0", "preset": "veryfast"},
    ),
}


def pack_manifest(
    manifest: Manifest,
    out_folder: str | Path,
    *,
    height_px: int,
    width_px: int,
    codec: PackCodec = "mjpeg",
    allow_upscale: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Writes `out_folder` with `manifest.parquet` and one video per clip: the largest central part of the picture that
    has the shape height_px x width_px, scaled to it. The folder is complete or absent.

    progress: called with (clips done, clips in all) after each clip.
    Raises `DataError` before anything is written if the folder exists, the encoder is missing or a clip is too small.
    """
    out_folder = Path(out_folder).absolute()
    _check_request(manifest, out_folder, height_px, width_px, codec, allow_upscale=allow_upscale)
    out_folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out_folder.name}.partial-", dir=out_folder.parent))
    try:
        packed = []
        for row, clip in enumerate(manifest):
            path = aside / f"{row:06d}{ENCODINGS[codec].suffix}"
            encode_clip(clip, path, height_px, width_px, codec)
            packed.append(_packed_clip(clip, path))
            if progress is not None:
                progress(row + 1, len(manifest))
        Manifest(tuple(packed)).write(aside / "manifest.parquet")
        aside.chmod(0o755)  # mkdtemp made it private
        aside.rename(out_folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)  # gone already where all went well
    return Manifest.read(out_folder / "manifest.parquet")


def _check_request(
    manifest: Manifest, out_folder: Path, height_px: int, width_px: int, codec: PackCodec, *, allow_upscale: bool
) -> None:
    if codec not in ENCODINGS:
        raise DataError(f"codec={codec!r} is unknown; use one of {', '.join(ENCODINGS)}")
    encoder = ENCODINGS[codec].encoder
    if encoder not in av.codecs_available:
        raise DataError(f"codec={codec} needs the encoder {encoder}, which this build of PyAV lacks; use another codec")
    for name, size_px in (("height_px", height_px), ("width_px", width_px)):
        if size_px < 2 or size_px % 2:
            raise DataError(f"{name}={size_px} is not a positive even number, which 4:2:0 video needs; use another one")
    if out_folder.exists():
        raise DataError(f"{out_folder} exists already; choose another folder, or remove it")
    if not len(manifest):
        raise DataError("the manifest has no clips to pack")
    for clip in manifest:
        if not allow_upscale and (clip.height_px < height_px or clip.width_px < width_px):
            raise DataError(
                f"clip {clip.clip_id} is {clip.width_px}x{clip.height_px} px, smaller than {width_px}x{height_px};"
                " use a smaller size, or allow upscaling (allow_upscale)"
            )


def encode_clip(clip: Clip, path: Path, height_px: int, width_px: int, codec: PackCodec) -> None:
    box = central_box(clip.height_px, clip.width_px, *largest_box(clip.height_px, clip.width_px, height_px, width_px))
    to_rgb = RgbConverter()
    to_yuv = VideoReformatter()
    encoding = ENCODINGS[codec]
    with av.open(str(path), "w") as container:
        stream = _add_stream(container, encoding, clip.fps, height_px, width_px)
        for number, frame in enumerate(read_frames(clip, start_frame=clip.start_frame, num_frames=clip.num_frames)):
            source_THWC = torch.from_numpy(to_rgb(frame))[None]
            picture_3HW = cut_and_scale(source_THWC, box, height_px, width_px, flip=False)[:, 0]
            picture = to_yuv.reformat(
                av.VideoFrame.from_ndarray(picture_3HW.permute(1, 2, 0).contiguous().numpy(), format="rgb24"),
                format=encoding.pixel_format,
                interpolation=ACCURATE,
                dst_colorspace=Colorspace.ITU601,
                dst_color_range=encoding.color_range,
                threads=1,
            )
            picture.pts = number
            picture.time_base = stream.codec_context.time_base
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def _add_stream(
    container: OutputContainer, encoding: Encoding, fps: float, height_px: int, width_px: int
) -> VideoStream:
    # 1001 brings back the broadcast rates, which are of the form 30000/1001.
    rate = Fraction(fps).limit_denominator(1001)
    stream = container.add_stream(encoding.encoder, rate=rate, options=dict(encoding.options))
    assert isinstance(stream, VideoStream)
    stream.height = height_px
    stream.width = width_px
    stream.pix_fmt = encoding.pixel_format
    stream.codec_context.time_base = 1 / rate
    stream.codec_context.color_range = encoding.color_range
    stream.codec_context.colorspace = Colorspace.ITU601
    return stream


def _packed_clip(clip: Clip, path: Path) -> Clip:
    """The clip in its new file, which is decoded once more to see that it holds what it should."""
    info = probe_video(path)
    assert info.num_frames == clip.num_frames, f"{path}: {info.num_frames} frames written of {clip.num_frames}"
    return replace(
        clip,
        path=str(path),
        start_frame=0,
        fps=info.fps,
        height_px=info.height_px,
        width_px=info.width_px,
        codec=info.codec,
        color_matrix=info.color_matrix,
        first_pts=info.first_pts,
        digest=clip_digest(file_sha256(path), start_frame=0, num_frames=clip.num_frames),
    )
