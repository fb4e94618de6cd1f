"""Pictures in and out: an MP4 that is written shows what was given; first frames of videos and images are read."""

from fractions import Fraction
from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from support.footage import CARPHONE
from support.patches import centres, patches, shown, tags
from torch import Tensor

from cosmos_data.config import DataConfig
from cosmos_data.errors import DataError
from cosmos_data.videos.media import mp4_comment, read_first_frames, tile, write_mp4, write_mp4_pieces
from cosmos_data.videos.video import probe_video


def window(height_px: int, width_px: int) -> DataConfig:
    """Windows of this size."""
    return DataConfig(manifest="unused.parquet", num_frames=17, height_px=height_px, width_px=width_px)


def psnr_db(a: Tensor, b: Tensor) -> float:
    return (10 * torch.log10(255**2 / (a.float() - b.float()).square().mean())).item()


def decoded(path: Path) -> np.ndarray:
    """Frames as RGB [T, H, W, 3] of square pixels, by PyAV's own conversion."""
    with av.open(str(path)) as container:
        aspect = container.streams.video[0].sample_aspect_ratio or 1
        frames = list(container.decode(video=0))
        if aspect != 1:
            frames = [frame.reformat(width=2 * round(frame.width * aspect / 2)) for frame in frames]
        return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])


@pytest.fixture(scope="module")
def clip() -> Tensor:
    """uint8 [3, 17, 144, 192] of real footage, as it is shown."""
    return read_first_frames(CARPHONE, 17, window(144, 192), crop=False)


# Out.


@pytest.mark.parametrize("fps", [24.0, 30000 / 1001, 7.5])
def test_what_is_written_is_what_is_shown(clip: Tensor, tmp_path: Path, fps: float):
    write_mp4(tmp_path / "a.mp4", clip, fps=fps)
    info = probe_video(tmp_path / "a.mp4")
    assert (info.num_frames, info.height_px, info.width_px, info.codec) == (17, 144, 192, "h264")
    assert info.fps == pytest.approx(fps)
    shown = read_first_frames(tmp_path / "a.mp4", 17, window(144, 192), crop=False)
    assert min(psnr_db(shown[:, t], clip[:, t]) for t in range(17)) > 35
    assert (shown.float() - clip.float()).mean(dim=(1, 2, 3)).abs().max() < 1, "colours are not shifted"
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize(
    ("size", "matrix"),
    # 1 is BT.709 and 6 smpte170m, which is BT.601: also what is assumed of these sizes where nothing is said.
    [((96, 384), 6), ((95, 385), 6), ((576, 720), 6), ((704, 1280), 1), ((720, 1280), 1), ((1280, 720), 1)],
)
def test_colours_are_tagged_and_are_what_the_tags_say(size: tuple[int, int], matrix: int, tmp_path: Path):
    video = patches(*size)
    write_mp4(tmp_path / "a.mp4", video, fps=24)
    assert tags(tmp_path / "a.mp4") == (matrix, 1, 1, 1), "matrix, limited range, primaries and transfer of BT.709"
    ours = read_first_frames(tmp_path / "a.mp4", 1, window(*size), crop=False)[:, 0]
    for picture in (ours, shown(tmp_path / "a.mp4")):
        assert (centres(picture) - centres(video[:, 0])).abs().max() <= 2


def test_any_player_can_play_it(clip: Tensor, tmp_path: Path):
    write_mp4(tmp_path / "a.mp4", clip, fps=24)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.pix_fmt, stream.average_rate) == ("yuv420p", Fraction(24))
        assert container.duration == pytest.approx(17 / 24 * av.time_base, rel=0.01)


def test_a_single_frame_is_a_video_too(clip: Tensor, tmp_path: Path):
    write_mp4(tmp_path / "a.mp4", clip[:, :1], fps=24)
    assert probe_video(tmp_path / "a.mp4").num_frames == 1


def test_an_older_video_of_the_name_is_replaced(clip: Tensor, tmp_path: Path):
    write_mp4(tmp_path / "a.mp4", clip[:, :3], fps=24)
    write_mp4(tmp_path / "a.mp4", clip[:, :5], fps=24)
    assert probe_video(tmp_path / "a.mp4").num_frames == 5


def test_what_can_not_be_written_leaves_no_video_of_the_name(clip: Tensor, tmp_path: Path):
    with pytest.raises(ValueError):
        write_mp4(tmp_path / "a.mp4", clip[:2], fps=24)  # two colour channels
    assert list(tmp_path.iterdir()) == []


# In.


def test_first_frames_of_a_video(clip: Tensor):
    assert clip.dtype == torch.uint8 and clip.shape == (3, 17, 144, 192)
    reference = torch.from_numpy(decoded(CARPHONE)[:17].copy()).permute(3, 0, 1, 2)
    assert min(psnr_db(clip[:, t], reference[:, t]) for t in range(17)) > 30
    fewer = read_first_frames(CARPHONE, 9, window(144, 192), crop=False)
    assert torch.equal(fewer, clip[:, :9])


