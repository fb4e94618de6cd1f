"""Executors of the sample plan. A decoder draws nothing at random: the same samples give the same pixels, whatever it
keeps open from one call to the next.

    pixels_B3THW = choose_decoder(config, manifests, device).decode(samples)      uint8, RGB
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor

from cosmos_data.config import DataConfig
from cosmos_data.decoders.buffers import Buffers
from cosmos_data.decoders.dali_limits import count_obstacles, dali_obstacle
from cosmos_data.decoders.stall import Stalled, Workers, stall_error
from cosmos_data.decoders.transform import check_size, fit_picture
from cosmos_data.errors import ClipError, DataError
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.sample_plan.plan import Sample
from cosmos_data.videos.opened import OpenVideos
from cosmos_data.videos.shown import Orientation, orientation_of
from cosmos_data.videos.video import RgbConverter, read_frames

logger = logging.getLogger(__name__)

KEPT_OPEN_BYTES = 256 * 2**20
"""50 files of 320x256 px, 4 of 1280x704."""


class VideoDecoder(Protocol):
    """What executes samples; see this module."""

    def decode(self, samples: Sequence[Sample]) -> Tensor:
        """Decode to uint8 [B, 3, T, H, W] on the decoder's device. All samples ask for one size and length. Several
        threads may call at a time.

        Raises `ClipError` with the position of the first sample that cannot be decoded, and `StallError` that names
        the clips that are not decoded within `stall_sec`.
        """
        ...


class PyAVDecoder:
    """It decodes every codec by FFmpeg on the CPU, with a thread for each window, `num_threads` at most, which the
    batches that are decoded at a time share.

    kept_open_bytes: of decoders whose files stay open for the next window.
    """

    def __init__(self, num_threads: int, stall_sec: float = 120.0, *, kept_open_bytes: int = KEPT_OPEN_BYTES) -> None:
        self._stall_sec = stall_sec
        self._videos = OpenVideos(kept_open_bytes)
        self._buffers = Buffers()
        # Those that no thread is using: their tables are kept from window to window.
        self._idle_converters: deque[RgbConverter] = deque()
        self._workers = Workers(self._decode_into, num_threads, stall_sec)

    def decode(self, samples: Sequence[Sample]) -> Tensor:
        """See `VideoDecoder`."""
        return self.begin(samples)()

    def begin(self, samples: Sequence[Sample]) -> Callable[[], Tensor]:
        """Begin to `decode`; the pixels are waited for when they are called for."""
        first = samples[0]
        shape = len(samples), 3, first.num_frames, first.height_px, first.width_px
        with torch.inference_mode(mode=False):  # or its threads, which are in no such mode, could not write there
            pixels_B3THW = self._buffers.empty(shape)
            windows = list(zip(samples, pixels_B3THW, strict=True))
        return partial(self._finish, pixels_B3THW, self._workers.begin(windows))

    def _finish(self, pixels_B3THW: Tensor, collect: Callable[[], list[Exception | None]]) -> Tensor:
        try:
            results = collect()
        except Stalled as stalled:
            raise stall_error([sample for sample, _ in stalled.items], self._stall_sec) from stalled
        for position, result in enumerate(results):
            if isinstance(result, ClipError):
                raise ClipError(str(result), position=position) from result
            if isinstance(result, Exception):
                raise result
        return pixels_B3THW

    def _decode_into(self, of: tuple[Sample, Tensor]) -> None:
        """Decode frame by frame, so that no more than one picture of the video's full size is held."""
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
        orientation: Orientation | None = None
        for place, frame in enumerate(frames):
            orientation = orientation or orientation_of(frame)
            check_size(orientation.upright_size(frame.height, frame.width), sample.clip)
            fit_picture(to_rgb.colours(frame, orientation, sample.box), sample, window_3THW[:, place])
        self._idle_converters.append(to_rgb)


