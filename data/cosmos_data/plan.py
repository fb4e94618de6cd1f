"""The sample plan: sample i of a run is a pure function of (manifest digest, seed, i).

Which clip, which window of it, which part of the picture, mirrored or not: everything random is drawn here, from a
counter-based generator (Philox; the digest and the seed are its key, i its counter), so sample i costs the same
whichever samples came before it, and neither the number of ranks nor workers nor prefetching can change it. Only raw
Philox words are used, since numpy keeps those the same between its versions and makes no such promise for
`permutation` or `integers`. A checkpoint needs {manifest digest, seed, samples consumed} and nothing else.

Every epoch visits every clip exactly once, in an order of its own: sample i is place i % n of epoch i // n.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cosmos_data.config import DataConfig, Resize
from cosmos_data.errors import DataError
from cosmos_data.manifest import Clip, Manifest

Key = tuple[int, int]

# The last word of Philox's counter keeps the two kinds of draw apart.
_ORDER, _WINDOW = 0, 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """A part of the picture, in pixels of the video."""

    top_px: int
    left_px: int
    height_px: int
    width_px: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One training window, as a decoder executes it."""

    index: int
    attempt: int
    """0; n for the n-th replacement of a sample whose clip could not be decoded."""

    clip: Clip
    start_frame: int
    """First frame, counted from the first frame of the FILE that holds the clip."""

    num_frames: int
    frame_stride: int
    box: Box
    height_px: int
    """Height to which the box is scaled; width_px likewise."""

    width_px: int
    flip: bool

    @property
    def fps(self) -> float:
        """Frames per second of the window, its stride counted in."""
        return self.clip.fps / self.frame_stride


class IndexPlan:
    """The order in which a run visits `num_items` things: a permutation of its own per epoch.

    An epoch's order takes num_items * 8 bytes while it is in use.
    """

    def __init__(self, num_items: int, digest: str, seed: int) -> None:
        if num_items < 1:
            raise DataError("there is nothing to train on: no items; check the manifest and its split")
        self.num_items = num_items
        self.digest = digest
        self.seed = seed
        self.key = _philox_key(digest, seed)

    def item(self, index: int, attempt: int = 0) -> int:
        """Item of sample `index`; with an attempt, the item that stands so many places further in the same epoch."""
        epoch, place = divmod(index, self.num_items)
        return int(_epoch_order(self.key, self.num_items, epoch)[(place + attempt) % self.num_items])


class SamplePlan:
    """What each sample of a run is. Every clip is checked here, so that no window fails at step 1000."""

    def __init__(self, clips: Manifest, seed: int, config: DataConfig) -> None:
        self.clips = clips
        self.config = config
        self.seed = seed
        self.manifest_digest = clips.digest
        self._order = IndexPlan(len(clips), self.manifest_digest, seed)
        for clip in clips:
            check_window_fits(clip, config)

    def sample(self, index: int, attempt: int = 0) -> Sample:
        clip = self.clips[self._order.item(index, attempt)]
        start, top, left, flip = _philox_words(self._order.key, index, attempt, _WINDOW, count=4)
        height_px, width_px = box_size(clip, self.config)
        return Sample(
            index=index,
            attempt=attempt,
            clip=clip,
            start_frame=clip.start_frame + _below(start, clip.num_frames - self.config.span_frames + 1),
            num_frames=self.config.num_frames,
            frame_stride=self.config.frame_stride,
            box=Box(
                top_px=_below(top, clip.height_px - height_px + 1),
                left_px=_below(left, clip.width_px - width_px + 1),
                height_px=height_px,
                width_px=width_px,
            ),
            height_px=self.config.height_px,
            width_px=self.config.width_px,
            flip=self.config.flip and _below(flip, 2) == 1,
        )


