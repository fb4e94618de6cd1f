"""Decoding, encoding and writing of a latent cache go on at the same time, so far ahead and no further; an error of any
of them is told in its own words, and leaves no thread behind."""

import math
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import filled_run, tiny_world
from support.footage import CARPHONE, FOOTAGE
from torch import Tensor

from cosmos_data.caches import latent_shards
from cosmos_data.caches.latent_shards import LatentShard
from cosmos_data.decoders.decode import PyAVDecoder
from cosmos_data.manifests.build import build_manifest
from cosmos_data.manifests.conditions import Action
from cosmos_data.manifests.manifest import Manifest
from cosmos_launch.cli.main import main
from cosmos_tok.model import CausalVideoTokenizer
from cosmos_tok.store import load_tokenizer, save_tokenizer
from cosmos_train.config.load import to_yaml
from cosmos_train.encoding.finished_cache import batches_ahead

WINDOWS_PER_SHARD = 4
"""One batch."""
DECODED_AHEAD, ENCODED_AHEAD = 2, 2
"""Batches; the first as data.prefetch_batches has it."""

NO_VIDEO = (
    "cannot be decoded near frame 0 (Invalid data found when processing input); repair that video, or build the "
    "manifest without it"
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled_run.write_inputs(tmp_path_factory.mktemp("inputs"))


def tokenize(inputs: Path, folder: Path, *overrides: str) -> int:
    """With the cache in folder/cache: 8 windows of each clip. Returns the exit code."""
    shard_mib = WINDOWS_PER_SHARD * 4 * math.prod(tiny_world.SHAPE_CTHW) / 2**20
    latents = {"fill": False, "hop_frames": 3, "shard_mib": shard_mib}
    path = folder / "run.yaml"
    path.write_text(to_yaml(filled_run.make_run(inputs, folder / "cache", folder / "run", **latents)))
    return main(["tokenize", str(path), *overrides])


def shards_in(folder: Path) -> list[Path]:
    return list((folder / "cache" / "windows").glob("[!.]*.arrow"))


def test_while_a_shard_is_written_others_are_decoded_and_encoded(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    decode, encode, write = PyAVDecoder.decode, CausalVideoTokenizer.encode, latent_shards.write_latent_shard
    counts, changed = {"decoded": 0, "encoded": 0}, threading.Condition()
    seen = list[dict[str, int]]()

    def count(what: str, by: int) -> None:
        with changed:
            counts[what] += by
            changed.notify_all()

    def counted_decode(self: PyAVDecoder, samples: Any) -> Tensor:
        pixels_B3THW = decode(self, samples)
        count("decoded", len(samples))
        return pixels_B3THW

    def counted_encode(self: CausalVideoTokenizer, video_B3THW: Tensor) -> Tensor:
        z_BCTHW = encode(self, video_B3THW)
        count("encoded", len(video_B3THW))
        return z_BCTHW

    def slow_write(*args: Any, **kwargs: Any) -> LatentShard:
        """The first one takes as long as others take for all that they may do meanwhile."""
        if not seen:
            encoded = (1 + ENCODED_AHEAD) * WINDOWS_PER_SHARD
            all_ahead = {"decoded": encoded + DECODED_AHEAD * WINDOWS_PER_SHARD, "encoded": encoded}
            with changed:
                assert changed.wait_for(lambda: counts == all_ahead, timeout=120), counts
        seen.append(dict(counts))
        return write(*args, **kwargs)

    monkeypatch.setattr(PyAVDecoder, "decode", counted_decode)
    monkeypatch.setattr(CausalVideoTokenizer, "encode", counted_encode)
    monkeypatch.setattr(latent_shards, "write_latent_shard", slow_write)
    assert tokenize(inputs, tmp_path) == 0
    assert len(seen) == len(shards_in(tmp_path)) > 4
    for number, done in enumerate(seen, start=1):
        assert done["encoded"] <= (number + ENCODED_AHEAD) * WINDOWS_PER_SHARD
        assert done["decoded"] <= (number + ENCODED_AHEAD + DECODED_AHEAD) * WINDOWS_PER_SHARD


def damage_a_video(inputs: Path, folder: Path) -> list[str]:
    """The second of two: the manifest names three clips of the first before it."""
    videos, second = folder / "videos", folder / "videos" / "second.mp4"
    videos.mkdir()
    (videos / "first.mp4").symlink_to(CARPHONE)
    second.write_bytes((FOOTAGE / "bikes.mp4").read_bytes())
    build_manifest(videos, clip_frames=30, heldout_every=4).manifest.write(folder / "footage.arrow")
    second.write_bytes(b"no video")
    return [f"data.manifest={folder / 'footage.arrow'}"]


def let_the_tokenizer_overflow(inputs: Path, folder: Path) -> list[str]:
    """Each weight is finite, and not what comes of them."""
    tokenizer, config = load_tokenizer(inputs / "tokenizer")
    with torch.no_grad():
        for param in tokenizer.encoder.parameters():
            param.mul_(1e30)
    save_tokenizer(folder / "overflowing", tokenizer, config, {})
    return [f"latents.tokenizer={folder / 'overflowing'}"]


def bar_the_way(inputs: Path, folder: Path) -> list[str]:
    """A file has the name of the shards' folder."""
    (folder / "cache").mkdir()
    (folder / "cache" / "windows").touch()
    return []


@pytest.mark.parametrize(
    ("spoil", "code", "said", "num_shards"),
    [
        (damage_a_video, 2, f"second.mp4 {NO_VIDEO}", 3 * 8 / WINDOWS_PER_SHARD),
        (let_the_tokenizer_overflow, 1, "the tokenizer encodes a window to NaN or infinity", 0),
        (bar_the_way, 2, "can not be written (File exists); name another folder", 0),
    ],
)
def test_an_error_of_a_thread_is_told_as_it_is(
    spoil: Callable[[Path, Path], list[str]],
    code: int,
    said: str,
    num_shards: int,
    inputs: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
):
    overrides, before = spoil(inputs, tmp_path), set(threading.enumerate())
    assert tokenize(inputs, tmp_path, *overrides) == code
    told = capfd.readouterr().err
    assert said in told and "Traceback" not in told
    assert len(shards_in(tmp_path)) == num_shards, "what came before it is kept"
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
        assert not thread.is_alive()


def test_impossible_conditions_are_told_before_anything_of_their_shard_is_encoded(
    inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    clips = Manifest.read(inputs / "footage.arrow").clips
    action = Action(names=("x",), units=("m",), rate_hz=clips[0].fps, frame_of_reference="base", values=(0.0,) * 29)
    Manifest((replace(clips[0], action=action), *clips[1:])).write(tmp_path / "impossible.arrow")
    assert tokenize(inputs, tmp_path, f"data.manifest={tmp_path}/impossible.arrow") == 2
    assert "29 values; 30 steps" in capfd.readouterr().err
    assert not list((tmp_path / "cache").rglob("*.arrow")), "captions come first, and there are no states of any"


def test_batches_ahead_fit_into_memory(inputs: Path, tmp_path: Path):
    data = filled_run.make_run(inputs, tmp_path, tmp_path).data
    large = replace(data, num_frames=121, height_px=704, width_px=1280, prefetch_batches=8)  # 4 windows: 1,248 MiB
    assert batches_ahead(large) == 3 == 4096 * 2**20 // (4 * 3 * 121 * 704 * 1280)
    assert batches_ahead(replace(large, memory_mib=100)) == 1, "one at least"
    assert batches_ahead(replace(data, prefetch_batches=5)) == 5
