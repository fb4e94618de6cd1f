"""Batches of decoded video, made ahead of the training step.

    for batch in VideoBatches(plan, decoder, (rank_slice(step, ...) for step in steps)): ...

Order and content are a function of the plan and the files alone: up to `prefetch_batches` batches are decoded ahead, at
the same time, fewer where they would pass `memory_mib`; they come out in the order in which they were asked for.

A clip that cannot be decoded, or whose camera or actions are impossible, is replaced by the plan's next candidate,
sample(i, attempt=1, 2, ...). Nothing that was seen before decides about it (a clip may be damaged in one window only),
so a run that resumes, on any number of ranks, makes the same replacements as one that was never stopped.
"""

import json
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from cosmos_data.config import DataConfig
from cosmos_data.decoders.decode import VideoDecoder
from cosmos_data.decoders.transform import padding_mask
from cosmos_data.errors import ClipError, DataError
from cosmos_data.sample_plan.plan import Sample, SamplePlan

QUARANTINE = "quarantine.jsonl"
"""File inside a run's folder that names the clips that could not be decoded."""


@dataclass(frozen=True, slots=True)
class BadClip:
    """A clip that could not be used, and for which sample of the run it was first noticed."""

    digest: str
    clip_id: str
    path: str
    reason: str
    index: int


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoBatch:
    """The samples of one list of indices are decoded in it."""

    pixels_B3THW: Tensor
    """What the decoder gives: uint8 RGB on its device, or latents of a decoder that encodes. With several views B
    counts them too: sample 0's views, then sample 1's."""

    samples: tuple[Sample, ...]
    """What each row is: caption and fps too (`sample.caption`, `sample.fps`)."""

    wait_sec: float
    """How long the training step waited for this batch."""

    @property
    def padding_mask_B1HW(self) -> Tensor:
        """Return bool, on the CPU, which is True where a picture was padded."""
        return torch.stack([padding_mask(sample) for sample in self.samples])


_Loaded = tuple[Tensor, tuple[Sample, ...], list[BadClip]]


class VideoBatches:
    """Iterates once over `index_lists`, one batch per list of sample indices. How far it runs ahead and what it
    tolerates is in the plan's configuration.

    views: numbers of the views that are decoded of each sample.
    quarantine: a JSON lines file to which bad clips are added when they are first met, as data.quarantine wants it.
    """

    def __init__(
        self,
        plan: SamplePlan,
        decoder: VideoDecoder,
        index_lists: Iterable[Sequence[int]],
        *,
        views: Sequence[int] = (0,),
        quarantine: Path | None = None,
    ) -> None:
        self._plan, self._decoder = plan, decoder
        self.config: DataConfig = plan.config
        self._index_lists, self._views, self._quarantine = index_lists, tuple(views), quarantine
        self._num_clips = plan.num_clips
        self.bad_clips: dict[str, BadClip] = {}
        """By digest, for the batches handed out so far."""
        self.total_wait_sec = 0.0
        self.most_bytes_ahead = 0
        """The most that was held, or being made, at once, in bytes of pixels."""

    def __iter__(self) -> Iterator[VideoBatch]:
        # These threads wait: the decoder has its own. So none of those is idle while a batch's last window is decoded.
        num_at_once = min(self.config.prefetch_batches, self.config.num_workers)
        pool = ThreadPoolExecutor(num_at_once, thread_name_prefix="video-batches")
        pending: deque[tuple[Future[_Loaded], int]] = deque()
        limit = self.config.memory_mib * 2**20
        try:
            for indices in self._index_lists:
                samples = [self._plan.sample(index, view=view) for index, view in product(indices, self._views)]
                num_bytes = _num_bytes(samples)
                if num_bytes > limit:
                    raise DataError(
                        f"a batch of {len(samples)} windows takes {num_bytes / 2**20:.0f} MiB, more than"
                        f" data.memory_mib={self.config.memory_mib}; allow more, or use a smaller batch"
                    )
                while pending and sum(size for _, size in pending) + num_bytes > limit:
                    yield self._hand_out(pending.popleft()[0])
                pending.append((pool.submit(self._load, samples), num_bytes))
                self.most_bytes_ahead = max(self.most_bytes_ahead, sum(size for _, size in pending))
                if len(pending) > self.config.prefetch_batches:
                    yield self._hand_out(pending.popleft()[0])
            while pending:
                yield self._hand_out(pending.popleft()[0])
        finally:
            # Also when the caller stops early: what was asked for ahead is dropped.
            pool.shutdown(cancel_futures=True)

    def _hand_out(self, future: Future[_Loaded]) -> VideoBatch:
        asked_sec = time.perf_counter()
        pixels_B3THW, samples, bad = future.result()
        wait_sec = time.perf_counter() - asked_sec
        self.total_wait_sec += wait_sec
        # Counted here and not where they are found, which is some batches ahead.
        for clip in bad:
            if clip.digest not in self.bad_clips:
                self.bad_clips[clip.digest] = clip
                self._write_down(clip)
        self._check_bad_share()
        return VideoBatch(pixels_B3THW=pixels_B3THW, samples=samples, wait_sec=wait_sec)

    def _load(self, samples: list[Sample]) -> _Loaded:
        bad: list[BadClip] = []
        while True:
            try:
                _check_conditions(samples)
                return self._decoder.decode(samples), tuple(samples), bad
            except ClipError as error:
                failed = samples[error.position]
                clip = failed.clip
                bad.append(BadClip(clip.digest, clip.clip_id, clip.path, str(error), failed.index))
                attempt = failed.attempt + 1
                if attempt == self._plan.num_candidates(failed.index):
                    raise DataError(f"no clip can be decoded; the last one: {error}") from error
                first = error.position // len(self._views) * len(self._views)
                for number, view in enumerate(self._views):
                    samples[first + number] = self._plan.sample(failed.index, attempt, view)

    def _write_down(self, clip: BadClip) -> None:
        if self._quarantine is not None:
            self._quarantine.parent.mkdir(parents=True, exist_ok=True)
            # One short write at the end of the file: ranks that share it do not tear each other's lines.
            with self._quarantine.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(clip)) + "\n")

    def _check_bad_share(self) -> None:
        if len(self.bad_clips) > self.config.max_bad_share * self._num_clips:
            listing = "\n".join(f"  {clip.clip_id}: {clip.reason}" for clip in self.bad_clips.values())
            raise DataError(
                f"{len(self.bad_clips)} of {self._num_clips} clips cannot be decoded, more than"
                f" data.max_bad_share={self.config.max_bad_share}; repair them, or name them in"
                f" data.quarantine:\n{listing}"
            )


def _check_conditions(samples: Sequence[Sample]) -> None:
    for position, sample in enumerate(samples):
        fault = next(sample.clip.faults(), None)
        if fault is not None:
            raise ClipError(f"clip {sample.clip.clip_id}: {fault}", position=position)


def _num_bytes(samples: Sequence[Sample]) -> int:
    return sum(3 * sample.num_frames * sample.height_px * sample.width_px for sample in samples)
