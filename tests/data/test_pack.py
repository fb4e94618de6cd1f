from dataclasses import replace
from pathlib import Path

import av
import pytest
import torch

from cosmos_data.config import DataConfig
from cosmos_data.decode import PyAVDecoder
from cosmos_data.errors import ClipError, DataError
from cosmos_data.manifest import Manifest
from cosmos_data.pack import pack_manifest
from cosmos_data.plan import cover_windows


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
    packed = pack_manifest(Manifest(manifest.clips[:1]), tmp_path / "out", height_px=64, width_px=96, codec="h264")
    assert (packed[0].codec, packed[0].num_frames) == ("h264", 30)


def test_upscaling_only_on_request(manifest, tmp_path):
    with pytest.raises(DataError, match=r"clip indoors/carphone.mp4@0 is 176x144 px, smaller than 320x256.*upscaling"):
        pack_manifest(manifest, tmp_path / "out", height_px=256, width_px=320)
    one = Manifest(manifest.clips[8:9])
    packed = pack_manifest(one, tmp_path / "out", height_px=256, width_px=320, allow_upscale=True)
    assert (packed[0].height_px, packed[0].width_px) == (256, 320)


def test_a_pack_that_fails_leaves_nothing(manifest, tmp_path):
    broken = Manifest((manifest[0], replace(manifest[1], path=str(tmp_path / "absent.mp4"))))
    steps = []
    with pytest.raises(ClipError, match="absent"):
        pack_manifest(broken, tmp_path / "out", height_px=64, width_px=96, progress=lambda *step: steps.append(step))
    assert steps == [(1, 2)]
    assert list(tmp_path.iterdir()) == []


def test_senseless_requests(manifest, tmp_path):
    with pytest.raises(DataError, match="exists already"):
        pack_manifest(manifest, tmp_path, height_px=64, width_px=96)
    with pytest.raises(DataError, match="height_px=63"):
        pack_manifest(manifest, tmp_path / "out", height_px=63, width_px=96)
    with pytest.raises(DataError, match="codec='gif'"):
        pack_manifest(manifest, tmp_path / "out", height_px=64, width_px=96, codec="gif")


def test_a_packed_folder_can_be_moved(mjpeg, tmp_path):
    folder = Path(mjpeg[0].path).parent
    moved = tmp_path / "moved"
    moved.symlink_to(folder)
    again = Manifest.read(moved / "manifest.parquet")
    assert again.digest == mjpeg.digest
    assert Path(again[0].path).parent == moved
