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
from cosmos_data.shard_plan import WindowGroup, Windows, choose_windows, plan_shards, shard_key

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


@pytest.mark.parametrize("per_shard", [1, 4, 1000])
def test_each_window_is_in_one_shard(per_shard: int):
    windows, length = choose(), {(16, 24): per_shard}
    shards = plan_shards(groups_of(), length)
    assert max(len(shard.numbers) for shard in shards) <= per_shard
    assert [shard.split for shard in shards] == sorted((shard.split for shard in shards), reverse=True), "train first"
    for split, wanted in windows.items():
        numbers = [number for shard in shards if shard.split == split for number in shard.numbers]
        assert numbers == list(range(len(wanted)))
    assert [shard.samples() for shard in shards] == [shard.samples() for shard in plan_shards(groups_of(), length)]


def key(samples: list[Sample], **changed: Any) -> str:
    said: dict[str, Any] = {"split": "train", "tokenizer_digest": "a", "dtype": torch.float32, "text": "t"}
    said["size_px"] = None
    return shard_key(samples, **said | changed)


def test_a_key_names_what_a_shard_is_a_function_of():
    [shard, *_] = plan_shards(groups_of(), {(16, 24): 4})
    samples = shard.samples()
    keys = {
        key(samples),
        key(samples[:3]),
        key(samples[::-1]),
        key(samples, split="heldout"),
        key(samples, tokenizer_digest="b"),
        key(samples, dtype=torch.int32),
        key(samples, text="u"),
        key([replace(samples[0], flip=True), *samples[1:]]),
        key([replace(samples[0], clip=replace(samples[0].clip, clip_id="other")), *samples[1:]]),
        key([replace(samples[0], clip=replace(samples[0].clip, digest="f" * 64)), *samples[1:]]),
    }
    assert len(keys) == 10
    moved = [replace(sample, clip=replace(sample.clip, path="/elsewhere.mp4")) for sample in samples]
    assert key(moved) == key(samples), "where a file lies is not its content"


def test_what_can_not_be_planned(tmp_path: Path):
    with pytest.raises(DataError, match="hop_frames=0 is not a positive count"):
        choose(hop_frames=0)
    with pytest.raises(DataError, match="clip clip0 has 4 frames, and a window"):
        choose(Manifest([clip_of(0, num_frames=4)]))
    with pytest.raises(DataError, match="nothing to train on"):
        choose(Manifest())
