from dataclasses import fields, replace
from pathlib import Path

import av
import pytest
import torch

from cosmos_data.config import DataConfig
from cosmos_data.decoders.decode import PyAVDecoder
from cosmos_data.errors import ClipError, DataError
from cosmos_data.manifests.build import build_manifest
from cosmos_data.manifests.clip import Pictures
from cosmos_data.manifests.conditions import Camera
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.manifests.pack import PackRequest, pack_manifest
from cosmos_data.sample_plan.plan import cover_windows

SMALL = PackRequest(height_px=64, width_px=96)
LARGE = PackRequest(height_px=256, width_px=320)


def test_rows_keep_their_identity(manifest, mjpeg):
    kept = ("clip_id", "num_frames", "caption", "split")
    for clip, packed in zip(manifest, mjpeg, strict=True):
        assert [getattr(packed, name) for name in kept] == [getattr(clip, name) for name in kept]
        assert packed.fps == pytest.approx(clip.fps)
        assert (packed.start_frame, packed.height_px, packed.width_px) == (0, 64, 96)
        assert (packed.codec, packed.color_matrix, packed.first_pts) == ("mjpeg", "bt601", 0)
    assert len({clip.path for clip in mjpeg}) == 12
    assert mjpeg.digest != manifest.digest


@pytest.mark.parametrize("codec", ["mjpeg", "vp9"])
def test_pictures_are_those_of_the_source(manifest, codec, request):
    packed = request.getfixturevalue(codec)
    config = DataConfig(manifest="m.parquet", num_frames=30, height_px=64, width_px=96)
    decoder = PyAVDecoder(2)
    few = Manifest(manifest.clips[:3])
    found = decoder.decode(list(cover_windows(Manifest(packed.clips[:3]), config, hop_frames=30))).float()
    expected = decoder.decode(list(cover_windows(few, config, hop_frames=30))).float()
    psnr = 10 * torch.log10(255**2 / (found - expected).square().mean(dim=(1, 2, 3, 4)))
    assert psnr.min() > 30, psnr
    assert (found - expected).mean().abs() < 1  # colours are not shifted


def test_key_frames_are_close(mjpeg, vp9):
    for clip, most in ((mjpeg[0], 1), (vp9[0], 12)):
        with av.open(clip.path) as container:
            keys = [n for n, p in enumerate(p for p in container.demux(video=0) if p.size) if p.is_keyframe]
        assert keys == list(range(0, 30, most))


def test_h264(manifest, tmp_path):
    packed = pack_manifest(Manifest(manifest.clips[:1]), tmp_path / "out", replace(SMALL, codec="h264"))
    assert (packed[0].codec, packed[0].num_frames) == ("h264", 30)


def test_upscaling_only_on_request(manifest, tmp_path):
    with pytest.raises(DataError, match=r"clip indoors/carphone.mp4@0 is 176x144 px, smaller than 320x256.*upscaling"):
        pack_manifest(manifest, tmp_path / "out", LARGE)
    one = Manifest(manifest.clips[8:9])
    packed = pack_manifest(one, tmp_path / "out", replace(LARGE, allow_upscale=True))
    assert (packed[0].height_px, packed[0].width_px) == (256, 320)


def test_a_pack_that_fails_leaves_nothing(manifest, tmp_path):
    broken = Manifest((manifest[0], replace(manifest[1], path=str(tmp_path / "absent.mp4"))))
    steps = []
    with pytest.raises(ClipError, match="absent"):
        pack_manifest(broken, tmp_path / "out", SMALL, progress=lambda *step: steps.append(step))
    assert steps == [(1, 2)]
    assert list(tmp_path.iterdir()) == []


def test_senseless_requests(manifest, tmp_path):
    with pytest.raises(DataError, match="exists already"):
        pack_manifest(manifest, tmp_path, SMALL)
    with pytest.raises(DataError, match="height_px=63"):
        pack_manifest(manifest, tmp_path / "out", replace(SMALL, height_px=63))
    with pytest.raises(DataError, match="codec='gif'"):
        pack_manifest(manifest, tmp_path / "out", replace(SMALL, codec="gif"))


