"""The windows that a model is judged on: held-out ones alone, in order, evenly spread."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.footage import carphone_clips

from cosmos_data.config import DataConfig
from cosmos_data.manifest import Manifest
from cosmos_launch.held_out import held_out_windows
from cosmos_train.config.errors import ConfigError


def world_of(manifest: Path) -> Any:
    """What is asked of a trained world that has no finished cache."""
    data = DataConfig(manifest=str(manifest), num_frames=9, height_px=32, width_px=48)
    return SimpleNamespace(run=SimpleNamespace(data=data, latents=SimpleNamespace(hop_frames=7)), store=None)


def test_windows_of_the_held_out_clip(tmp_path: Path):
    world = world_of(carphone_clips(tmp_path))
    every = held_out_windows(world, 100)
    assert [window.sample.start_frame for window in every] == [90, 97, 104, 111]
    assert [window.number for window in every] == [0, 1, 2, 3]
    assert all(window.sample.clip.split == "heldout" for window in every)
    assert [window.number for window in held_out_windows(world, 2)] == [0, 2]
    assert [window.number for window in held_out_windows(world, 1)] == [0]


def test_none_is_an_error(tmp_path: Path):
    manifest = Manifest.read(carphone_clips(tmp_path)).select("train")
    Manifest(tuple(manifest)).write(tmp_path / "train.parquet")
    with pytest.raises(ConfigError, match=r"train.parquet has no held-out windows; build the manifest with --heldout"):
        held_out_windows(world_of(tmp_path / "train.parquet"), 4)
