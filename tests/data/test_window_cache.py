import logging
import multiprocessing
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cosmos_data.config import DataConfig
from cosmos_data.plan import Part, Sample, SamplePlan
from cosmos_data.window_cache import ABANDONED_SEC, WindowCache

SHAPE = (4, 2, 8, 12)


@pytest.fixture
def samples(mjpeg) -> list[Sample]:
    plan = SamplePlan([Part(mjpeg)], 0, DataConfig(manifest="m", num_frames=5, height_px=48, width_px=64))
    return [plan.sample(index) for index in range(9)]


def cache_of(folder: Path, **changes) -> WindowCache:
    return WindowCache(folder, **{"tokenizer_digest": "a", "dtype": torch.float32, "max_bytes": None} | changes)


def latents(number: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(number))


def test_what_was_written_is_read_bit_for_bit(samples, tmp_path):
    cache_of(tmp_path).write(samples[0], latents(0))
    found = cache_of(tmp_path).read(samples[0])
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


def test_a_damaged_file_is_a_miss(samples, tmp_path):
    cache = cache_of(tmp_path)
    cache.write(samples[0], latents(0))
    [path] = (tmp_path / "windows").glob("*/*.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    assert cache.read(samples[0]) is None
    cache.write(samples[0], latents(0))
    assert cache.read(samples[0]) is not None


def files(folder: Path) -> list[Path]:
    return list((folder / "windows").glob("*/*"))


def test_the_least_recently_used_go_first(samples, tmp_path):
    cache_of(tmp_path / "one").write(samples[0], latents(0))
    [size] = (path.stat().st_size for path in files(tmp_path / "one"))
    limit = 5 * size
    cache = cache_of(tmp_path, max_bytes=limit)
    for number in range(5):
        cache.write(samples[number], latents(number))
        time.sleep(0.01)
    assert cache.read(samples[0]) is not None  # now the most recently used
    cache.write(samples[5], latents(5))
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 0.9 * limit
    assert [number for number in range(6) if cache.read(samples[number]) is not None] == [0, 3, 4, 5]
    again = cache_of(tmp_path, max_bytes=limit)  # what is in the folder counts from the start
    for number in (6, 7):
        again.write(samples[number], latents(number))
    assert sum(path.stat().st_size for path in files(tmp_path)) <= limit


def test_what_others_wrote_counts(samples, tmp_path):
    """Each of four has written less than the limit, since it last looked."""
    cache_of(tmp_path / "one").write(samples[0], latents(0))
    [size] = (path.stat().st_size for path in files(tmp_path / "one"))
    caches = [cache_of(tmp_path, max_bytes=5 * size) for _ in range(4)]
    for number in range(8):
        caches[number % 4].write(samples[number], latents(number))
        assert sum(path.stat().st_size for path in files(tmp_path)) <= 5 * size


def test_what_a_killed_process_left_goes(samples, tmp_path):
    cache_of(tmp_path).write(samples[0], latents(0))
    old, new = (tmp_path / "windows/partial" / f"{name}.partial" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, time.time() - ABANDONED_SEC - 60))
    assert cache_of(tmp_path).read(samples[0]) is not None
    assert not old.exists() and new.exists()


def read_and_write(folder: Path, samples: list[Sample], answers: multiprocessing.Queue) -> None:
    """As a user to whom the folder does not belong: how many of the windows are hits, and what the log says."""
    if os.geteuid() == 0:
        os.seteuid(65534)
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("cosmos_data.window_cache").addHandler(handler)
    cache = cache_of(folder, max_bytes=10**6)
    found = [cache.read(sample) is not None for sample in samples]
    for number, sample in enumerate(samples):
        cache.write(sample, latents(number))
    answers.put((found, said))


def test_a_folder_that_can_only_be_read(samples):
    """Hits stay hits; that nothing is written is said once."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other users
        folder = Path(name)
        cache_of(folder).write(samples[0], latents(0))
        modes = {path: path.stat().st_mode for path in (folder, *folder.rglob("*"))}
        for path in modes:
            path.chmod(0o555 if path.is_dir() else 0o444)
        context = multiprocessing.get_context("fork")
        answers = context.Queue()
        job = context.Process(target=read_and_write, args=(folder, samples[:3], answers))
        job.start()
        found, said = answers.get(timeout=60)
        job.join()
        for path, mode in modes.items():
            path.chmod(mode)
    assert found == [True, False, False]
    assert said == [f"latents are not kept in {folder}/windows: Permission denied; they are encoded each time"]


def fill(folder: Path, samples: list[Sample], max_bytes: int) -> None:
    cache = cache_of(folder, max_bytes=max_bytes)
    for _ in range(20):
        for number, sample in enumerate(samples):
            z_CTHW = cache.read(sample)
            assert z_CTHW is None or torch.equal(z_CTHW, latents(number))
            if z_CTHW is None:
                cache.write(sample, latents(number))


def test_two_jobs_share_a_folder(samples, tmp_path):
    """Both write, read and evict the same files; nobody reads half a file."""
    jobs = [
        multiprocessing.get_context("fork").Process(target=fill, args=(tmp_path, samples, 5 * 3400)) for _ in range(2)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
        assert job.exitcode == 0
    assert not [path for path in files(tmp_path) if path.name.endswith(".partial")]
