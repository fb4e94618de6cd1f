"""Executors of the sample plan. A decoder draws nothing at random: the same samples give the same pixels, whatever it
keeps open from one call to the next.

    pixels_B3THW = choose_decoder(config, clips, device).decode(samples)      uint8, RGB
"""

import logging
from collections import deque
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor

from cosmos_data.clip import Clip
from cosmos_data.config import DataConfig
from cosmos_data.errors import ClipError, DataError
from cosmos_data.opened import OpenVideos
from cosmos_data.plan import Sample
from cosmos_data.stall import Stalled, Workers, stall_error
from cosmos_data.transform import fit_picture
from cosmos_data.video import RgbConverter, read_frames

logger = logging.getLogger(__name__)

KEPT_OPEN_BYTES = 256 * 2**20
"""Of decoders whose files stay open for the next window: 50 files of 320x256 px, 4 of 1280x704."""

# What `fn.decoders.video` of DALI 2.4 decodes.
DALI_CPU_CODECS = frozenset({"mjpeg", "vp8", "vp9"})
DALI_PIXEL_FORMATS = frozenset({"yuv420p", "yuvj420p"})
DALI_GPU_CODECS = DALI_CPU_CODECS | {"av1", "h264", "hevc", "mpeg4"}


class Decoder(Protocol):
    def decode(self, samples: Sequence[Sample]) -> Tensor:
        """uint8 [B, 3, T, H, W] on the decoder's device. All samples ask for one size and length. Several threads may
        call at a time.

        Raises `ClipError` with the position of the first sample that cannot be decoded, and `StallError` that names
        the clips that are not decoded within `stall_sec`.
        """
        ...


class PyAVDecoder:
    """FFmpeg's decoders on the CPU, for every codec; a thread for each window, `num_threads` at most, which the batches
    that are decoded at a time share."""

    def __init__(self, num_threads: int, stall_sec: float = 120.0) -> None:
        self._stall_sec = stall_sec
        self._videos = OpenVideos(KEPT_OPEN_BYTES)
        # Those that no thread is using: their tables are kept from window to window.
        self._idle_converters: deque[RgbConverter] = deque()
        self._workers = Workers(self._decode_into, num_threads, stall_sec)

    def decode(self, samples: Sequence[Sample]) -> Tensor:
        first = samples[0]
        shape = len(samples), 3, first.num_frames, first.height_px, first.width_px
        with torch.inference_mode(mode=False):  # or its threads, which are in no such mode, could not write there
            pixels_B3THW = torch.empty(shape, dtype=torch.uint8)
            windows = list(zip(samples, pixels_B3THW, strict=True))
        try:
            results = self._workers.map(windows)
        except Stalled as stalled:
            raise stall_error([sample for sample, _ in stalled.items], self._stall_sec) from stalled
        for position, result in enumerate(results):
            if isinstance(result, ClipError):
                raise ClipError(str(result), position=position) from result
            if isinstance(result, Exception):
                raise result
        return pixels_B3THW

    def _decode_into(self, of: tuple[Sample, Tensor]) -> None:
        """Frame by frame, so that no more than one picture of the video's full size is held."""
        sample, window_3THW = of[0], of[1].numpy()
        try:
            to_rgb = self._idle_converters.pop()
        except IndexError:
            to_rgb = RgbConverter()
        frames = read_frames(
            sample.clip,
            start_frame=sample.start_frame,
            num_frames=sample.num_frames,
            frame_stride=sample.frame_stride,
            videos=self._videos,
        )
        for place, frame in enumerate(frames):
            fit_picture(to_rgb.colours(frame), sample, window_3THW[:, place])
        self._idle_converters.append(to_rgb)


def choose_decoder(config: DataConfig, clips: Iterable[Clip], device: str | torch.device = "cpu") -> Decoder:
    """DALI where it can decode every clip, PyAV elsewhere; the log says which and why.

    device: where pixels are wanted. On "cuda" DALI decodes there (NVDEC); PyAV's pixels stay on the CPU.
    """
    device = torch.device(device)
    obstacle = dali_obstacle(clips, device)
    if config.decoder == "dali" and obstacle is not None:
        raise DataError(f"data.decoder=dali cannot be had: {obstacle}; use auto or pyav")
    if config.decoder == "pyav" or obstacle is not None:
        reason = "data.decoder=pyav" if config.decoder == "pyav" else obstacle
        logger.info("decoder: PyAV with %d threads, because %s", config.num_workers, reason)
        return PyAVDecoder(config.num_workers, config.stall_sec)
    # DALI is an option of the installation: its module is imported where it was found.
    from cosmos_data.dali import DaliDecoder

    logger.info("decoder: DALI on %s with %d threads", device, config.num_workers)
    return DaliDecoder(device, config.num_workers, config.stall_sec)


def dali_obstacle(clips: Iterable[Clip], device: torch.device) -> str | None:
    """Why DALI cannot decode these clips on this device; None if it can."""
    if find_spec("nvidia") is None or find_spec("nvidia.dali") is None:
        return "NVIDIA DALI is not installed (the extra `dali` installs it)"
    codecs = DALI_GPU_CODECS if device.type == "cuda" else DALI_CPU_CODECS
    for clip in clips:
        if clip.codec not in codecs:
            return f"DALI on {device.type} has no decoder for {clip.codec} (clip {clip.clip_id})"
        if clip.pixel_format not in DALI_PIXEL_FORMATS:
            return f"DALI is trusted with 8-bit 4:2:0 video only, not with {clip.pixel_format} (clip {clip.clip_id})"
        if clip.rotation_deg:
            return f"DALI does not turn pictures upright (clip {clip.clip_id})"
        if clip.treatment:
            return f"DALI gives pictures as they are stored, not {clip.treatment} (clip {clip.clip_id})"
        if clip.color_range == "full" and not clip.pixel_format.startswith("yuvj"):
            return f"DALI reads full-range {clip.pixel_format} as limited (clip {clip.clip_id})"
        # It ignores the tag and reads every stream as BT.601; PyAV obeys it.
        if clip.color_matrix != "bt601":
            return f"DALI reads {clip.color_matrix} colours as bt601 (clip {clip.clip_id})"
        # It drops frames that are stamped before zero, which would shift all others.
        if clip.seek != "rate" or clip.first_pts is None or clip.first_pts < 0:
            return f"the time stamps of clip {clip.clip_id} do not number its frames"
    return None
