from contextlib import contextmanager
from dataclasses import replace
from itertools import takewhile

import av
import numpy as np
import pytest

from cosmos_data.errors import ClipError
from cosmos_data.location import VideoFile
from cosmos_data.manifests.clip import Clip
from cosmos_data.videos.opened import BadVideoError, OpenVideos, open_video
from cosmos_data.videos.video import RgbConverter, _frames_from_key, read_frames

MANY_BYTES = 2**30


@pytest.fixture
def bikes(manifest) -> Clip:
    """640x272, B frames, 250 frames."""
    return replace(next(clip for clip in manifest if clip.path.endswith("bikes.mp4")), num_frames=250)


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """Every file that is opened."""
    names, honest = [], av.open
    monkeypatch.setattr(av, "open", lambda url, **options: (names.append(url), honest(url, **options))[1])
    return names


def window(clip: Clip, start_frame: int, videos: OpenVideos | None) -> np.ndarray:
    frames = read_frames(clip, start_frame=start_frame, num_frames=5, videos=videos)
    return np.stack([RgbConverter()(frame) for frame in frames])


def test_a_file_that_stays_open_gives_the_same_frames(bikes, opened):
    videos, starts = OpenVideos(MANY_BYTES), [120, 31, 0, 29, 200, 75, 74, 245]
    kept = [window(bikes, start, videos) for start in starts]
    assert len(opened) == 1
    for start, pictures in zip(starts, kept, strict=True):
        assert np.array_equal(pictures, window(bikes, start, None)), start
    assert len(opened) == 1 + len(starts)


def test_the_least_recently_used_is_closed_first(manifest, opened):
    bikes, phone = (next(c for c in manifest if c.path.endswith(name)) for name in ("bikes.mp4", "carphone.mp4"))
    with open_video(bikes.file).container, open_video(phone.file).container:
        room = open_video(bikes.file).num_bytes
    opened.clear()
    videos = OpenVideos(room)
    for clip, times in ((phone, 1), (phone, 1), (bikes, 2), (bikes, 2), (phone, 3)):
        window(clip, clip.start_frame, videos)
        assert len(opened) == times


def test_two_at_a_time_have_one_each(bikes, opened):
    videos = OpenVideos(MANY_BYTES)
    with videos.borrow(bikes.file) as first, videos.borrow(bikes.file) as second:
        assert first.container is not second.container
    assert len(opened) == 2
    window(bikes, 30, videos)
    assert len(opened) == 2


def test_after_an_error_it_is_opened_again(bikes, opened):
    videos = OpenVideos(MANY_BYTES)
    with pytest.raises(ClipError, match="ends before frame 250"):
        list(read_frames(bikes, start_frame=246, num_frames=5, videos=videos))
    with pytest.raises(KeyError), videos.borrow(bikes.file):
        raise KeyError
    assert np.array_equal(window(bikes, 60, videos), window(bikes, 60, None))


def test_no_video_in_it(tmp_path):
    with av.open(str(tmp_path / "sound.mka"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(BadVideoError, match="no video stream"):
        open_video(VideoFile(str(tmp_path / "sound.mka")))


def test_pictures_that_no_other_is_made_of_are_skipped_on_the_way(bikes):
    """From the key frame at 137 to frame 165 only some of the 28 are decoded, of the window all."""
    frames = _frames_from_key(bikes, range(165, 175), OpenVideos(0))
    decoded = [number for number, _ in takewhile(lambda pair: pair[0] < 175, frames)]
    assert decoded[0] == 137
    assert decoded[-10:] == list(range(165, 175))
    assert len(decoded) < 10 + 20


class _Counted:
    """A container, and the packets that were taken out of it."""

    def __init__(self, container) -> None:
        self._container, self.stamps = container, list[int]()

    def demux(self, stream):
        for packet in self._container.demux(stream):
            self.stamps.append(packet.pts)
            yield packet

    def __getattr__(self, name: str):
        return getattr(self._container, name)


@pytest.mark.parametrize("start_frame", [140, 165, 170])
def test_no_packet_is_decoded_after_the_last_that_is_needed(bikes, start_frame):
    """Pictures that the decoder keeps back, for others that might come first, are asked of it."""
    counted = list[_Counted]()

    class Counting(OpenVideos):
        @contextmanager
        def borrow(self, file, stream_index=None):
            with super().borrow(file, stream_index) as video:
                counted.append(_Counted(video.container))
                yield video._replace(container=counted[-1])

    frames = list(read_frames(bikes, start_frame=start_frame, num_frames=4, videos=Counting(0)))
    last = frames[-1].pts
    assert all(frame.time_base == frames[0].time_base for frame in frames)
    [taken] = counted
    assert taken.stamps[-1] <= last