def test_a_packed_folder_can_be_moved(mjpeg, tmp_path):
    folder = Path(mjpeg[0].path).parent
    moved = tmp_path / "moved"
    moved.symlink_to(folder)
    again = Manifest.read(moved / "manifest.arrow")
    assert again.digest == mjpeg.digest
    assert Path(again[0].path).parent == moved


def test_gop_frames(manifest, tmp_path):
    request = replace(SMALL, codec="h264", gop_frames=5)
    packed = pack_manifest(Manifest(manifest.clips[:1]), tmp_path / "out", request)
    with av.open(packed[0].path) as container:
        keys = [n for n, p in enumerate(p for p in container.demux(video=0) if p.size) if p.is_keyframe]
    assert keys == list(range(0, 30, 5))


def test_shards_hold_the_same_clips(mjpeg, manifest, tmp_path):
    packed = pack_manifest(manifest, tmp_path / "out", replace(SMALL, shard_mib=1))
    shards = sorted(path.name for path in (tmp_path / "out").glob("*.tar"))
    assert shards[0] == "shard-000000.tar"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["manifest.arrow", "manifest.parquet", *shards]
    assert packed.digest == mjpeg.digest  # where bytes lie is not in it
    config = DataConfig(manifest="m.parquet", num_frames=9, height_px=64, width_px=96)
    pair = [list(cover_windows(clips, config, hop_frames=15))[:6] for clips in (packed, mjpeg)]
    assert torch.equal(*(PyAVDecoder(2).decode(samples) for samples in pair))


def test_a_folder_of_shards_can_be_built_from(folder, manifest, tmp_path):
    pack_manifest(Manifest(manifest.clips[:3]), tmp_path / "out", replace(SMALL, codec="h264", shard_mib=1))
    again, bad, *_ = build_manifest(tmp_path / "out", None, None, split_shots=False)
    assert bad == []
    assert [clip.clip_id for clip in again] == [f"shard-000000/{row:06d}@0" for row in range(3)]
    assert {clip.caption for clip in again} == {"cyclists on a road"}


@pytest.mark.parametrize("shard_mib", [None, 1])
def test_copies_share_their_file(manifest, tmp_path, shard_mib):
    packed = pack_manifest(manifest, tmp_path / "out", PackRequest(codec="copy", shard_mib=shard_mib))
    assert packed.digest == manifest.digest
    assert len({clip.file for clip in packed}) == 2
    config = DataConfig(manifest="m.parquet", num_frames=3, height_px=64, width_px=96)
    pair = [list(cover_windows(clips, config, hop_frames=28))[::5] for clips in (packed, manifest)]
    assert torch.equal(*(PyAVDecoder(2).decode(samples) for samples in pair))


def test_views_and_cameras_are_packed_alike(manifest, tmp_path):
    one = manifest[0]
    camera = Camera(
        convention="world_to_camera_opencv",
        intrinsics_px=(500.0, 500.0, 320.0, 136.0),
        height_px=272,
        width_px=640,
        extrinsics=(1.0, 0, 0, 0, 0, 1.0, 0, 0, 0, 0, 1.0, 0),
    )
    side = Pictures(**{f.name: getattr(manifest[2], f.name) for f in fields(Pictures)} | {"view": "side"})
    pair = Manifest((replace(one, view="front", camera=camera, views=(side,)),))
    packed = pack_manifest(pair, tmp_path / "out", replace(SMALL, shard_mib=1))
    front, other = packed[0].each_view()
    assert (front.view, other.view) == ("front", "side")
    assert front.file != other.file
    # The largest middle part of 640x272 that is as wide as 96:64 is 408x272: 116 pixels are gone on the left.
    assert front.camera.intrinsics_px == (500.0, 500.0, 204.0, 136.0)
    assert (front.camera.height_px, front.camera.width_px) == (272, 408)
    again, *_ = build_manifest(tmp_path / "out", None, None, split_shots=False)
    assert [clip.view for clip in again[0].each_view()] == ["front", "side"]
    assert again[0].camera == front.camera


def test_a_copy_needs_no_size_and_others_do(manifest, tmp_path):
    with pytest.raises(DataError, match="codec=mjpeg needs height_px and width_px"):
        pack_manifest(manifest, tmp_path / "out", PackRequest())
