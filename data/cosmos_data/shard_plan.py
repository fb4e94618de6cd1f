"""Which windows each shard of a latent cache holds: a pure function of the manifest and of the settings.

Windows are numbered and made when they are asked for; nothing here has a list of them. Those of the training split come
first, and no shard holds windows of both splits.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, get_args

import numpy as np
import torch

from cosmos_data.clip import Split
from cosmos_data.config import DataConfig
from cosmos_data.errors import DataError
from cosmos_data.manifest import Manifest
from cosmos_data.order import SAMPLE_ORDER
from cosmos_data.plan import Part, Sample, SamplePlan, central_sample, usable_clips
from cosmos_data.shard_file import key_of
from cosmos_data.window import strides_for
from cosmos_data.window_cache import KEY_VERSION


class Windows(Protocol):
    """Numbered windows."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Sample: ...


class RegularWindows:
    """Those of plan.cover_windows, in its order: one every `hop_frames` frames of every clip."""

    def __init__(self, clips: Manifest, config: DataConfig, *, hop_frames: int) -> None:
        """clips: usable ones (plan.usable_clips)."""
        if hop_frames < 1:
            raise DataError(f"hop_frames={hop_frames} is not a positive count; use 1 or more")
        self._clips, self._config, self._hop_frames = clips, replace(config, buckets="one"), hop_frames
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
    """The first samples of a run on these clips (random start, crop and mirroring): each clip `per_clip` times."""

    def __init__(self, clips: Manifest, config: DataConfig, *, seed: int, per_clip: int) -> None:
        self._plan = SamplePlan([Part(clips)], seed, replace(config, buckets="one"))
        self._per_clip = per_clip

    def __len__(self) -> int:
        return self._plan.num_clips * self._per_clip

    def __getitem__(self, number: int) -> Sample:
        return self._plan.sample(number)


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """The windows of one shard."""

    split: Split
    windows: Windows
    numbers: range
    """Of the shard's, among `windows`."""

    def samples(self) -> list[Sample]:
        """All of them."""
        return [self.windows[number] for number in self.numbers]


def choose_windows(
    manifest: Manifest, config: DataConfig, *, hop_frames: int, planned_per_clip: int, seed: int
) -> dict[Split, Windows]:
    """Regular windows of both splits; of training clips planned ones, where planned_per_clip is not 0."""
    usable = usable_clips(manifest, replace(config, buckets="one"), frozenset())
    chosen: dict[Split, Windows] = {
        split: RegularWindows(usable.select(split), config, hop_frames=hop_frames) for split in get_args(Split)
    }
    if planned_per_clip:
        chosen["train"] = PlannedWindows(manifest.select("train"), config, seed=seed, per_clip=planned_per_clip)
    return chosen


def plan_shards(windows: dict[Split, Windows], per_shard: int) -> list[PlannedShard]:
    """Of so many consecutive windows each; the last of a split may have fewer."""
    return [
        PlannedShard(split, windows[split], range(len(windows[split]))[first : first + per_shard])
        for split in get_args(Split)
        for first in range(0, len(windows[split]), per_shard)
    ]


def shard_key(shard: PlannedShard, *, plan: Mapping[str, Any], dtype: torch.dtype) -> str:
    """The key of the shard with these windows' latents. No window is made for it: going through finished shards costs
    as much as there are shards.

    Args:
        plan: all that the windows and their latents are a function of (latents.LatentMetadata), as values JSON knows.
        dtype: of the latents.
    """
    numbers = [shard.numbers.start, shard.numbers.stop]
    return key_of([KEY_VERSION, SAMPLE_ORDER, dict(plan), str(dtype), shard.split, numbers])
