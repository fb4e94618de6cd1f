"""The sample plan: sample i of a run is a pure function of (manifest digests, weights, seed, i).

Which clip, which window of it, which part of the picture, mirrored or not: everything random is drawn here, from a
counter-based generator (Philox; the digest and the seed are its key, i its counter), so sample i costs the same
whichever samples came before it, and neither the number of ranks nor workers nor prefetching can change it. Only raw
Philox words are used, since numpy keeps those the same between its versions and makes no such promise for
`permutation` or `integers`. A checkpoint needs {plan digest, seed, samples consumed} and nothing else. (A sample's
noise level and its number of condition frames are drawn from (seed, i) too, in cosmos_train.objectives.edm.)

What cannot be drawn is counted. Samples are taken in groups (a training step) of one kind, images or video, and one
aspect bucket, so that they stack; kinds, buckets and sources alternate as evenly as their shares allow, and how often
each has come before sample i is a closed form of i. So each (kind, source, bucket) visits its clips once per epoch of
its own, in an order of that epoch, none twice and none left out.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cosmos_data.config import DataConfig
from cosmos_data.errors import DataError
from cosmos_data.manifests.clip import Clip, Split
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.sample_plan.order import WINDOW, Alternation, IndexPlan, below, philox_key, philox_words
from cosmos_data.sample_plan.window import (
    Box,
    box_size,
    central_box,
    check_window_fits,
    fits_window,
    inner_box,
    nearest_buckets,
    span_frames,
    stride_of,
    strides_for,
)

logger = logging.getLogger(__name__)

MOST_RATES = 10
"""Frame rates that a message lists."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One training window of one view, as a decoder executes it."""

    index: int
    attempt: int
    """0; n for the n-th replacement of a sample whose clip could not be decoded."""

    clip: Clip
    start_frame: int
    """First frame, counted from the first frame of the FILE that holds the clip."""

    num_frames: int
    frame_stride: int
    box: Box
    """Of the video's picture: what is shown."""

    height_px: int
    """Of the window; width_px likewise."""

    width_px: int
    inner: Box | None = None
    """The part of the window to which the box is scaled, where the rest is padding; None: all of it."""

    flip: bool

    @property
    def fps(self) -> float:
        """Return the frames per second of the window, its stride counted in."""
        return self.clip.fps / self.frame_stride

    @property
    def caption(self) -> str:
        """Return what is said of these frames."""
        span = (self.num_frames - 1) * self.frame_stride + 1
        return self.clip.caption_at(self.start_frame - self.clip.start_frame, span)


@dataclass(frozen=True, slots=True)
class Part:
    """A manifest in a blend."""

    clips: Manifest
    weight: float = 1.0
    """Samples drawn from it, in proportion to the other parts'."""


def read_parts(config: DataConfig, split: Split, *, verify: bool = True) -> list[Part]:
    """Read the blend that a configuration names. verify: see Manifest.read."""
    manifests = {config.manifest: 1.0} | config.blend
    return [Part(Manifest.read(path, verify=verify).select(split), weight) for path, weight in manifests.items()]


@dataclass(frozen=True, slots=True)
class _Stratum:
    """Holds the clips of one part in one bucket, and the order in which samples of one kind visit them."""

    clips: Manifest
    order: IndexPlan


