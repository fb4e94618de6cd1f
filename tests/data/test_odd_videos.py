"""Files as cameras and phones make them: PyAV's frames are those of decoding the whole file in order and those of
torchcodec."""

import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from support.torchcodec_frames import decoded, torchcodec_process

from cosmos_data.config import DataConfig
from cosmos_data.decoders.dali_limits import dali_obstacle
from cosmos_data.decoders.decode import PyAVDecoder
from cosmos_data.manifests.build import build_manifest
from cosmos_data.sample_plan.plan import Part, SamplePlan
from cosmos_data.videos.video import RgbConverter, probe_video, read_frames

NUM_FRAMES = 40


def write(
    path: Path, encoder: str, pixel_format: str, size: tuple[int, int], stamps: list[int], **options: str
) -> Path:
    """A video in which frame k can be told from all others. stamps: in 1/600 s; size: (height, width)."""
    height, width = size
    columns = np.arange(width, dtype=np.float32) / width
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=30, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, pixel_format
        stream.codec_context.time_base = Fraction(1, 600)
        for number, stamp in enumerate(stamps):
            picture = np.zeros((height, width, 3), dtype=np.uint8)
            picture[..., 0] = 5 * number + 20
            picture[: height // 2, :, 1] = (255 * columns).astype(np.uint8)
            picture[:, : width // 3, 2] = 200
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixel_format)
            frame.pts, frame.time_base = stamp, Fraction(1, 600)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


STEADY = [20 * k for k in range(NUM_FRAMES)]
VARIABLE = np.cumsum([0, *np.random.default_rng(0).integers(5, 60, NUM_FRAMES - 1)]).tolist()


def turned(path: Path) -> Path:
    """A quarter turn in the track header's matrix, 40 bytes after the box's name."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44
    content[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


def unstamped(path: Path) -> Path:
    """H.264 as a bare stream, without a container: nothing says when a frame is shown."""
    bare = path.with_suffix(".mkv")
    with av.open(str(path)) as old, av.open(str(bare), "w", format="h264") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    path.unlink()
    return bare


def without_reorder_limit(path: Path) -> Path:
    """The parameter set ends before its VUI, which says how far B frames are out of order (H.264, 7.3.2.1.1, High)."""
    content = bytearray(path.read_bytes())
    at = content.index(b"avcC") + 4 + 8  # behind the configuration's six bytes and the set's length
    size = int.from_bytes(content[at - 2 : at], "big")
    bits = "".join(f"{byte:08b}" for byte in content[at : at + size])
    place = 8 * 4  # name of the unit, profile, constraints, level

    def pass_number() -> int:
        """Exp-Golomb; its value."""
        nonlocal place
        zeros = bits.index("1", place) - place
        place += 2 * zeros + 1
        return int(bits[place - zeros - 1 : place], 2) - 1

    assert [pass_number(), pass_number()] == [0, 1], "set 0, 4:2:0"
    pass_number(), pass_number()  # bit depths
    place += 2
    pass_number()
    if pass_number() == 0:
        pass_number()
    pass_number()  # reference frames
    place += 1
    pass_number(), pass_number()  # size
    place += 2
    assert bits[place : place + 2] == "01", "no cropping, and a VUI"
    ended = (bits[: place + 1] + "01").ljust(8 * size, "0")
    content[at : at + size] = int(ended, 2).to_bytes(size, "big")
    path.write_bytes(content)
    return path


MAKERS: dict[str, Callable[[Path], Path]] = {
    "variable_rate": lambda p: write(p / "v.mp4", "libx264", "yuv420p", (64, 96), VARIABLE, g="10", bf="0"),
    "variable_rate_b_frames": lambda p: write(p / "v.mp4", "libx264", "yuv420p", (64, 96), VARIABLE, g="12", bf="3"),
    "b_frames_open_gop": lambda p: write(
        p / "v.mp4", "libx264", "yuv420p", (64, 96), STEADY, g="12", bf="3", **{"x264-params": "open-gop=1"}
    ),
    "b_frames_no_limit": lambda p: without_reorder_limit(
        write(p / "v.mp4", "libx264", "yuv420p", (64, 96), STEADY, g="20", bf="5", **{"b-pyramid": "normal"})
    ),
    "ten_bit": lambda p: write(
        p / "v.mp4", "libx265", "yuv420p10le", (64, 96), STEADY, **{"x265-params": "log-level=0"}
    ),
    "odd_size": lambda p: write(p / "v.mkv", "libx264", "yuv444p", (63, 95), STEADY, g="10"),
    "rotated": lambda p: turned(write(p / "v.mp4", "libx264", "yuv420p", (64, 96), STEADY, g="10")),
    "late_start": lambda p: write(p / "v.mp4", "libx264", "yuv420p", (64, 96), [s + 3000 for s in STEADY], g="10"),
    "unstamped": lambda p: unstamped(write(p / "v.mp4", "libx264", "yuv420p", (64, 96), STEADY, g="10", bf="2")),
}
SEEK = {"variable_rate": "stamps", "variable_rate_b_frames": "stamps", "unstamped": "count"}


def in_order(path: Path) -> np.ndarray:
    """[T, rows, columns, 3]: every frame, decoded from the first on."""
    to_rgb = RgbConverter()
    with av.open(str(path)) as container:
        return np.stack([to_rgb(frame) for frame in container.decode(video=0)])


@pytest.fixture(params=MAKERS, scope="module")
def odd(request, tmp_path_factory) -> tuple[str, Path]:
    return request.param, MAKERS[request.param](tmp_path_factory.mktemp(request.param))


def test_frames_are_the_right_ones_from_anywhere(odd):
    name, path = odd
    expected = in_order(path)
    assert len(expected) == NUM_FRAMES
    manifest, *_ = build_manifest(path.parent, None, None)
    [clip] = manifest
    assert clip.seek == SEEK.get(name, "rate")
    assert (clip.num_frames, clip.height_px, clip.width_px) == (NUM_FRAMES, *expected.shape[1:3])
    to_rgb = RgbConverter()
    for start, stride in [(0, 1), (9, 1), (10, 2), (11, 3), (23, 1), (35, 1)]:
        frames = list(read_frames(clip, start_frame=start, num_frames=5, frame_stride=stride))
        for place, frame in enumerate(frames):
            assert np.array_equal(to_rgb(frame), expected[start + place * stride]), (start, stride, place)


def test_the_plan_executed(odd):
    _, path = odd
    manifest, *_ = build_manifest(path.parent, None, None)
    expected = in_order(path)
    height_px, width_px = expected.shape[1:3]
    config = DataConfig(manifest="m", num_frames=5, height_px=height_px, width_px=width_px, flip=False, resize="crop")
    plan = SamplePlan([Part(manifest)], 0, config)
    samples = [plan.sample(i) for i in range(4)]
    for sample, window in zip(samples, PyAVDecoder(2).decode(samples), strict=True):
        whole = torch.from_numpy(expected[sample.start_frame : sample.start_frame + 5]).permute(3, 0, 1, 2)
        assert torch.equal(window, whole)


# What DALI decodes of the others on a GPU is compared in test_dali.py.
@pytest.mark.parametrize(
    "odd", [m for m in MAKERS if m not in ("b_frames_open_gop", "b_frames_no_limit", "late_start")], indirect=True
)
def test_dali_leaves_them_to_pyav(odd):
    _, path = odd
    manifest, *_ = build_manifest(path.parent, None, None)
    [clip] = manifest
    assert dali_obstacle(clip, "cuda") is not None


@pytest.fixture(scope="module")
def torchcodec() -> Iterator[ProcessPoolExecutor]:
    with torchcodec_process() as process:
        yield process


# It finds frames by their stamps.
@pytest.mark.parametrize("odd", [m for m in MAKERS if m != "unstamped"], indirect=True)
def test_torchcodec_sees_the_same(odd, torchcodec: ProcessPoolExecutor):
    _, path = odd
    numbers = (0, 1, 11, 24, NUM_FRAMES - 1)
    count, theirs = torchcodec.submit(decoded, path, numbers).result()
    assert count == NUM_FRAMES
    expected = in_order(path)
    for number, picture in zip(numbers, theirs, strict=True):
        assert picture.shape == expected[number].shape
        # Another rounding of chroma than ours (see video.ACCURATE): near, and nearer than any other frame.
        errors = [np.abs(picture.astype(int) - other).mean() for other in expected]
        assert int(np.argmin(errors)) == number
        assert errors[number] < 3.0


def test_the_rate_of_a_variable_video_is_its_mean(tmp_path):
    info = probe_video(MAKERS["variable_rate"](tmp_path))
    mean = (VARIABLE[-1] - VARIABLE[0]) / 600 / (NUM_FRAMES - 1)
    assert info.fps == pytest.approx(1 / mean, rel=1e-3)
    assert info.duration_sec == pytest.approx(NUM_FRAMES * mean, rel=1e-3)
