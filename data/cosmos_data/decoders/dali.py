"""The sample plan executed by NVIDIA DALI: `fn.decoders.video` on the CPU, or on the GPU's video engine (NVDEC).

DALI gets a file's bytes and frame numbers and gives whole pictures; it draws nothing at random and no state of it
enters a checkpoint. Cutting, scaling and mirroring is `transform.py`'s, as for PyAV: on the CPU the pixels of the two
are equal.

Two properties of DALI 2.4 shape this file. Its CPU decoder does not notice missing or overwritten bytes of an MJPEG
file and gives pictures of the right size full of rubbish, so the bytes are checked against the manifest's digest,
which they must be read for anyway. And a file is handed over whole, on the CPU decoded from its first frame on:
short files, as `pack_manifest` writes them, are what makes it fast.
"""

import hashlib
import logging
from collections.abc import Sequence
from threading import Lock

import numpy as np
import torch
from nvidia.dali import fn, types
from nvidia.dali.backend import TensorListCPU, TensorListGPU
from nvidia.dali.pipeline import Pipeline
from torch import Tensor

from cosmos_data.contents import HEAD_BYTES, content_of
from cosmos_data.decoders.stall import Stalled, Workers, stall_error
from cosmos_data.decoders.transform import fit_frames
from cosmos_data.errors import ClipError
from cosmos_data.sample_plan.plan import Sample

logger = logging.getLogger(__name__)


class DaliDecoder:
    """It is a `VideoDecoder` on `device`, of `num_threads` samples at a time on the CPU."""

    def __init__(self, device: torch.device, num_threads: int, stall_sec: float = 120.0) -> None:
        self._device = device
        self._stall_sec = stall_sec
        self._num_threads = num_threads
        self._pipeline: Pipeline | None = None
        self._max_batch_size = 0
        # A pipeline runs one batch at a time.
        self._lock = Lock()
        # A stream of its own: on the default stream it would wait for the training step that is queued there.
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def decode(self, samples: Sequence[Sample]) -> Tensor:
        """See `VideoDecoder`."""
        encoded = []
        for position, sample in enumerate(samples):
            try:
                encoded.append(read_verified(sample))
            except ClipError as error:
                raise ClipError(str(error), position=position) from error
        with self._lock:
            try:
                worker = Workers[None, Tensor](lambda _: self._run(samples, encoded), 1, self._stall_sec)
                [pixels] = worker.map([None])
                if isinstance(pixels, Exception):
                    raise pixels
                return pixels
            except Stalled as stalled:
                raise stall_error(samples, self._stall_sec) from stalled
            except RuntimeError as error:
                # DALI does not say which sample it was: one by one.
                windows = [
                    self._run_alone(position, sample, encoded[position]) for position, sample in enumerate(samples)
                ]
                logger.warning("DALI failed on a batch and then decoded each of its clips: %s", _reason(error))
                return torch.cat(windows)

    def _run_alone(self, position: int, sample: Sample, encoded: np.ndarray) -> Tensor:
        try:
            return self._run([sample], [encoded])
        except RuntimeError as error:
            raise ClipError(f"{sample.clip.path}: {_reason(error)}", position=position) from error
        except ClipError as error:
            raise ClipError(str(error), position=position) from error

    def _run(self, samples: Sequence[Sample], encoded: list[np.ndarray]) -> Tensor:
        if self._pipeline is None or self._max_batch_size < len(samples):
            self._pipeline = build_pipeline(self._device, self._num_threads, len(samples))
            self._max_batch_size = len(samples)
        # After an error DALI calls a pipeline invalid: then the next batch gets a new one.
        pipeline, self._pipeline = self._pipeline, None
        (pictures,) = pipeline.run(
            encoded=encoded,
            start_frame=[np.int32(sample.start_frame) for sample in samples],
            num_frames=[np.int32(sample.num_frames) for sample in samples],
            frame_stride=[np.int32(sample.frame_stride) for sample in samples],
        )
        self._pipeline = pipeline
        if self._stream is None:
            return _fit_all(pictures, samples)
        with torch.cuda.stream(self._stream):
            pixels_B3THW = _fit_all(pictures, samples)
        # DALI reuses its pictures once they are let go here; torch reuses ours once the default stream is done.
        self._stream.synchronize()
        pixels_B3THW.record_stream(torch.cuda.default_stream(self._device))
        return pixels_B3THW


def _fit_all(pictures: TensorListCPU | TensorListGPU, samples: Sequence[Sample]) -> Tensor:
    windows = []
    for position, sample in enumerate(samples):
        frames_THWC = torch.from_dlpack(pictures[position])
        if len(frames_THWC) != sample.num_frames:
            raise ClipError(f"{sample.clip.path} ends before the window does", position=position)
        try:
            windows.append(fit_frames(frames_THWC, sample))
        except ClipError as error:
            raise ClipError(str(error), position=position) from error
    return torch.stack(windows)


def _reason(error: RuntimeError) -> str:
    """Say what DALI encountered, without the traceback of the pipeline's definition."""
    return " ".join(str(error).split("encountered:")[-1].split("C++ context")[0].split())


def read_verified(sample: Sample) -> np.ndarray:
    """Read the file's bytes, which must be those that the manifest was built from, and of a video: DALI takes a text
    for one, too, and decodes the files that it names.

    Raises `ClipError` where they are not, or it can not be read.
    """
    clip = sample.clip
    try:
        encoded = clip.file.read_bytes()
    except OSError as error:
        raise ClipError(f"{clip.path} cannot be read ({error.strerror})") from error
    sha256 = hashlib.sha256(encoded).hexdigest()
    if clip.digest_of(sha256, clip.num_frames) != clip.digest:
        raise ClipError(f"{clip.path} has changed since the manifest was built")
    content = content_of(encoded[:HEAD_BYTES])
    if content.kind != "video":
        raise ClipError(
            f"{clip.path} is {content.what}, which DALI is not given; use data.decoder=pyav if it is a video"
        )
    return np.frombuffer(encoded, dtype=np.uint8)


def build_pipeline(device: torch.device, num_threads: int, max_batch_size: int) -> Pipeline:
    """Build what turns encoded bytes, start_frame, num_frames and frame_stride into whole pictures, uint8 [T, rows,
    columns, 3] each."""
    on_gpu = device.type == "cuda"
    pipeline = Pipeline(
        batch_size=max_batch_size,
        num_threads=num_threads,
        device_id=(device.index or 0) if on_gpu else None,
        exec_dynamic=True,
        # A batch is asked for and waited for: the loader runs ahead, not DALI.
        prefetch_queue_depth=1,
    )
    with pipeline:
        encoded = fn.external_source(name="encoded", dtype=types.DALIDataType.UINT8, ndim=1)
        numbers = {
            name: fn.external_source(name=name, dtype=types.DALIDataType.INT32, ndim=0)
            for name in ("start_frame", "num_frames", "frame_stride")
        }
        pipeline.set_outputs(
            fn.decoders.video(
                encoded,
                device="mixed" if on_gpu else "cpu",
                start_frame=numbers["start_frame"],
                sequence_length=numbers["num_frames"],
                stride=numbers["frame_stride"],
                pad_mode="none",
            )
        )
    pipeline.build()
    return pipeline