def test_the_largest_central_part_of_the_models_shape(tmp_path: Path):
    """A white square in the middle of a wide picture becomes all of the picture that is asked for."""
    picture = np.zeros((64, 160, 3), dtype=np.uint8)
    picture[:, 48:112] = (255, 200, 0)
    Image.fromarray(picture).save(tmp_path / "wide.png")
    frames = read_first_frames(tmp_path / "wide.png", 1, window(32, 32), crop=True)
    assert frames.shape == (3, 1, 32, 32)
    assert (frames.float().mean(dim=(1, 2, 3)) - torch.tensor([255.0, 200.0, 0.0])).abs().max() < 3


def test_a_model_trained_on_crops_is_given_a_crop(clip: Tensor):
    data = DataConfig(manifest="unused.parquet", num_frames=17, height_px=64, width_px=96, resize="crop")
    assert torch.equal(read_first_frames(CARPHONE, 17, data, crop=True), clip[:, :, 40:104, 48:144])


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_an_image_is_a_video_of_one_frame(clip: Tensor, tmp_path: Path, suffix: str):
    path = tmp_path / f"first.{suffix}"
    Image.fromarray(clip[:, 0].permute(1, 2, 0).numpy()).save(path, **({"quality": 95} if suffix == "jpg" else {}))
    frames = read_first_frames(path, 1, window(144, 192), crop=True)
    assert psnr_db(frames[:, 0], clip[:, 0]) > (30 if suffix == "jpg" else 60)


def test_what_is_no_input_is_named(tmp_path: Path):
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    torn = tmp_path / "torn.mp4"
    torn.write_bytes(CARPHONE.read_bytes()[:4000])
    for path, num_frames, size, said in (
        (tmp_path / "absent.mp4", 1, (64, 64), "is not a file; name a video or an image"),
        (tmp_path, 1, (64, 64), "is not a file; name a video or an image"),
        (text, 1, (64, 64), "; name a video or an image"),
        (torn, 1, (64, 64), "; name a video or an image"),
        (CARPHONE, 121, (64, 64), "has 120 frames and 121 are the condition; use a longer video, or a smaller sample"),
        (CARPHONE, 1, (160, 64), "is 192x144 px, smaller than the 64x160 px that this model was trained at; use a la"),
        (CARPHONE, 1, (64, 208), "is 192x144 px, smaller than the 208x64 px that this model was trained at; use a la"),
    ):
        with pytest.raises(DataError) as caught:
            read_first_frames(path, num_frames, window(*size), crop=True)
        assert str(caught.value).startswith(f"--input {path}") and said in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_picture_of_another_size_is_cut_on_request_only(tmp_path: Path):
    for size_px in ((144, 88), (72, 192), (160, 208)):
        with pytest.raises(
            DataError, match=r"is 192x144 px, and this model was trained at .* px; give a picture of that"
        ):
            read_first_frames(CARPHONE, 1, window(*size_px), crop=False)
    assert read_first_frames(CARPHONE, 1, window(72, 88), crop=True).shape == (3, 1, 72, 88)


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (2, 1, 2), (3, 2, 2), (4, 2, 2), (5, 2, 3)])
def test_videos_side_by_side(count: int, rows: int, columns: int):
    """In reading order, each where it belongs; places that are left are black."""
    videos = [torch.full((3, 2, 4, 6), index + 1, dtype=torch.uint8) for index in range(count)]
    grid = tile(videos)
    assert grid.shape == (3, 2, rows * 4, columns * 6) and grid.dtype == torch.uint8
    places = [
        grid[:, :, 4 * row : 4 * row + 4, 6 * column : 6 * column + 6].unique().tolist()
        for row, column in product(range(rows), range(columns))
    ]
    assert places == [[index + 1] for index in range(count)] + [[0]] * (rows * columns - count)


def test_pieces_make_one_video_of_any_size(clip: Tensor, tmp_path: Path):
    odd = clip[:, :, :143, :175]
    write_mp4_pieces(tmp_path / "a.mp4", odd.split(5, dim=1), fps=24, comment="made of pieces")
    shown = torch.from_numpy(decoded(tmp_path / "a.mp4")).permute(3, 0, 1, 2)
    assert shown.shape == odd.shape and psnr_db(shown, odd) > 38
    assert mp4_comment(tmp_path / "a.mp4") == "made of pieces"
    assert mp4_comment(tmp_path / "b.mp4") == ""


def test_pieces_that_fail_leave_no_video(clip: Tensor, tmp_path: Path):
    def pieces():
        yield clip
        raise ValueError("the source is torn")

    with pytest.raises(ValueError, match="torn"):
        write_mp4_pieces(tmp_path / "a.mp4", pieces(), fps=24)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"no video", b"ffconcat version 1.0\nfile clip.mp4\n"])
def test_what_is_no_video_has_no_comment(clip: Tensor, tmp_path: Path, content: bytes):
    """Nor is the comment of a video that a script names the script's own."""
    write_mp4_pieces(tmp_path / "clip.mp4", [clip], fps=24, comment="of another file")
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(DataError, match=r"a.mp4 is there and is no video .*; remove it"):
        mp4_comment(tmp_path / "a.mp4")
