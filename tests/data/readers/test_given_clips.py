"""Clips by path: videos, folders of pictures, manifests; their digests, sizes and frames."""

import shutil
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from support.footage import CARPHONE

from cosmos_data.errors import ClipError, DataError
from cosmos_data.manifests.build import build_manifest
from cosmos_data.readers.given_clips import find_clips, gathered, read_pixels, scaled_size


def pictures(folder: Path, *, num_frames: int = 3, size: tuple[int, int] = (20, 14)) -> Path:
    """A folder of pictures of one grey each, numbered from 0 with gaps."""
    folder.mkdir(parents=True)
    for frame in range(num_frames):
        Image.new("RGB", size, (40 * frame,) * 3).save(folder / f"{3 * frame:05d}.png")
    return folder


def test_videos_are_found_below_a_folder(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.mp4", "deep/a.mp4"):
        shutil.copy(CARPHONE, tmp_path / name)
    pictures(tmp_path / "thumbnails")
    sources = find_clips(tmp_path, pictures_fps=24)
    assert [source.name for source in sources] == ["b.mp4", "deep/a.mp4"], "pictures beside videos are none of them"
    assert sources[0].digest() == sources[1].digest()
    clip = sources[1].describe()
    assert (clip.num_frames, clip.height_px, clip.width_px) == (120, 144, 192)
    [alone] = find_clips(tmp_path / "b.mp4", pictures_fps=24)
    assert alone.name == "b.mp4" and alone.digest() == sources[0].digest()


def test_frames_are_those_of_the_video() -> None:
    [source] = find_clips(CARPHONE, pictures_fps=24)
    clip = source.describe()
    frames = torch.cat(list(read_pixels(clip, num_frames=5, height_px=144, width_px=192)), dim=1)
    with av.open(str(CARPHONE)) as container:
        square = [frame.reformat(width=192, format="rgb24") for frame in islice(container.decode(video=0), 5)]
        decoded = [frame.to_ndarray() for frame in square]
    assert frames.shape == (3, 5, 144, 192) and frames.dtype == torch.uint8
    assert np.abs(frames.permute(1, 2, 3, 0).numpy().astype(int) - np.stack(decoded)).mean() < 3
    small = next(read_pixels(clip, num_frames=1, height_px=72, width_px=96))
    mean = frames[:, :1].float().unflatten(2, (72, 2)).unflatten(4, (96, 2)).mean(dim=(3, 5))
    assert (small.float() - mean).abs().mean() < 3


def test_folders_of_pictures_are_clips(tmp_path: Path) -> None:
    pictures(tmp_path / "b", num_frames=2)
    pictures(tmp_path / "a" / "first")
    sources = find_clips(tmp_path, pictures_fps=12)
    assert [source.name for source in sources] == ["a/first", "b"]
    clip = sources[0].describe()
    assert (clip.num_frames, clip.fps, clip.height_px, clip.width_px) == (3, 12, 14, 20)
    frames = torch.cat(list(read_pixels(clip, num_frames=3, height_px=14, width_px=20)), dim=1)
    assert frames[0, :, 7, 10].tolist() == [0, 40, 80]
    assert [source.name for source in find_clips(tmp_path / "b", pictures_fps=12)] == ["b"]


def test_the_digest_of_pictures_is_of_all_that_is_seen(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "a")

    def digest(fps: float = 24) -> str:
        return find_clips(tmp_path, pictures_fps=fps)[0].digest()

    before = digest()
    assert digest() == before != digest(fps=25)
    (folder / "00001.png").write_bytes((folder / "00000.png").read_bytes())
    assert digest() != before, "a picture more"


def test_pictures_of_another_size_are_named(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "a")
    Image.new("RGB", (8, 8)).save(folder / "00009.png")
    clip = find_clips(tmp_path, pictures_fps=24)[0].describe()
    with pytest.raises(ClipError, match=r"a: one frame is 8x8 px, others 20x14"):
        list(read_pixels(clip, num_frames=4, height_px=14, width_px=20))
    (folder / "00009.png").write_bytes(b"no picture")
    with pytest.raises(ClipError, match=r"00009.png cannot be read as a picture"):
        list(read_pixels(clip, num_frames=4, height_px=14, width_px=20))


def test_a_manifests_clips_and_the_bytes_behind_them(tmp_path: Path) -> None:
    shutil.copy(CARPHONE, tmp_path / "a.mp4")
    build_manifest(tmp_path, clip_frames=40, heldout_every=3).manifest.write(tmp_path / "m.parquet")
    sources = find_clips(tmp_path / "m.parquet", pictures_fps=24)
    assert [source.name for source in sources] == ["a.mp4@0", "a.mp4@40", "a.mp4@80"]
    assert len({source.digest() for source in sources}) == 3
    clip = sources[1].describe()
    whole = read_pixels(find_clips(CARPHONE, pictures_fps=24)[0].describe(), num_frames=41, height_px=8, width_px=8)
    [first] = read_pixels(clip, num_frames=1, height_px=8, width_px=8)
    assert torch.equal(first, list(whole)[40])
    [held_out] = find_clips(tmp_path / "m.parquet", pictures_fps=24, split="heldout")
    assert held_out.name == "a.mp4@80"
    with (tmp_path / "a.mp4").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(DataError, match=r"a.mp4 has changed since the manifest was built; build the manifest again"):
        find_clips(tmp_path / "m.parquet", pictures_fps=24)[0].digest()
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(DataError, match=r"a.mp4 of clip a.mp4@0 is missing"):
        find_clips(tmp_path / "m.parquet", pictures_fps=24)[0].digest()


def test_a_manifest_without_the_split_and_a_folder_without_clips(tmp_path: Path) -> None:
    shutil.copy(CARPHONE, tmp_path / "a.mp4")
    build_manifest(tmp_path, clip_frames=40, heldout_every=None).manifest.write(tmp_path / "m.parquet")
    with pytest.raises(DataError, match=r"m.parquet has no clips of split heldout; use split=all"):
        find_clips(tmp_path / "m.parquet", pictures_fps=24, split="heldout")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no video"):
        find_clips(tmp_path / "empty", pictures_fps=24)
    (tmp_path / "torn.mp4").write_bytes(CARPHONE.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"torn.mp4: it "):
        find_clips(tmp_path / "torn.mp4", pictures_fps=24)[0].describe()


@pytest.mark.parametrize(
    ("size", "short_side_px", "expected"),
    [((144, 176), None, (144, 176)), ((144, 176), 200, (144, 176)), ((144, 176), 72, (72, 88)), ((33, 20), 7, (12, 7))],
)
def test_larger_pictures_are_shrunk(
    size: tuple[int, int], short_side_px: int | None, expected: tuple[int, int], tmp_path: Path
) -> None:
    pictures(tmp_path / "a", num_frames=1, size=size[::-1])
    clip = find_clips(tmp_path, pictures_fps=24)[0].describe()
    assert scaled_size(clip, short_side_px) == expected


def test_frames_are_gathered_in_order() -> None:
    frames = torch.arange(7).view(1, 7, 1, 1)
    pieces = list(gathered(frames.split(1, dim=1), 3))
    assert [piece.shape[1] for piece in pieces] == [3, 3, 1]
    assert torch.equal(torch.cat(pieces, dim=1), frames)
