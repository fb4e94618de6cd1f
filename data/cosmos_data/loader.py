"""Batches of decoded video, made ahead of the training step.

    for batch in VideoBatches(plan, decoder, (rank_slice(step, ...) for step in steps)): ...

Order and content are a function of the plan and the files alone: one thread runs ahead by `prefetch_batches` batches
and the batches come out in the order in which they were asked for.

A clip that cannot be decoded is replaced by the plan's next candidate, sample(i, attempt=1, 2, ...). Nothing that was
seen before decides about it (a clip may be damaged in one window only), so a run that resumes makes the same
replacements as one that was never stopped.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from torch import Tensor

from cosmos_data.decode import Decoder
from cosmos_data.errors import ClipError, DataError
from cosmos_data.plan import Sample, SamplePlan


@dataclass(frozen=True, slots=True)
class BadClip:
    """A clip that could not be decoded, and for which sample of the run it was first noticed."""

    clip_id: str
    path: str
    reason: str
    index: int


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoBatch:
    pixels_B3THW: Tensor
    """uint8 RGB, on the decoder's device."""

    samples: tuple[Sample, ...]
    """What each row is: caption and fps too (`sample.clip.caption`, `sample.fps`)."""

    wait_sec: float
    """How long the training step waited for this batch."""


class VideoBatches:
    """Iterates once over `index_lists`, one batch per list of sample indices."""

    def __init__(
        self,
        plan: SamplePlan,
        decoder: Decoder,
        index_lists: Iterable[Sequence[int]],
        *,
        prefetch_batches: int = 2,
        max_bad_share: float = 0.05,
    ) -> None:
        if prefetch_batches < 1:
            raise DataError(f"prefetch_batches={prefetch_batches} is not a positive count; use 1 or more")
        self._plan = plan
        self._decoder = decoder
        self._index_lists = index_lists
        self._prefetch_batches = prefetch_batches
        self._max_bad_share = max_bad_share
        self.bad_clips: dict[str, BadClip] = {}
        """By clip_id, for the batches handed out so far."""
        self.total_wait_sec = 0.0

    def __iter__(self) -> Iterator[VideoBatch]:
        pool = ThreadPoolExecutor(1, thread_name_prefix="video-batches")
        pending: deque[Future[tuple[Tensor, tuple[Sample, ...], list[BadClip]]]] = deque()
        try:
            for indices in self._index_lists:
                pending.append(pool.submit(self._load, indices))
                if len(pending) > self._prefetch_batches:
                    yield self._hand_out(pending.popleft())
            while pending:
                yield self._hand_out(pending.popleft())
        finally:
            # Also when the caller stops early: what was asked for ahead is dropped.
            pool.shutdown(cancel_futures=True)

    def _hand_out(self, future: Future[tuple[Tensor, tuple[Sample, ...], list[BadClip]]]) -> VideoBatch:
        asked_sec = time.perf_counter()
        pixels_B3THW, samples, bad = future.result()
        wait_sec = time.perf_counter() - asked_sec
        self.total_wait_sec += wait_sec
        # Counted here and not where they are found, which is some batches ahead.
        for clip in bad:
            self.bad_clips.setdefault(clip.clip_id, clip)
        self._check_bad_share()
        return VideoBatch(pixels_B3THW=pixels_B3THW, samples=samples, wait_sec=wait_sec)

    def _load(self, indices: Sequence[int]) -> tuple[Tensor, tuple[Sample, ...], list[BadClip]]:
        samples = [self._plan.sample(index) for index in indices]
        bad: list[BadClip] = []
        while True:
            try:
                return self._decoder.decode(samples), tuple(samples), bad
            except ClipError as error:
                failed = samples[error.position]
                bad.append(BadClip(failed.clip.clip_id, failed.clip.path, str(error), failed.index))
                if failed.attempt + 1 == len(self._plan.clips):
                    raise DataError(f"no clip can be decoded; the last one: {error}") from error
                samples[error.position] = self._plan.sample(failed.index, failed.attempt + 1)

    def _check_bad_share(self) -> None:
        num_clips = len(self._plan.clips)
        if len(self.bad_clips) > self._max_bad_share * num_clips:
            listing = "\n".join(f"  {clip.clip_id}: {clip.reason}" for clip in self.bad_clips.values())
            raise DataError(
                f"{len(self.bad_clips)} of {num_clips} clips cannot be decoded, more than"
                f" data.max_bad_share={self._max_bad_share}; repair them and build the manifest again:\n{listing}"
            )