class SamplePlan:
    """What each sample of a run is. Every clip is checked here, so that no window fails at step 1000.

    image_share: share (0 to 1) of the groups whose samples are single frames.
    group_size: consecutive samples that are of one kind and size: what a step trains on at once. Sample 0 begins a
        group.
    """

    def __init__(
        self, parts: Sequence[Part], seed: int, config: DataConfig, *, image_share: float = 0.0, group_size: int = 1
    ) -> None:
        self.config, self.seed, self._group_size = config, seed, group_size
        quarantined = read_quarantine(config.quarantine)
        self.digest = _blend_digest(parts, quarantined)
        self._key = philox_key(self.digest, seed)
        self.parts = tuple(usable_clips(part.clips, config, quarantined) for part in parts)
        """The clips that samples can be of, of each manifest of the blend."""
        images = Fraction(image_share).limit_denominator(10**6)
        self._kinds = Alternation([images, 1 - images])
        self._configs = (replace(config, num_frames=1), config)
        by_bucket = [clips_by_size(clips, config) for clips in self.parts]
        self._clips_of = list(zip(*by_bucket, strict=True))
        """Bucket -> the clips of each part."""
        weights = [Fraction(part.weight).limit_denominator(10**6) for part in parts]
        per_clip = [weight / len(clips) for weight, clips in zip(weights, self.parts, strict=True)]
        shares = [[one * len(clips) for one, clips in zip(per_clip, row, strict=True)] for row in self._clips_of]
        of_bucket = [sum(row, Fraction(0)) for row in shares]
        self._buckets = Alternation(of_bucket)
        self.size_shares = {
            size_px: share / sum(of_bucket) for size_px, share in zip(config.sizes_px, of_bucket, strict=True) if share
        }
        """(height_px, width_px) of windows -> their share of all, of the sizes that there are clips of."""
        self._parts = [Alternation(row) for row in shares]
        self._strata = dict[tuple[int, int, int], _Stratum]()
        """(kind, bucket, part) -> those that have clips."""
        for (kind, name), (bucket, row) in product(enumerate(("image", "video")), enumerate(self._clips_of)):
            for part, clips in enumerate(row):
                if len(clips):
                    order = IndexPlan(len(clips), f"{self.digest}/{name}/{bucket}/{part}", seed)
                    self._strata[kind, bucket, part] = _Stratum(clips, order)

    @property
    def num_clips(self) -> int:
        """Return the number of clips in all parts."""
        return sum(len(part) for part in self.parts)

    def sample(self, index: int, attempt: int = 0, view: int = 0) -> Sample:
        """Return sample `index`. view: number of the view, 0 for the row's own; all views of a sample show the same
        frames."""
        kind, bucket, stratum, place = self._find(index)
        row, config = stratum.clips[stratum.order.item(place, attempt)], self._configs[kind]
        clip = row.each_view()[view] if row.views else row
        start, top, left, flip = philox_words(self._key, index, attempt, WINDOW, count=4)
        height_px, width_px = config.sizes_px[bucket]
        box_height_px, box_width_px = box_size(clip, config, height_px, width_px)
        has_camera = any(pictures.camera is not None for pictures in (row, *row.views))
        conditioned = has_camera or (row.action, row.state, row.ego_trajectory) != (None,) * 3
        return Sample(
            index=index,
            attempt=attempt,
            clip=clip,
            start_frame=clip.start_frame + below(start, clip.num_frames - span_frames(clip, config) + 1),
            num_frames=config.num_frames,
            frame_stride=stride_of(clip, config),
            box=Box(
                top_px=below(top, clip.height_px - box_height_px + 1),
                left_px=below(left, clip.width_px - box_width_px + 1),
                height_px=box_height_px,
                width_px=box_width_px,
            ),
            height_px=height_px,
            width_px=width_px,
            inner=inner_box(clip, config, height_px, width_px),
            flip=config.flip and not conditioned and below(flip, 2) == 1,
        )

    def num_clips_of(self, bucket: int) -> int:
        """Return the number of clips in one of the sizes, config.sizes_px[bucket]."""
        return sum(map(len, self._clips_of[bucket]))

    def sample_of(self, bucket: int, number: int) -> Sample:
        """Return the number-th sample (from 0) of that size, of a plan without images whose groups are single
        samples."""
        assert self._group_size == 1, "a group of several has one size"
        return self.sample(self._buckets.nth_turn(bucket, number))

    def num_candidates(self, index: int) -> int:
        """Return how many clips could take the place of sample `index`, its own included."""
        return len(self._find(index)[2].clips)

    def _find(self, index: int) -> tuple[int, int, _Stratum, int]:
        """Return (kind, bucket, stratum, place in the stratum's visits)."""
        group, offset = divmod(index, self._group_size)
        kind, group = self._kinds.turn(group)
        bucket, group = self._buckets.turn(group)
        part, place = self._parts[bucket].turn(group * self._group_size + offset)
        return kind, bucket, self._strata[kind, bucket, part], place


