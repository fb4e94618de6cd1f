from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cosmos_data.errors import ClipError
from cosmos_data.manifests.build import build_manifest
from cosmos_data.manifests.clip import Clip
from cosmos_data.sample_plan.window import Box
from cosmos_data.videos import video
from cosmos_data.videos.shown import AS_STORED, Orientation, Rules, filter_graph
from cosmos_data.videos.video import RgbConverter, part_around, probe_video, read_frames


@cache
def whole_file(name: str, footage: Path) -> Clip:
    clips = build_manifest(
        footage,
        clip_frames=1000,
        heldout_every=None,
        min_frames=1,
        split_shots=False,
        max_bad_share=1.0,
        rules=Rules(pixels="stored"),
    )[0]
    return next(clip for clip in clips if clip.path.endswith(name))


def luma(frame: av.VideoFrame) -> np.ndarray:
    plane = frame.planes[0]
    return np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width].copy()


def sequential(path: str) -> list[np.ndarray]:
    with av.open(path) as container:
        return [luma(frame) for frame in container.decode(video=0)]


# bikes: B frames, key frames at 0, 30, 76, 137 ...; carphone: B frames, one key frame, 29.97 frames per second.
@pytest.mark.parametrize(("name", "stride"), [("bikes.mp4", 1), ("bikes.mp4", 3), ("carphone_pristine.mp4", 1)])
def test_frames_are_those_of_sequential_decoding(footage, name, stride):
    clip = whole_file(name, footage)
    assert clip.first_pts == 0
    expected = sequential(clip.path)
    assert len(expected) == clip.num_frames
    starts = [0, 29, 30, 31, clip.num_frames - 8 * stride - 1]
    starts += np.random.default_rng(0).integers(0, clip.num_frames - 8 * stride, 4).tolist()
    for start in starts:
        frames = list(read_frames(clip, start_frame=start, num_frames=9, frame_stride=stride))
        assert len(frames) == 9
        for place, frame in enumerate(frames):
            assert np.array_equal(luma(frame), expected[start + place * stride]), (start, place)


