"""Which windows lie in which shard: all of them, each once, by manifest and settings alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cosmos_data.clip import Clip, Split
from cosmos_data.config import DataConfig
from cosmos_data.errors import DataError
from cosmos_data.manifest import Manifest
from cosmos_data.plan import Sample, cover_windows
from cosmos_data.shard_plan import PlannedShard, Windows, choose_windows, plan_shards, shard_key

CONFIG = DataConfig(manifest="unused", num_frames=5, height_px=16, width_px=24)


def clip_of(number: int, **changed: Any) -> Clip:
    values: dict[str, Any] = {
        "path": f"/videos/{number}.mp4",
        "start_frame": 7 * number,
        "height_px": 32,
        "width_px": 48,
        "codec": "h264",
        "color_matrix": "bt601",
        "first_pts": 0,
        "digest": f"{number:064x}",
        "clip_id": f"clip{number}",
        "num_frames": 9 + 4 * number,
        "fps": 24.0 if number % 2 else 48.0,
        "split": "heldout" if number == 2 else "train",
    }
    return Clip(**values | changed)


MANIFEST = Manifest(clip_of(number) for number in range(5))


def choose(manifest: Manifest = MANIFEST, config: DataConfig = CONFIG, **changed: Any) -> dict[Split, Windows]:
    return choose_windows(manifest, config, **{"hop_frames": 3, "planned_per_clip": 0, "seed": 3} | changed)


def without_number(sample: Sample) -> Sample:
    return replace(sample, index=0)


@pytest.mark.parametrize("changed", [{}, {"target_fps": 24.0}, {"frame_stride": 2}, {"resize": "pad"}])
def test_regular_windows_are_those_that_cover_the_clips(changed: dict[str, Any]):
    config = replace(CONFIG, **changed)
    windows = choose(config=config)
    for split in ("train", "heldout"):
        expected = [s for s in cover_windows(MANIFEST, config, hop_frames=3) if s.clip.split == split]
        found = [windows[split][number] for number in range(len(windows[split]))]
        assert list(map(without_number, found)) == list(map(without_number, expected)) != []


def test_planned_windows_of_training_clips():
    windows = choose(planned_per_clip=3)
    samples = [windows["train"][number] for number in range(len(windows["train"]))]
    times = [sum(sample.clip.clip_id == f"clip{number}" for sample in samples) for number in range(5)]
    assert times == [3, 3, 0, 3, 3]
    assert len(windows["heldout"]) == len(choose()["heldout"])
    assert samples != [choose(planned_per_clip=3, seed=4)["train"][number] for number in range(len(samples))]


@pytest.mark.parametrize("per_shard", [1, 4, 1000])
def test_each_window_is_in_one_shard(per_shard: int):
    windows = choose()
    shards = plan_shards(windows, per_shard)
    assert max(len(shard.numbers) for shard in shards) <= per_shard
    assert [shard.split for shard in shards] == sorted((shard.split for shard in shards), reverse=True), "train first"
    for split, wanted in windows.items():
        numbers = [number for shard in shards if shard.split == split for number in shard.numbers]
        assert numbers == list(range(len(wanted)))
    assert [shard.samples() for shard in shards] == [shard.samples() for shard in plan_shards(choose(), per_shard)]


PLAN = {"manifest_digest": MANIFEST.digest, "tokenizer_digest": "a", "windows": "hop_frames=3"}


def key(shard: PlannedShard, plan: dict[str, str] = PLAN, dtype: torch.dtype = torch.float32) -> str:
    return shard_key(shard, plan=plan, dtype=dtype)


def test_a_key_names_what_a_shard_is_a_function_of():
    [shard, *_] = plan_shards(choose(), 4)
    keys = {
        key(shard),
        key(replace(shard, numbers=range(3))),
        key(replace(shard, numbers=range(1, 4))),
        key(replace(shard, split="heldout")),
        key(shard, dtype=torch.int32),
        *(key(shard, PLAN | {name: "other"}) for name in PLAN),
    }
    assert len(keys) == 5 + len(PLAN)


def test_a_key_is_made_without_windows():
    """Millions of which a folder may hold that is gone on with."""

    class NoWindows:
        def __len__(self) -> int:
            return 10**9

        def __getitem__(self, number: int) -> Sample:
            raise AssertionError(f"window {number} was made")

    [shard, *_] = plan_shards(choose(), 4)
    assert key(replace(shard, windows=NoWindows())) == key(shard)


def test_what_can_not_be_planned(tmp_path: Path):
    with pytest.raises(DataError, match="hop_frames=0 is not a positive count"):
        choose(hop_frames=0)
    with pytest.raises(DataError, match="clip clip0 has 4 frames, and a window"):
        choose(Manifest([clip_of(0, num_frames=4)]))
    with pytest.raises(DataError, match="nothing to train on"):
        choose(Manifest())
