"""Which windows each shard of a latent cache holds: a pure function of the manifest and of the settings.

Windows are numbered and made when they are asked for; nothing here has a list of them. Those of the training split come
first, and no shard holds windows of both splits, or of two sizes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, get_args

import numpy as np
import torch

from cosmos_data.caches.shard_file import key_of
from cosmos_data.caches.window_cache import KEY_VERSION
from cosmos_data.config import DataConfig
from cosmos_data.errors import DataError
from cosmos_data.manifests.clip import Split
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.sample_plan.order import SAMPLE_ORDER
from cosmos_data.sample_plan.plan import (
    Part,
    Sample,
    SamplePlan,
    central_sample,
    clips_by_size,
    read_quarantine,
    usable_clips,
)
from cosmos_data.sample_plan.window import strides_for


class Windows(Protocol):
    """Numbered windows."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Sample: ...


class RegularWindows:
    """Those of plan.cover_windows, in its order: one every `hop_frames` frames of every clip."""

    def __init__(self, clips: Manifest, config: DataConfig, *, hop_frames: int) -> None:
        """clips: usable ones (plan.usable_clips); config: of one size."""
        if hop_frames < 1:
            raise DataError(f"hop_frames={hop_frames} is not a positive count; use 1 or more")
        self._clips, self._config, self._hop_frames = clips, config, hop_frames
        strides_N = config.frame_stride
        if config.target_fps is not None:
            strides_N = strides_for(clips.column("fps"), config.target_fps)
        last_start_N = clips.column("num_frames") - ((config.num_frames - 1) * strides_N + 1)
        self._ends_N = np.cumsum(last_start_N // hop_frames + 1)

    def __len__(self) -> int:
        return int(self._ends_N[-1]) if len(self._ends_N) else 0

    def __getitem__(self, number: int) -> Sample:
        row = int(np.searchsorted(self._ends_N, number, side="right"))
        before = int(self._ends_N[row - 1]) if row else 0
        offset = (number - before) * self._hop_frames
        return central_sample(self._clips[row], self._config, index=number, offset_frames=offset)


class PlannedWindows:
    """Those of one size among the first samples of a run, with random start, crop and mirroring; each clip `per_clip`
    times."""

    def __init__(self, plan: SamplePlan, bucket: int, *, per_clip: int) -> None:
        self._plan, self._bucket, self._per_clip = plan, bucket, per_clip

    def __len__(self) -> int:
        return self._plan.num_clips_of(self._bucket) * self._per_clip

    def __getitem__(self, number: int) -> Sample:
        return self._plan.sample_of(self._bucket, number)


@dataclass(frozen=True, slots=True)
class WindowGroup:
    """All windows of one split and one size; one at least."""

    split: Split
    size_px: tuple[int, int]
    """Height and width."""
    windows: Windows


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """The windows of one shard."""

    split: Split
    size_px: tuple[int, int]
    """Height and width of each."""
    windows: Windows
    numbers: range
    """Of the shard's, among `windows`."""

    def samples(self) -> list[Sample]:
        """Return all of its samples."""
        return [self.windows[number] for number in self.numbers]


def choose_windows(
    manifest: Manifest, config: DataConfig, *, hop_frames: int, planned_per_clip: int, seed: int
) -> list[WindowGroup]:
    """Choose regular windows of both splits; of training clips planned ones, where planned_per_clip is not 0. Each
    clip's have the size of its bucket (data.buckets).

    Raises:
        DataError: no clip serves, one is too short or too small, or the data is a blend.
    """
    if config.blend:
        raise DataError(
            f"data.blend={config.blend} says how often samples are drawn, and a finished latent cache has each window "
            "once: build one manifest of all sources, or train with latents.fill=true, which draws"
        )
    usable = usable_clips(manifest, config, read_quarantine(config.quarantine))
    chosen = {split: _regular(usable.select(split), config, hop_frames) for split in get_args(Split)}
    if planned_per_clip:
        plan = SamplePlan([Part(manifest.select("train"))], seed, config)
        buckets = range(len(config.sizes_px))
        chosen["train"] = [PlannedWindows(plan, bucket, per_clip=planned_per_clip) for bucket in buckets]
    groups = list[WindowGroup]()
    for split, by_size in chosen.items():
        sized = zip(config.sizes_px, by_size, strict=True)
        groups += [WindowGroup(split, size_px, windows) for size_px, windows in sized if len(windows)]
    return groups


def plan_shards(groups: Sequence[WindowGroup], per_shard: Mapping[tuple[int, int], int]) -> list[PlannedShard]:
    """Plan shards of so many consecutive windows each, by their size; the last one of a group may have fewer."""
    shards = list[PlannedShard]()
    for group in groups:
        numbers, length = range(len(group.windows)), per_shard[group.size_px]
        parts = (numbers[first : first + length] for first in range(0, len(numbers), length))
        shards += [PlannedShard(group.split, group.size_px, group.windows, part) for part in parts]
    return shards


def shard_key(shard: PlannedShard, *, plan: Mapping[str, Any], dtype: torch.dtype) -> str:
    """Return the key of the shard with these windows' latents. No window is made for it: going through finished shards
    costs as much as there are shards.

    Args:
        plan: all that the windows and their latents are a function of (latents.LatentMetadata), as values JSON knows.
        dtype: of the latents.
    """
    numbers = [shard.numbers.start, shard.numbers.stop]
    return key_of([KEY_VERSION, SAMPLE_ORDER, dict(plan), str(dtype), shard.split, shard.size_px, numbers])


def _regular(clips: Manifest, config: DataConfig, hop_frames: int) -> list[Windows]:
    """Return regular windows for each of config.sizes_px."""
    by_size = zip(clips_by_size(clips, config), config.sizes_px, strict=True)
    return [RegularWindows(of_size, config.of_size(*px), hop_frames=hop_frames) for of_size, px in by_size]
