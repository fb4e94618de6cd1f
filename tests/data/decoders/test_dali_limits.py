from dataclasses import replace

import pytest

from cosmos_data.decoders.dali_limits import count_obstacles, dali_obstacle
from cosmos_data.manifests.clip import Clip
from cosmos_data.manifests.manifest import Manifest


def test_what_dali_cannot_do(manifest, mjpeg):
    assert dali_obstacle(mjpeg[0], "cpu") is None
    assert "h264" in str(dali_obstacle(manifest[0], "cpu"))
    assert dali_obstacle(manifest[0], "cuda") is None


CHANGES = [
    ({"codec": "prores"}, "prores"),
    ({"pixel_format": "yuv422p"}, "yuv422p"),
    ({"color_matrix": "bt709"}, "bt709"),
    ({"rotation_deg": 180}, "upright"),
    ({"is_mirrored": True}, "mirrored"),
    ({"stream_index": 0}, "one video of several"),
    ({"is_squared": True, "background": "00ff00"}, "with square pixels, on a background"),
    ({"is_tone_mapped": True}, "tone-mapped"),
    ({"is_deinterlaced": True}, "deinterlaced"),
    ({"seek": "stamps", "first_pts": None}, "time stamps"),
    ({"first_pts": -1}, "time stamps"),
]


def changed(mjpeg: Manifest) -> list[Clip]:
    """A plain clip and one for each of CHANGES."""
    clips = [replace(mjpeg[0], clip_id=str(number), **change) for number, (change, _) in enumerate(CHANGES)]
    return [mjpeg[0], *clips]


@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
def test_every_trait_counts(mjpeg, device_type):
    plain, *others = changed(mjpeg)
    assert dali_obstacle(plain, device_type) is None
    for clip, (_, reason) in zip(others, CHANGES, strict=True):
        assert reason in str(dali_obstacle(clip, device_type))


def test_full_range_counts_on_a_gpu(mjpeg):
    full = replace(mjpeg[0], codec="vp9", pixel_format="yuv420p", color_range="full")
    assert dali_obstacle(full, "cpu") is None
    assert "full-range" in str(dali_obstacle(full, "cuda"))


@pytest.mark.parametrize("name", [None, "manifest.arrow", "manifest.parquet"])
def test_counting_agrees_with_judging_each_clip(mjpeg, tmp_path, name):
    """Columns come from memory or from a file, where a missing number is none or NaN."""
    manifest = Manifest([*mjpeg.clips[1:], *changed(mjpeg)])
    expected = [dali_obstacle(clip, "cpu") for clip in manifest]
    if name:
        manifest.write(tmp_path / name)
        manifest = Manifest.read(tmp_path / name)
    counts = count_obstacles([manifest, mjpeg.rows([0, 1])], "cpu")
    assert counts == {reason: expected.count(reason) + 2 * (reason is None) for reason in expected}
    assert counts.total() == len(manifest) + 2


def test_a_row_of_a_file_is_made_for_no_count(mjpeg, tmp_path, monkeypatch):
    mjpeg.write(tmp_path / "manifest.arrow")
    manifest = Manifest.read(tmp_path / "manifest.arrow")
    monkeypatch.setattr(Manifest, "__getitem__", lambda *_: pytest.fail("a clip was made"))
    assert count_obstacles([manifest], "cpu") == {None: len(manifest)}


def test_a_manifest_without_clips():
    assert count_obstacles([Manifest()], "cpu") == {}
