"""The windows that a model is judged on: held-out ones alone, in order, evenly spread."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.footage import carphone_clips

from cosmos_data.config import DataConfig
from cosmos_data.manifests.manifest import Manifest
from cosmos_train.config.errors import ConfigError
from cosmos_train.evaluate.held_out import regular_windows
from cosmos_train.worlds.world import TrainedRun


def trained_on(manifest: Path, manifest_digest: str = "") -> TrainedRun:
    """A run of these windows, of which nothing else is asked."""
    data = DataConfig(manifest=str(manifest), num_frames=9, height_px=32, width_px=48)
    run: Any = SimpleNamespace(data=data, latents=SimpleNamespace(hop_frames=7), run_dir="RUN")
    return TrainedRun(run=run, folder=Path("RUN"), step=0, averaged=False, manifest_digest=manifest_digest)


def test_windows_of_the_held_out_clip(tmp_path: Path):
    trained = trained_on(carphone_clips(tmp_path))
    every = regular_windows(trained, "heldout", 100)
    assert [window.sample.start_frame for window in every] == [90, 97, 104, 111]
    assert [window.number for window in every] == [0, 1, 2, 3]
    assert all(window.sample.clip.split == "heldout" for window in every)
    assert [window.number for window in regular_windows(trained, "heldout", 2)] == [0, 2]
    assert [window.number for window in regular_windows(trained, "heldout", 1)] == [0]


def test_none_is_an_error(tmp_path: Path):
    manifest = Manifest.read(carphone_clips(tmp_path)).select("train")
    Manifest(tuple(manifest)).write(tmp_path / "train.parquet")
    with pytest.raises(ConfigError, match=r"train.parquet has no heldout windows; build the manifest with --heldout"):
        regular_windows(trained_on(tmp_path / "train.parquet"), "heldout", 4)


def test_another_manifest_than_the_runs_is_an_error(tmp_path: Path):
    path = carphone_clips(tmp_path)
    assert regular_windows(trained_on(path, Manifest.read(path).digest), "heldout", 4)
    with pytest.raises(ConfigError, match=r"data\.manifest=.* but RUN was trained on ffffffffffff, whose held-out"):
        regular_windows(trained_on(path, "f" * 64), "heldout", 4)