def usable_clips(clips: Manifest, config: DataConfig, quarantined: frozenset[str]) -> Manifest:
    """Return the clips without those that were named as bad and those of another frame rate. Raises DataError if there
    are many of the latter, nothing is left, or a clip is too short or too small."""
    fps_N = clips.column("fps")
    strides_N = np.full(len(clips), config.frame_stride)
    if config.target_fps is not None:
        strides_N = strides_for(fps_N, config.target_fps)
    kept_N = np.ones(len(clips), dtype=bool)
    if quarantined:
        named = pa.array(sorted(quarantined))
        is_named = pc.is_in(clips.arrow_column("digest"), value_set=named)  # pyright: ignore[reportAttributeAccessIssue]
        kept_N = ~is_named.to_numpy()
    off_rate_N = kept_N & (strides_N == 0)
    if off_rate_N.any():
        rates = ", ".join(f"{fps:g}" for fps in np.unique(fps_N[off_rate_N])[:MOST_RATES])
        num_off = int(off_rate_N.sum())
        text = f"{num_off} of {len(clips)} clips have {rates} fps, far from data.target_fps={config.target_fps}"
        if num_off > config.max_bad_share * len(clips):
            raise DataError(f"{text}, more than data.max_bad_share={config.max_bad_share}; use another target_fps")
        first = clips[int(np.flatnonzero(off_rate_N)[0])]
        logger.warning("%s: left out, the first is %s", text, first.clip_id)
    usable = clips.rows(np.flatnonzero(kept_N & (strides_N > 0)))
    if not len(usable):
        raise DataError("there is nothing to train on: no clips; check the manifest and its split")
    for row in np.flatnonzero(~fits_window(usable, strides_N[kept_N & (strides_N > 0)], config)):
        check_window_fits(usable[int(row)], config)
    return usable


def read_quarantine(path: str) -> frozenset[str]:
    """Read the digests of clips that are left out. Raises DataError where the file is missing or a line names none."""
    if not path:
        return frozenset()
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        return frozenset(json.loads(line)["digest"] for line in lines if line.strip())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"data.quarantine={path} is no list of digests ({error}); correct or remove it") from error


def _blend_digest(parts: Sequence[Part], quarantined: frozenset[str]) -> str:
    """Return the digest of a blend; of a single manifest, its own."""
    if len(parts) == 1 and not quarantined:
        return parts[0].clips.digest
    blend = [[(part.clips.digest, part.weight) for part in parts], sorted(quarantined)]
    return hashlib.sha256(json.dumps(blend).encode()).hexdigest()


def clips_by_size(clips: Manifest, config: DataConfig) -> list[Manifest]:
    """Return, for each of config.sizes_px, the clips whose windows have it."""
    buckets_N = nearest_buckets(clips.column("height_px"), clips.column("width_px"), config.sizes_px)
    return [clips.rows(np.flatnonzero(buckets_N == bucket)) for bucket in range(len(config.sizes_px))]


def cover_windows(clips: Manifest, config: DataConfig, *, hop_frames: int) -> Iterator[Sample]:
    """Yield windows without anything random: those that start every `hop_frames` frames of every clip, cut from the
    middle of the picture, unmirrored, all of data.height_px x data.width_px. They are for latent caches and
    evaluation."""
    if hop_frames < 1:
        raise DataError(f"hop_frames={hop_frames} is not a positive count; use 1 or more")
    config = replace(config, buckets="one")
    index = 0
    for clip in usable_clips(clips, config, frozenset()):
        for offset in range(0, clip.num_frames - span_frames(clip, config) + 1, hop_frames):
            yield central_sample(clip, config, index=index, offset_frames=offset)
            index += 1


def central_sample(clip: Clip, config: DataConfig, *, index: int = 0, offset_frames: int = 0) -> Sample:
    """Return the middle of the picture, unmirrored, from that frame of the clip on."""
    size_px = config.height_px, config.width_px
    return Sample(
        index=index,
        attempt=0,
        clip=clip,
        start_frame=clip.start_frame + offset_frames,
        num_frames=config.num_frames,
        frame_stride=stride_of(clip, config),
        box=central_box(clip.height_px, clip.width_px, *box_size(clip, config, *size_px)),
        height_px=config.height_px,
        width_px=config.width_px,
        inner=inner_box(clip, config, *size_px),
        flip=False,
    )