def cover_windows(clips: Manifest, config: DataConfig, *, hop_frames: int) -> Iterator[Sample]:
    """Nothing random: the windows that start every `hop_frames` frames of every clip, cut from the middle of the
    picture, unmirrored. For latent caches and evaluation."""
    if hop_frames < 1:
        raise DataError(f"hop_frames={hop_frames} is not a positive count; use 1 or more")
    index = 0
    for clip in clips:
        check_window_fits(clip, config)
        box = central_box(clip.height_px, clip.width_px, *box_size(clip, config))
        for offset in range(0, clip.num_frames - config.span_frames + 1, hop_frames):
            yield Sample(
                index=index,
                attempt=0,
                clip=clip,
                start_frame=clip.start_frame + offset,
                num_frames=config.num_frames,
                frame_stride=config.frame_stride,
                box=box,
                height_px=config.height_px,
                width_px=config.width_px,
                flip=False,
            )
            index += 1


def rank_slice(step: int, global_batch_size: int, rank: int, num_ranks: int) -> range:
    """Sample indices of one rank in one step. The ranks' slices, in order, make up the global batch, which is the same
    for every number of ranks."""
    if global_batch_size % num_ranks != 0:
        raise DataError(
            f"global_batch_size={global_batch_size} is not divisible by the {num_ranks} data-parallel ranks;"
            f" use a multiple of {num_ranks}"
        )
    assert 0 <= rank < num_ranks, f"rank {rank} of {num_ranks}"
    per_rank = global_batch_size // num_ranks
    first = step * global_batch_size + rank * per_rank
    return range(first, first + per_rank)


def check_window_fits(clip: Clip, config: DataConfig) -> None:
    if clip.num_frames < config.span_frames:
        raise DataError(
            f"clip {clip.clip_id} has {clip.num_frames} frames, and a window of data.num_frames={config.num_frames}"
            f" with data.frame_stride={config.frame_stride} spans {config.span_frames}; use shorter windows, or build"
            " the manifest with longer clips"
        )
    if clip.height_px < config.height_px or clip.width_px < config.width_px:
        raise DataError(
            f"clip {clip.clip_id} is {clip.width_px}x{clip.height_px} px, smaller than the"
            f" {config.width_px}x{config.height_px} of data.width_px and data.height_px; use a smaller size, or pack"
            " the manifest with upscaling allowed"
        )


def box_size(clip: Clip, config: DataConfig) -> tuple[int, int]:
    """(height_px, width_px) of the part of the video's picture that a window shows."""
    resize: Resize = config.resize
    if resize == "crop":
        return config.height_px, config.width_px
    return largest_box(clip.height_px, clip.width_px, config.height_px, config.width_px)


def largest_box(height_px: int, width_px: int, target_height_px: int, target_width_px: int) -> tuple[int, int]:
    """The largest part of a picture that has the target's shape, to whole pixels."""
    if height_px * target_width_px <= width_px * target_height_px:
        return height_px, max(1, height_px * target_width_px // target_height_px)
    return max(1, width_px * target_height_px // target_width_px), width_px


def central_box(height_px: int, width_px: int, box_height_px: int, box_width_px: int) -> Box:
    return Box(
        top_px=(height_px - box_height_px) // 2,
        left_px=(width_px - box_width_px) // 2,
        height_px=box_height_px,
        width_px=box_width_px,
    )


def _philox_key(digest: str, seed: int) -> Key:
    sha256 = hashlib.sha256(f"{digest}/{seed}".encode()).digest()
    return int.from_bytes(sha256[:8], "little"), int.from_bytes(sha256[8:16], "little")


def _philox_words(key: Key, index: int, attempt: int, kind: int, *, count: int) -> np.ndarray:
    """`count` uniform uint64. Philox itself counts in the first word, so streams of different indices never meet."""
    counter = np.array([0, index, attempt, kind], dtype=np.uint64)
    return np.random.Philox(key=np.array(key, dtype=np.uint64), counter=counter).random_raw(count)


def _below(word: np.uint64, bound: int) -> int:
    """Uniform in [0, bound); the bias is below bound / 2**64."""
    return (int(word) * bound) >> 64


@lru_cache(maxsize=4)
def _epoch_order(key: Key, num_items: int, epoch: int) -> np.ndarray:
    return np.argsort(_philox_words(key, epoch, 0, _ORDER, count=num_items), kind="stable")
