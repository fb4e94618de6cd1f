import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cosmos_data.caches.window_cache import WindowCache, shown_by
from cosmos_data.config import DataConfig
from cosmos_data.sample_plan.plan import Part, Sample, SamplePlan

SHAPE = (4, 2, 8, 12)


@pytest.fixture
def samples(mjpeg) -> list[Sample]:
    plan = SamplePlan([Part(mjpeg)], 0, DataConfig(manifest="m", num_frames=5, height_px=48, width_px=64))
    return [plan.sample(index) for index in range(9)]


def cache_of(folder: Path, **changes) -> WindowCache:
    return WindowCache(folder, **{"tokenizer_digest": "a", "dtype": torch.float32, "max_bytes": None} | changes)


def latents(number: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(number))


def shards(folder: Path) -> list[Path]:
    return sorted((folder / "filled").glob("*"))


def test_what_was_written_is_read_bit_for_bit(samples, tmp_path):
    cache = cache_of(tmp_path)
    cache.write(samples[0], latents(0))
    assert cache_of(tmp_path).read(samples[0]) is None
    cache.flush()
    for place in (cache, cache_of(tmp_path)):
        found = place.read(samples[0])
        assert found is not None and torch.equal(found, latents(0))
    assert cache_of(tmp_path).read(samples[1]) is None


def test_only_what_changes_the_latents_changes_the_key(samples, tmp_path):
    sample, cache = samples[0], cache_of(tmp_path)
    box = replace(sample.box, left_px=sample.box.left_px + 1)
    others = [
        replace(sample, clip=replace(sample.clip, digest="0" * 64)),
        replace(sample, start_frame=sample.start_frame + 1),
        replace(sample, num_frames=9),
        replace(sample, frame_stride=2),
        replace(sample, box=box),
        replace(sample, inner=box),
        replace(sample, height_px=32),
        replace(sample, flip=not sample.flip),
    ]
    keys = [cache.key(sample), *(cache.key(other) for other in others)]
    keys += [cache_of(tmp_path, tokenizer_digest="b").key(sample), cache_of(tmp_path, dtype=torch.bfloat16).key(sample)]
    assert len(set(keys)) == len(keys)
    moved = replace(sample.clip, path="/elsewhere.tar", offset_bytes=512, size_bytes=9, caption="another")
    assert cache.key(replace(sample, index=77, attempt=3, clip=moved)) == cache.key(sample)


def test_another_tokenizer_and_another_type_find_nothing(samples, tmp_path):
    """They lie in shards of their own, also where a key were the same."""
    for changes in ({}, {"tokenizer_digest": "b"}, {"dtype": torch.int32}):
        cache = cache_of(tmp_path, **changes)
        assert cache.read(samples[0]) is None
        cache.write(samples[0], latents(0).to(cache.dtype))
        cache.flush()
    assert len(shards(tmp_path)) == 3
    assert len({path.name.split("-")[0] for path in shards(tmp_path)}) == 3


def test_windows_of_two_sizes_lie_in_shards_of_their_own(samples, tmp_path):
    cache, small = cache_of(tmp_path), replace(samples[0], height_px=32)
    cache.write(samples[0], latents(0))
    cache.write(small, latents(1)[..., :4])
    cache.flush()
    assert len(shards(tmp_path)) == 2
    for sample, shape in ((samples[0], SHAPE), (small, (4, 2, 8, 4))):
        z_CTHW = cache_of(tmp_path).read(sample)
        assert z_CTHW is not None and z_CTHW.shape == shape


def test_a_limit_counts_all_shards(samples, tmp_path):
    """Also those of another tokenizer. With a low limit a window is a shard."""
    cache = cache_of(tmp_path / "one")
    cache.write(samples[0], latents(0))
    cache.flush()
    limit = 5 * shards(tmp_path / "one")[0].stat().st_size
    caches = [cache_of(tmp_path, max_bytes=limit, tokenizer_digest=digest) for digest in "ab"]
    for number, sample in enumerate(samples):
        caches[number % 2].write(sample, latents(number))
        assert sum(path.stat().st_size for path in shards(tmp_path)) <= limit
    assert 0 < len(shards(tmp_path)) <= 5


def test_windows_of_an_earlier_version_are_named(samples, tmp_path, caplog):
    """By the folder, once; they are not read."""
    identity = [1, "a", "torch.float32"]
    key = hashlib.sha256(json.dumps([identity, *shown_by(samples[0])], sort_keys=True).encode()).hexdigest()
    (tmp_path / "windows" / key[:2]).mkdir(parents=True)
    save_file({"z": latents(0)}, tmp_path / "windows" / key[:2] / f"{key}.safetensors")
    cache = cache_of(tmp_path)
    assert cache.key(samples[0]) == key and cache.read(samples[0]) is None
    [record] = caplog.records
    assert record.getMessage() == (
        f"{tmp_path}/windows holds one file a window, as an earlier cosmos-train kept them; they are not read any "
        "more, and its folders ?? can be removed"
    )