def write_uneven(source: Path, target: Path, pts_of) -> None:
    """24 frames of the source with time stamps of the caller's choice, in milliseconds."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream("libvpx-vp9", rate=25, options={"g": "4", "deadline": "realtime", "cpu-used": "8"})
        stream.width, stream.height, stream.pix_fmt = 176, 144, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, frame in zip(range(24), old.decode(video=0), strict=False):
            frame.pts, frame.time_base, frame.pict_type = pts_of(number), Fraction(1, 1000), 0
            new.mux(stream.encode(frame))
        new.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("pts_of", "by_stamps"),
    [
        (lambda n: 700 + 40 * n, True),  # does not begin at zero
        (lambda n: round(n * 1001 / 30) if n < 12 else 4000 + 90 * n, False),  # changes its rate
    ],
    ids=["late", "variable"],
)
def test_odd_time_stamps(footage, tmp_path, pts_of, by_stamps):
    write_uneven(footage / "carphone_pristine.mp4", tmp_path / "odd.webm", pts_of)
    clip = build_manifest(tmp_path, clip_frames=24, heldout_every=None).manifest[0]
    assert (clip.first_pts is not None) == by_stamps
    expected = sequential(clip.path)
    for start in (0, 3, 4, 11, 13, 20):
        frames = list(read_frames(clip, start_frame=start, num_frames=4))
        assert all(np.array_equal(luma(f), e) for f, e in zip(frames, expected[start : start + 4], strict=True))


def test_a_seek_that_lands_late_is_noticed(footage, monkeypatch):
    clip = whole_file("bikes.mp4", footage)
    honest = video._frames_from_key

    def late(clip, wanted, videos):
        return honest(clip, range(wanted.start + 60, wanted.stop + 60), videos)

    monkeypatch.setattr(video, "_frames_from_key", late)
    frames = list(read_frames(clip, start_frame=40, num_frames=2))
    assert np.array_equal(luma(frames[0]), sequential(clip.path)[40])


def test_a_frame_that_is_not_there_is_noticed(footage, monkeypatch):
    clip = whole_file("bikes.mp4", footage)
    honest = video._frames_from_key
    monkeypatch.setattr(video, "_frames_from_key", lambda *args: (pair for pair in honest(*args) if pair[0] != 62))
    with pytest.raises(ClipError, match="frame 62 is missing"):
        list(read_frames(clip, start_frame=60, num_frames=4))
    assert len(list(read_frames(clip, start_frame=60, num_frames=4, frame_stride=3))) == 4


def test_what_cannot_be_read_is_a_clip_error(footage, tmp_path):
    clip = whole_file("bikes.mp4", footage)
    with pytest.raises(ClipError, match="ends before frame 250"):
        list(read_frames(clip, start_frame=246, num_frames=5))
    with pytest.raises(ClipError, match="cannot be decoded near frame 3"):
        list(read_frames(replace(clip, path=str(tmp_path / "absent.mp4")), start_frame=3, num_frames=5))
    content = Path(clip.path).read_bytes()
    damaged = replace(clip, path=str(tmp_path / "damaged.mp4"))
    Path(damaged.path).write_bytes(content[:200000] + bytes(3000) + content[203000:])
    with pytest.raises(ClipError, match=r"damaged\.mp4"):
        list(read_frames(damaged, start_frame=90, num_frames=20))
    assert len(list(read_frames(damaged, start_frame=0, num_frames=20))) == 20  # before the damage


def test_probe_reads_the_header_right(footage):
    info = probe_video(footage / "bigbuckbunny.mp4")
    assert (info.num_frames, info.height_px, info.width_px, info.fps, info.codec) == (132, 720, 1280, 25.0, "h264")


def yuv_frame(y: int, u: int, v: int, matrix: int, color_range: int) -> av.VideoFrame:
    frame = av.VideoFrame(32, 16, "yuv420p")
    for plane, level in zip(frame.planes, (y, u, v), strict=True):
        plane.update(bytes([level]) * plane.buffer_size)
    frame.colorspace, frame.color_range = matrix, color_range
    return frame


@pytest.mark.parametrize(("matrix", "kr", "kb"), [(1, 0.2126, 0.0722), (2, 0.299, 0.114), (6, 0.299, 0.114)])
@pytest.mark.parametrize("full_range", [False, True])
def test_colours_follow_the_formula(matrix, kr, kb, full_range):
    """ITU-R BT.601 and BT.709: Y = kr R + (1 - kr - kb) G + kb B, the levels 16..235 and 16..240 or 0..255."""
    for y, u, v in [(100, 128, 128), (90, 100, 170), (180, 140, 90), (235, 128, 128)]:
        luma_share = y / 255 if full_range else (y - 16) / 219
        blue, red = ((u - 128) / 255, (v - 128) / 255) if full_range else ((u - 128) / 224, (v - 128) / 224)
        r = luma_share + 2 * (1 - kr) * red
        b = luma_share + 2 * (1 - kb) * blue
        g = (luma_share - kr * r - kb * b) / (1 - kr - kb)
        expected = np.clip(np.array([r, g, b]) * 255, 0, 255)
        found = RgbConverter()(yuv_frame(y, u, v, matrix, 2 if full_range else 1))
        assert np.abs(found - expected).max() <= 1, (y, u, v)


@cache
def noise(size_px: tuple[int, int], pixel_format: str, matrix: int, color_range: int) -> av.VideoFrame:
    frame = av.VideoFrame(size_px[1], size_px[0], pixel_format)
    for plane in frame.planes:
        plane.update(np.random.default_rng(0).bytes(plane.buffer_size))
    frame.colorspace, frame.color_range = matrix, color_range
    return frame


@st.composite
def boxes(draw: st.DrawFn) -> tuple[tuple[int, int], Box]:
    """Within pictures of even and odd sizes."""
    size_px = draw(st.sampled_from([(64, 96), (62, 322), (250, 34), (33, 64), (48, 65)]))
    extents = [draw(st.integers(1, side_px)) for side_px in size_px]
    top_px, left_px = (draw(st.integers(0, side_px - extent)) for side_px, extent in zip(size_px, extents, strict=True))
    return size_px, Box(top_px=top_px, left_px=left_px, height_px=extents[0], width_px=extents[1])


@settings(max_examples=300, deadline=None)
@given(
    where=boxes(),
    pixel_format=st.sampled_from(["yuv420p", "yuv420p", "yuvj420p", "yuv422p", "yuv420p10le", "rgb24"]),
    matrix=st.sampled_from([1, 2, 5, 9]),
    color_range=st.sampled_from([0, 1, 2]),
    rotation_deg=st.sampled_from([0, 0, 90]),
)
@example(((64, 96), Box(top_px=20, left_px=30, height_px=2, width_px=40)), "yuv420p", 1, 1, 0)  # few rows of chroma
@example(((64, 96), Box(top_px=20, left_px=30, height_px=12, width_px=12)), "yuv420p", 1, 1, 0)
def test_a_part_has_the_colours_that_it_has_in_the_picture(where, pixel_format, matrix, color_range, rotation_deg):
    """Bit for bit, whether it is cut out before or after its colours are made."""
    size_px, box = where
    orientation = Orientation(rotation_deg, is_mirrored=False)
    if rotation_deg:
        box = Box(top_px=box.left_px, left_px=box.top_px, height_px=box.width_px, width_px=box.height_px)
    frame = noise(size_px, pixel_format, matrix, color_range)
    whole = RgbConverter().colours(frame, orientation)
    for colour, part in zip(whole, RgbConverter().colours(frame, orientation, box), strict=True):
        assert np.array_equal(colour[box.rows, box.columns], part)


def test_parts_of_real_pictures_of_several_sizes_one_after_the_other(footage):
    """With one converter, as a thread has it; of lines of two moments, which are made colours apart, nothing is cut."""
    to_rgb = RgbConverter()
    for name, top_px in (("bikes.mp4", 41), ("carphone_pristine.mp4", 41), ("bikes.mp4", 70), ("bikes.mp4", 41)):
        box = Box(top_px=top_px, left_px=50, height_px=60, width_px=80)
        for frame in read_frames(whole_file(name, footage), start_frame=7, num_frames=2):
            assert part_around(box, frame) is not None
            whole = RgbConverter().colours(frame, AS_STORED)
            for colour, part in zip(whole, to_rgb.colours(frame, AS_STORED, box), strict=True):
                assert np.array_equal(colour[box.rows, box.columns], part)
            graph = filter_graph(frame, {"setfield": "tff"})
            graph.push(frame)
            interlaced = graph.pull()
            assert isinstance(interlaced, av.VideoFrame) and part_around(box, interlaced) is None
