"""Files whose pictures are to be shown otherwise than they are stored, and which of several streams is the film."""

import struct
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from cosmos_data.decoders.dali_limits import dali_obstacle
from cosmos_data.errors import DataError
from cosmos_data.location import VideoFile
from cosmos_data.manifests.build import build_manifest
from cosmos_data.manifests.clip import Clip
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.videos.opened import open_container
from cosmos_data.videos.shown import Orientation, Rules, upright
from cosmos_data.videos.video import BadVideoError, RgbConverter, probe_video, read_frames

RED, GREEN, BLUE, GRAY = (200, 30, 30), (30, 180, 30), (30, 30, 200), (120, 120, 120)
HEIGHT_PX, WIDTH_PX, NUM_FRAMES = 48, 64, 12


def corners(height_px: int = HEIGHT_PX, width_px: int = WIDTH_PX, number: int = 0) -> np.ndarray:
    """uint8 [H, W, 3] with another colour in each quarter, and frame number as the gray of the last."""
    picture = np.zeros((height_px, width_px, 3), np.uint8)
    picture[: height_px // 2, : width_px // 2] = RED
    picture[: height_px // 2, width_px // 2 :] = GREEN
    picture[height_px // 2 :, : width_px // 2] = BLUE
    picture[height_px // 2 :, width_px // 2 :] = np.add(GRAY, 5 * number)
    return picture


def write(path: Path, *, encoder: str = "libx264", pixel_format: str = "yuv444p", **stream_fields: Any) -> Path:
    """A film of 12 frames; stream_fields are set on the codec's context."""
    with av.open(str(path), "w") as container:
        add_film(container, encoder, pixel_format, **stream_fields)
    return path


def add_film(
    container: av.container.OutputContainer,
    encoder: str,
    pixel_format: str,
    *,
    size=(HEIGHT_PX, WIDTH_PX),
    **fields: Any,
) -> None:
    stream = container.add_stream(encoder, rate=24, options={"crf": "5"} if encoder == "libx264" else {})
    stream.height, stream.width = size
    stream.pix_fmt = pixel_format
    for name, value in fields.items():
        setattr(stream.codec_context, name, value)
    for number in range(NUM_FRAMES):
        frame = av.VideoFrame.from_ndarray(corners(*size, number), format="rgb24")
        frame.pts, frame.time_base = number, Fraction(1, 24)
        container.mux(stream.encode(frame.reformat(format=pixel_format)))
    container.mux(stream.encode(None))


def only_clip(folder: Path, rules: Rules | None = None) -> Clip:
    manifest, bad, *_ = build_manifest(folder, None, None, split_shots=False, rules=rules)
    assert not bad
    [clip] = manifest
    return clip


def picture_of(clip: Clip, number: int = 0) -> np.ndarray:
    [frame] = read_frames(clip, start_frame=number, num_frames=1)
    return RgbConverter()(frame)


def quarters(picture: np.ndarray) -> np.ndarray:
    """The middle pixel of each quarter, [4, 3]: top left, top right, bottom left, bottom right."""
    height, width, _ = picture.shape
    places = list(product((height // 4, 3 * height // 4), (width // 4, 3 * width // 4)))
    return np.array([picture[place] for place in places], int)


# Orientation.

MATRICES = {
    Orientation(0, False): (1, 0, 0, 1),
    Orientation(90, False): (0, -1, 1, 0),
    Orientation(180, False): (-1, 0, 0, -1),
    Orientation(270, False): (0, 1, -1, 0),
    Orientation(0, True): (-1, 0, 0, 1),
    Orientation(90, True): (0, 1, 1, 0),
    Orientation(180, True): (1, 0, 0, -1),
    Orientation(270, True): (0, -1, -1, 0),
}
"""Turn to the left, after a mirror -> a, b, c, d of the display matrix: x' = a x + c y, y' = b x + d y."""


def with_matrix(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """In the track header of an MP4 file, 40 bytes after the box's name."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "orientation", MATRICES, ids=lambda o: f"{o.rotation_deg}{' mirrored' if o.is_mirrored else ''}"
)
def test_all_eight_orientations(orientation: Orientation, tmp_path: Path):
    with_matrix(write(tmp_path / "film.mp4"), MATRICES[orientation])
    clip = only_clip(tmp_path)
    assert (clip.rotation_deg, clip.is_mirrored) == orientation
    expected = upright(corners(), orientation)
    assert (clip.height_px, clip.width_px) == expected.shape[:2]
    assert np.abs(quarters(picture_of(clip)) - quarters(expected)).max() <= 4
    if orientation != (0, False):
        assert dali_obstacle(replace(clip, codec="mjpeg", pixel_format="yuvj420p"), "cpu") is not None


def test_an_upright_picture_is_mirrored_before_it_is_turned():
    """A picture whose first row is red, mirrored and turned to the left, has red in its first column."""
    picture = np.array([["red", "green"], ["blue", "gray"]])
    assert upright(picture, Orientation(90, True)).tolist() == [["red", "blue"], ["green", "gray"]]


# Streams.


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_the_larger_stream_is_the_film(suffix: str, tmp_path: Path):
    with av.open(str(tmp_path / f"film{suffix}"), "w") as container:
        preview = container.add_stream("libx264", rate=24)
        preview.height, preview.width, preview.pix_fmt = 16, 32, "yuv420p"
        film = container.add_stream("libx264", rate=24)
        film.height, film.width, film.pix_fmt = HEIGHT_PX, WIDTH_PX, "yuv420p"
        preview.disposition = film.disposition = av.stream.Disposition.default  # else MP4 marks the first alone
        for stream, size in ((preview, (16, 32)), (film, (HEIGHT_PX, WIDTH_PX))):
            for number in range(NUM_FRAMES):
                frame = av.VideoFrame.from_ndarray(corners(*size, number), format="rgb24")
                container.mux(stream.encode(frame.reformat(format="yuv420p")))
            container.mux(stream.encode(None))
    clip = only_clip(tmp_path)
    assert (clip.stream_index, clip.width_px, clip.height_px) == (1, WIDTH_PX, HEIGHT_PX)
    assert picture_of(clip, 5).shape == (HEIGHT_PX, WIDTH_PX, 3)
    assert "stream 1" in clip.treatment


def test_a_stream_without_a_packet_is_no_film(tmp_path: Path):
    large = write(tmp_path / "large.mp4", size=(96, 128))
    with av.open(str(large)) as template, av.open(str(tmp_path / "film.mkv"), "w") as container:
        empty = container.add_stream_from_template(template.streams.video[0])
        empty.disposition = av.stream.Disposition.default
        add_film(container, "mpeg4", "yuv420p")
    info = probe_video(tmp_path / "film.mkv")
    assert (info.stream_index, info.num_frames, info.width_px) == (1, NUM_FRAMES, WIDTH_PX)


@pytest.mark.parametrize(
    ("matrix", "transfers", "words"),
    [
        (8, [1, 1], "YCgCo"),
        (14, [16, 16], "ICtCp"),
        (1, [1, 16], "its transfer curve changes at frame 6"),
    ],
)
def test_colours_that_are_not_read_are_named(tmp_path: Path, matrix: int, transfers: list[int], words: str):
    """Two parts of six frames, joined: each is H.264 that says its own colours."""
    path = tmp_path / "a.h264"
    parts = []
    for transfer in transfers:
        part = tmp_path / "part.h264"
        with av.open(str(part), "w") as out:
            stream = out.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.codec_context.color_trc, stream.codec_context.colorspace = transfer, matrix
            for level in range(0, 240, 40):
                picture = np.full((48, 64, 3), level, np.uint8)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
        parts.append(part.read_bytes())
    path.write_bytes(b"".join(parts))
    with pytest.raises(BadVideoError, match=words):
        probe_video(path)


def test_a_script_that_names_other_files_is_no_video(tmp_path: Path):
    write(tmp_path / "film.mkv")
    script = tmp_path / "list.mp4"
    script.write_text("ffconcat version 1.0\nfile film.mkv\n")
    playlist = tmp_path / "list.m3u8"
    playlist.write_text("#EXTM3U\n#EXTINF:1,\nfilm.mkv\n#EXT-X-ENDLIST\n")
    for path in (script, playlist):
        with pytest.raises(BadVideoError, match="it is a text"):
            probe_video(path)
        with pytest.raises((BadVideoError, av.error.InvalidDataError)):  # FFmpeg would open it, whoever asks
            open_container(VideoFile(str(path)))


# Ends.


def test_frames_that_an_edit_list_leaves_out_are_not_missing(tmp_path: Path):
    path = write(tmp_path / "film.mp4", pixel_format="yuv420p")
    content = bytearray(path.read_bytes())
    at = content.index(b"elst")  # version and flags, number of edits, then the first edit's duration
    (duration,) = struct.unpack(">I", content[at + 12 : at + 16])
    content[at + 12 : at + 16] = struct.pack(">I", duration // 2)
    path.write_bytes(content)
    assert probe_video(path).num_frames == NUM_FRAMES // 2


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_a_file_that_is_cut_off_is_refused(suffix: str, tmp_path: Path):
    path = tmp_path / f"film{suffix}"
    with av.open(str(path), "w", options={"movflags": "faststart"} if suffix == ".mp4" else {}) as container:
        add_film(container, "mpeg4", "yuv420p", gop_size=1)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * 0.8)])
    with pytest.raises(BadVideoError, match=r"cut off|cannot be decoded|is damaged"):
        probe_video(path)


def test_a_matroska_file_that_was_written_as_it_went_out_is_whole(tmp_path: Path):
    """Its segment does not say its size."""
    path = tmp_path / "film.mkv"
    with av.open(str(path), "w", options={"live": "1"}) as container:
        add_film(container, "mpeg4", "yuv420p")
    assert probe_video(path).num_frames == NUM_FRAMES


def test_an_avi_header_may_announce_any_number(tmp_path: Path):
    path = tmp_path / "film.avi"
    with av.open(str(path), "w") as container:
        add_film(container, "mpeg4", "yuv420p")
    content = bytearray(path.read_bytes())
    at = content.index(b"strh") + 8 + 32  # dwLength of the stream's header
    assert struct.unpack("<I", content[at : at + 4]) == (NUM_FRAMES,)
    content[at : at + 4] = struct.pack("<I", NUM_FRAMES + 500)
    path.write_bytes(content)
    assert probe_video(path).num_frames == NUM_FRAMES


# What samples mean.


def test_pixels_that_are_not_square(tmp_path: Path):
    write(tmp_path / "film.mp4", sample_aspect_ratio=Fraction(4, 3))
    clip = only_clip(tmp_path)
    assert (clip.pixel_aspect, clip.width_px, clip.height_px) == ("4:3", 86, HEIGHT_PX)
    picture = picture_of(clip)
    assert picture.shape == (HEIGHT_PX, 86, 3)
    assert np.abs(quarters(picture) - quarters(corners())).max() <= 4
    stored = only_clip(tmp_path, Rules(pixels="stored"))
    assert (stored.width_px, stored.treatment) == (WIDTH_PX, "") and stored.digest != clip.digest


def test_a_file_of_another_size_is_not_made_to_fit(tmp_path: Path):
    write(tmp_path / "film.mp4", sample_aspect_ratio=Fraction(4, 3))
    clip = replace(only_clip(tmp_path), width_px=300)
    assert picture_of(clip).shape == (HEIGHT_PX, WIDTH_PX, 3), "whoever reads it compares"


@pytest.mark.parametrize("transfer", ["pq", "hlg"])
def test_high_range_is_brought_to_a_usual_screen_or_refused(transfer: str, tmp_path: Path):
    number = {"pq": 16, "hlg": 18}[transfer]
    path = write(tmp_path / "film.mp4", pixel_format="yuv420p10le", color_trc=number, color_primaries=9, colorspace=9)
    clip = only_clip(tmp_path)
    assert (clip.transfer, clip.primaries, clip.is_tone_mapped) == (transfer, "bt2020", True)
    kept = only_clip(tmp_path, Rules(hdr="keep"))
    assert not kept.is_tone_mapped and kept.digest != clip.digest
    shown, stored = quarters(picture_of(clip)), quarters(picture_of(kept))
    # Signal 120 / 255 is 68 nits of PQ and 44 of HLG; 203 are white on the screen, whose gamma is 2.4.
    assert np.ptp(shown[3]) <= 4 and np.ptp(stored[3]) <= 4
    assert shown[3].mean() == pytest.approx({"pq": 161, "hlg": 135}[transfer], abs=8)
    with pytest.raises(BadVideoError, match="high dynamic range"):
        probe_video(path, Rules(hdr="refuse"))


def test_two_moments_become_one(tmp_path: Path):
    """A bar that moves 8 px from field to field: interlaced it has teeth, deinterlaced it has none."""
    path = tmp_path / "film.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"x264-params": "tff=1", "crf": "5"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT_PX, 128, "yuv420p"
        for number in range(NUM_FRAMES):
            picture = np.full((HEIGHT_PX, 128, 3), 20, np.uint8)
            for field in (0, 1):
                left = 8 * (2 * number + field) % 96
                picture[field::2, left : left + 16] = 220
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    clip = only_clip(tmp_path)
    assert (clip.field_order, clip.is_deinterlaced, clip.num_frames) == ("interlaced", True, NUM_FRAMES)
    kept = only_clip(tmp_path, Rules(interlaced="keep"))

    def teeth(picture: np.ndarray) -> float:
        rows = picture[..., 1].astype(float)
        return float(np.abs(rows[1:-1] - (rows[:-2] + rows[2:]) / 2).mean())

    assert teeth(picture_of(clip, 5)) < 0.35 * teeth(picture_of(kept, 5))
    # Frame k is the same frame in whatever window.
    whole = [RgbConverter()(frame) for frame in read_frames(clip, start_frame=0, num_frames=NUM_FRAMES)]
    for number in (0, 1, 6, NUM_FRAMES - 1):
        assert np.array_equal(picture_of(clip, number), whole[number]), number
    strided = list(read_frames(clip, start_frame=1, num_frames=4, frame_stride=3))
    assert all(np.array_equal(RgbConverter()(frame), whole[1 + 3 * k]) for k, frame in enumerate(strided))
    with pytest.raises(BadVideoError, match="interlaced"):
        probe_video(path, Rules(interlaced="refuse"))


ALPHA: dict[str, Callable[[Path], tuple[Path, str, str]]] = {
    "png": lambda folder: (folder / "film.mov", "png", "rgba"),
    "qtrle": lambda folder: (folder / "film.mov", "qtrle", "argb"),
    "vp9": lambda folder: (folder / "film.webm", "libvpx-vp9", "yuva420p"),
}


@pytest.mark.parametrize("kind", ALPHA)
def test_transparent_pictures_lie_on_a_background(kind: str, tmp_path: Path):
    path, encoder, pixel_format = ALPHA[kind](tmp_path)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            encoder, rate=24, options={"auto-alt-ref": "0", "crf": "5"} if kind == "vp9" else {}
        )
        stream.height, stream.width, stream.pix_fmt = HEIGHT_PX, WIDTH_PX, pixel_format
        opaque = np.full((HEIGHT_PX, WIDTH_PX, 1), 255, np.uint8)
        opaque[:, : WIDTH_PX // 2] = 0
        for number in range(NUM_FRAMES):
            frame = av.VideoFrame.from_ndarray(np.concatenate([corners(number=number), opaque], -1), format="rgba")
            container.mux(stream.encode(frame.reformat(format=pixel_format)))
        container.mux(stream.encode(None))
    clip = only_clip(tmp_path, Rules(background="0000ff"))
    assert clip.has_alpha and clip.background == "0000ff"
    expected = quarters(corners(number=5))
    expected[[0, 2]] = (0, 0, 255)
    assert np.abs(quarters(picture_of(clip, 5)) - expected).max() <= 6
    assert only_clip(tmp_path).background == "000000"
    assert only_clip(tmp_path, Rules(background="keep")).background == ""


def test_transparency_that_only_a_tag_tells_of(tmp_path: Path):
    """As where ffmpeg copies a WebM film into Matroska."""
    path = tmp_path / "film.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=24, options={"auto-alt-ref": "0", "crf": "5"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT_PX, WIDTH_PX, "yuva420p"
        stream.metadata["ALPHA_MODE"] = "1"
        transparent = np.concatenate([corners(), np.zeros((HEIGHT_PX, WIDTH_PX, 1), np.uint8)], -1)
        frame = av.VideoFrame.from_ndarray(transparent, format="rgba").reformat(format="yuva420p")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\x53\xc0\x81\x01", b"\x53\xc0\x81\x00"))  # AlphaMode, the track's own field
    with av.open(str(path)) as container:
        assert "alpha_mode" not in container.streams.video[0].metadata
    assert quarters(picture_of(only_clip(tmp_path, Rules(background="0000ff")))).tolist() == 4 * [[0, 0, 255]]


def test_a_background_is_a_colour():
    with pytest.raises(DataError, match="background='blue' is no colour; use six hexadecimal digits"):
        Rules(background="blue")


# Manifests.


def test_a_manifest_of_version_2_is_read_and_keeps_its_digest():
    path = Path(__file__).parent / "data" / "version_2.parquet"
    old = Manifest.read(path)
    assert [clip.clip_id for clip in old] == ["a.mp4@0", "a.mp4@30"]
    assert old[0].pixel_aspect == "1:1" and old[0].stream_index is None and old[0].treatment == ""
    assert old.digest == "fcf2eb08adb7e16549d3677e1672c4b1fcad064bd6be83409ca05924ba10b582"
