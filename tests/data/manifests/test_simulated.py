"""The simulated world: the same for a seed wherever it is made, and unknown seeds in the held-out split."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from cosmos_data.config import DataConfig
from cosmos_data.decoders.decode import PyAVDecoder
from cosmos_data.errors import DataError
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.manifests.simulated import (
    COLORS_RGB,
    FIRST_HELDOUT_SEED,
    WorldConfig,
    caption_of,
    discs_of,
    render,
    write_world,
)
from cosmos_data.sample_plan.plan import cover_windows

WORLD = WorldConfig(num_frames=9)
PINNED = ("red", 4.483098)
"""Colour and radius of the first disc of seed 0."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four training seeds and two held-out ones."""
    folder = tmp_path_factory.mktemp("simulated") / "world"
    write_world(folder, WORLD, num_train=4, num_heldout=2)
    return folder


def test_a_seed_is_one_world():
    """Another numpy, or an edit, must not change it."""
    assert torch.equal(render(5, WORLD), render(5, WORLD))
    assert not torch.equal(render(5, WORLD), render(6, WORLD))
    first = discs_of(0, WORLD)[0]
    assert (first.color, round(first.radius_px, 6)) == PINNED


def test_discs_stay_inside_and_keep_their_speed():
    for seed in range(20):
        for disc in discs_of(seed, WORLD):
            places = [disc.place_at(frame / 8, WORLD) for frame in range(8 * 200)]
            for down, right in places:
                assert disc.radius_px <= down <= WORLD.height_px - disc.radius_px
                assert disc.radius_px <= right <= WORLD.width_px - disc.radius_px
            steps = sorted(math.dist(a, b) * 8 for a, b in pairwise(places))
            speed = math.hypot(*disc.velocity_px)
            assert WORLD.min_speed_px <= speed <= WORLD.max_speed_px
            assert steps[len(steps) // 2] == pytest.approx(speed) and steps[-1] == pytest.approx(speed), "but at walls"


def test_where_a_disc_goes_does_not_show_in_one_frame():
    """The same first frame with velocities turned round is as likely: directions have no part in it."""
    frame = render(7, WORLD)[:, 0]
    still = replace(WORLD, min_speed_px=0.001, max_speed_px=0.001)
    assert torch.equal(frame, render(7, still)[:, 0])
    assert not torch.equal(render(7, WORLD)[:, 4], render(7, still)[:, 4])


def test_pictures_are_of_the_colours_in_the_caption():
    for seed in range(5):
        colors = [disc.color for disc in discs_of(seed, WORLD)]
        assert len(set(colors)) == WORLD.num_discs
        assert caption_of(seed, WORLD) == " and ".join(f"a {color} disc" for color in colors)
        front = discs_of(seed, WORLD)[-1]
        down, right = (int(place) for place in front.place_at(0, WORLD))
        shown = render(seed, WORLD)[:, 0, down, right].float() / 255
        assert shown.tolist() == pytest.approx(COLORS_RGB[front.color], abs=0.01)


def test_a_folder_is_as_of_real_footage(folder: Path):
    manifest = Manifest.read(folder / "manifest.arrow")
    assert [clip.split for clip in manifest].count("train") == 4 and len(manifest.select("heldout")) == 2
    assert {clip.clip_id for clip in manifest.select("heldout")} == {
        f"heldout/{FIRST_HELDOUT_SEED + n}.avi@0" for n in range(2)
    }
    data = DataConfig(manifest="unused", num_frames=9, height_px=32, width_px=32)
    for sample in cover_windows(manifest, data, hop_frames=1):
        seed = int(Path(sample.clip.path).stem)
        assert sample.clip.caption == caption_of(seed, WORLD)
        video = PyAVDecoder(1).decode([sample])[0]
        error = (video.float() - render(seed, WORLD).float()) / 255
        assert -10 * math.log10(error.square().mean()) > 25, "MJPEG halves the resolution of colours"


def test_the_same_seeds_give_the_same_manifest(folder: Path, tmp_path: Path):
    again = write_world(tmp_path / "again", WORLD, num_train=4, num_heldout=2)
    assert again.digest == Manifest.read(folder / "manifest.arrow").digest
    more = write_world(tmp_path / "more", WORLD, num_train=5, num_heldout=2)
    assert more.digest != again.digest


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_discs": 6}, "num_discs=6 must lie between 1 and the 5 colours"),
        ({"min_speed_px": 2.0}, "min_speed_px=2.0 must be greater than 0 and at most max_speed_px=1.4"),
        ({"max_radius_px": 16.0}, "leaves a disc no room"),
        ({"edge_px": 0.0}, "edge_px=0.0 must be greater than 0"),
    ],
)
def test_worlds_that_can_not_be(change: dict[str, float], said: str):
    with pytest.raises(DataError, match=said):
        replace(WORLD, **change)


def test_a_folder_that_is_there_is_left_alone(folder: Path, tmp_path: Path):
    with pytest.raises(DataError, match="exists already"):
        write_world(folder, WORLD, num_train=1, num_heldout=0)
    with pytest.raises(DataError, match="num_train=0 must be at least 1"):
        write_world(tmp_path / "none", WORLD, num_train=0, num_heldout=1)
    assert not (tmp_path / "none").exists()