class DecoderPerClip:
    """DALI decodes the clips that it can and PyAV the others, both at the same time; on a CPU the pixels are those of
    either, bit for bit.

    pyav: None: a clip that DALI can not decode is an error.
    """

    def __init__(self, dali: VideoDecoder, pyav: PyAVDecoder | None, device: torch.device) -> None:
        self._dali, self._pyav, self._device = dali, pyav, device
        # See DaliDecoder: it does not wait for the training step.
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def decode(self, samples: Sequence[Sample]) -> Tensor:
        """See `VideoDecoder`."""
        by_dali, by_pyav = list[int](), list[int]()
        for position, sample in enumerate(samples):
            obstacle = dali_obstacle(sample.clip, self._device.type)
            if obstacle is not None and self._pyav is None:
                raise _no_dali(f"clip {sample.clip.clip_id}: {obstacle}")
            (by_dali if obstacle is None else by_pyav).append(position)
        if self._pyav is None or not by_pyav:
            return self._dali.decode(samples)
        pyav_pixels = self._pyav.begin([samples[position] for position in by_pyav])
        parts, failed = list[tuple[list[int], Tensor]](), list[ClipError]()
        if by_dali:
            dali_samples = [samples[position] for position in by_dali]
            _add_part(parts, failed, by_dali, lambda: self._dali.decode(dali_samples))
        _add_part(parts, failed, by_pyav, pyav_pixels)
        if failed:
            raise min(failed, key=lambda error: error.position)
        if self._stream is None:
            return _merged(parts, self._device)
        with torch.cuda.stream(self._stream):
            pixels_B3THW = _merged(parts, self._device)
        self._stream.synchronize()
        pixels_B3THW.record_stream(torch.cuda.default_stream(self._device))
        return pixels_B3THW


def _add_part(
    parts: list[tuple[list[int], Tensor]],
    failed: list[ClipError],
    positions: list[int],
    decode: Callable[[], Tensor],
) -> None:
    """Add what one decoder gives for the samples at these positions, or its error with the position among all
    samples."""
    try:
        parts.append((positions, decode()))
    except ClipError as error:
        placed = ClipError(str(error), position=positions[error.position])
        placed.__cause__ = error
        failed.append(placed)


def _merged(parts: Sequence[tuple[list[int], Tensor]], device: torch.device) -> Tensor:
    if len(parts) == 1:
        return parts[0][1].to(device)
    shape = sum(len(positions) for positions, _ in parts), *parts[0][1].shape[1:]
    pixels_B3THW = torch.empty(shape, dtype=torch.uint8, device=device)
    for positions, part_B3THW in parts:
        for position, window_3THW in zip(positions, part_B3THW, strict=True):
            pixels_B3THW[position].copy_(window_3THW)
    return pixels_B3THW


def choose_decoder(
    config: DataConfig, manifests: Sequence[Manifest], device: str | torch.device = "cpu"
) -> VideoDecoder:
    """Choose the decoder of samples of these manifests. With data.decoder=auto each clip goes to DALI where that can
    decode it and to PyAV elsewhere; the log says how many go where, and why.

    device: where pixels are wanted. On "cuda" DALI decodes there (NVDEC); pixels of a decoder that is PyAV alone stay
    on the CPU.
    """
    device = torch.device(device)
    num_clips = sum(len(manifest) for manifest in manifests)
    if config.decoder == "pyav":
        obstacles = Counter[str | None]({"data.decoder=pyav": num_clips})
    elif find_spec("nvidia") is None or find_spec("nvidia.dali") is None:
        obstacles = Counter[str | None]({"NVIDIA DALI is not installed (the extra `dali` installs it)": num_clips})
    else:
        obstacles = count_obstacles(manifests, device.type)
    num_by_dali = obstacles.pop(None, 0)
    if config.decoder == "dali" and obstacles:
        raise _no_dali(", ".join(f"{reason} ({count} clips)" for reason, count in obstacles.most_common()))
    for reason, count in obstacles.most_common():
        threads = f"PyAV with {config.num_workers} threads"
        logger.info("decoder: %s for %d of %d clips, because %s", threads, count, num_clips, reason)
    pyav = PyAVDecoder(config.num_workers, config.stall_sec)
    if not num_by_dali:
        return pyav
    # DALI is an option of the installation: its module is imported where it was found.
    from cosmos_data.decoders.dali import DaliDecoder

    threads = f"DALI on {device} with {config.num_workers} threads"
    logger.info("decoder: %s for %d of %d clips", threads, num_by_dali, num_clips)
    dali = DaliDecoder(device, config.num_workers, config.stall_sec)
    return DecoderPerClip(dali, None if config.decoder == "dali" else pyav, device)


def _no_dali(reason: str) -> DataError:
    return DataError(f"data.decoder=dali cannot be had: {reason}; use auto or pyav")
