"""Which windows lie in which shard: all of them, each once, by manifest and settings alone."""

import json
from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from support import clips

from cosmos_data.caches.shard_plan import PlannedShard, WindowGroup, Windows, choose_windows, plan_shards, shard_key
from cosmos_data.config import DataConfig
from cosmos_data.errors import DataError
from cosmos_data.manifests.clip import Clip, Split
from cosmos_data.manifests.conditions import Camera
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.manifests.rows import record
from cosmos_data.sample_plan.plan import Part, Sample, SamplePlan, cover_windows

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


CAMERA = record(Camera, clips.CAMERA, 0, "camera.")
CAMERAS = (CAMERA, replace(CAMERA, intrinsics_px=(100.0, 100.0, 88.0, 72.5)))
MANIFEST = Manifest(clip_of(number) for number in range(5))


def groups_of(manifest: Manifest = MANIFEST, config: DataConfig = CONFIG, **changed: Any) -> list[WindowGroup]:
    return choose_windows(manifest, config, **{"hop_frames": 3, "planned_per_clip": 0, "seed": 3} | changed)


def choose(manifest: Manifest = MANIFEST, config: DataConfig = CONFIG, **changed: Any) -> dict[Split, Windows]:
    """Of one size."""
    return {group.split: group.windows for group in groups_of(manifest, config, **changed)}


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


SIZES_PX = [(320, 320), (360, 640), (640, 360)]
MIXED = Manifest(
    clip_of(number, height_px=SIZES_PX[number % 3][0], width_px=SIZES_PX[number % 3][1], fps=24.0, split=split)
    for number, split in enumerate(["train"] * 6 + ["heldout"])
)
BUCKETS = DataConfig(manifest="unused", num_frames=5, height_px=256, width_px=256, buckets="256")
WINDOW_PX = {"clip0": (256, 256), "clip1": (192, 320), "clip2": (320, 192)}
"""Of clips of the three shapes."""


@pytest.mark.parametrize("num_frames", [5, 1])
@pytest.mark.parametrize("planned_per_clip", [0, 4])
def test_each_clip_is_in_the_bucket_of_its_shape(planned_per_clip: int, num_frames: int):
    """Videos or images, those of a shard are of one size; each clip has as many windows as without buckets."""
    config = replace(BUCKETS, num_frames=num_frames)
    groups = groups_of(MIXED, config, planned_per_clip=planned_per_clip)
    assert [(group.split, group.size_px) for group in groups] == [
        ("train", (256, 256)),
        ("train", (320, 192)),
        ("train", (192, 320)),
        ("heldout", (256, 256)),
    ]
    shards = plan_shards(groups, {size_px: 2 + size_px[0] % 3 for size_px in config.sizes_px})
    found = Counter[str]()
    for shard in shards:
        samples = shard.samples()
        assert len(samples) <= 2 + shard.size_px[0] % 3
        for sample in samples:
            assert (sample.height_px, sample.width_px) == shard.size_px
            assert shard.size_px == WINDOW_PX[f"clip{int(sample.clip.clip_id[4:]) % 3}"]
            assert sample.clip.split == shard.split
            found[sample.clip.clip_id] += 1
    one_size = groups_of(MIXED, config.of_size(64, 64), planned_per_clip=planned_per_clip)
    windows = []
    for group in one_size:
        windows += [group.windows[number] for number in range(len(group.windows))]
    assert found == Counter(sample.clip.clip_id for sample in windows)


def test_planned_windows_are_the_first_samples_of_a_run():
    """In their order; of each size those that the run has."""
    plan = SamplePlan([Part(MIXED.select("train"))], 3, BUCKETS)
    samples = [plan.sample(index) for index in range(6 * 4)]
    for group in groups_of(MIXED, BUCKETS, planned_per_clip=4):
        found = [group.windows[number] for number in range(len(group.windows))]
        of_size = [sample for sample in samples if (sample.height_px, sample.width_px) == group.size_px]
        assert group.split == "heldout" or found == of_size != []


@pytest.mark.parametrize("planned_per_clip", [0, 2])
def test_quarantined_clips_have_no_windows(planned_per_clip: int, tmp_path: Path):
    named = [{"digest": MANIFEST[number].digest} for number in (1, 2)]  # clip2 is the only one held out
    (tmp_path / "bad.jsonl").write_text("\n".join(map(json.dumps, named)), encoding="utf-8")
    config = replace(CONFIG, quarantine=str(tmp_path / "bad.jsonl"))
    [group] = groups_of(config=config, planned_per_clip=planned_per_clip)
    clip_ids = {group.windows[number].clip.clip_id for number in range(len(group.windows))}
    assert group.split == "train" and clip_ids == {"clip0", "clip3", "clip4"}


@pytest.mark.parametrize("per_shard", [1, 4, 1000])
def test_each_window_is_in_one_shard(per_shard: int):
    windows, length = choose(), {(16, 24): per_shard}
    shards = plan_shards(groups_of(), length)
    assert max(len(shard.numbers) for shard in shards) <= per_shard
    assert [shard.split for shard in shards] == sorted((shard.split for shard in shards), reverse=True), "train first"
    for split, wanted in windows.items():
        numbers = list(chain.from_iterable(shard.numbers for shard in shards if shard.split == split))
        assert numbers == list(range(len(wanted)))
    assert [shard.samples() for shard in shards] == [shard.samples() for shard in plan_shards(groups_of(), length)]


PLAN = {"manifest_digest": MANIFEST.digest, "tokenizer_digest": "a", "windows": "hop_frames=3"}


def key(shard: PlannedShard, plan: dict[str, str] = PLAN, dtype: torch.dtype = torch.float32) -> str:
    return shard_key(shard, plan=plan, dtype=dtype)


def test_a_key_names_what_a_shard_is_a_function_of():
    [shard, *_] = plan_shards(groups_of(), {(16, 24): 4})
    keys = {
        key(shard),
        key(replace(shard, numbers=range(3))),
        key(replace(shard, numbers=range(1, 4))),
        key(replace(shard, split="heldout")),
        key(replace(shard, size_px=(24, 16))),
        key(shard, dtype=torch.int32),
        *(key(shard, PLAN | {name: "other"}) for name in PLAN),
    }
    assert len(keys) == 6 + len(PLAN)


def test_a_key_is_made_without_windows():
    """Millions of which a folder may hold that is gone on with."""

    class NoWindows:
        def __len__(self) -> int:
            return 10**9

        def __getitem__(self, number: int) -> Sample:
            raise AssertionError(f"window {number} was made")

    [shard, *_] = plan_shards(groups_of(), {(16, 24): 4})
    assert key(replace(shard, windows=NoWindows())) == key(shard)


def test_what_can_not_be_planned(tmp_path: Path):
    with pytest.raises(DataError, match="hop_frames=0 is not a positive count"):
        choose(hop_frames=0)
    with pytest.raises(DataError, match="clip clip0 has 4 frames, and a window"):
        choose(Manifest([clip_of(0, num_frames=4)]))
    with pytest.raises(DataError, match=r"data.blend=.* a finished latent cache has each window once: build one"):
        choose(config=replace(CONFIG, blend={"other.arrow": 2.0}))
    with pytest.raises(DataError, match=r"clip clip3 is 240x300 px, smaller than the 256x320 of its windows"):
        choose(Manifest([clip_of(3, height_px=300, width_px=240), clip_of(4, height_px=300, width_px=300)]), BUCKETS)
    with pytest.raises(DataError, match="nothing to train on"):
        choose(Manifest())
