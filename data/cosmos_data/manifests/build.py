"""Videos -> a manifest. Every frame is decoded once, so what the manifest lists was really there.

Videos are taken in the order of their source (see `cosmos_data.readers.sources`) and cut where one shot ends and
another begins, then into consecutive clips. The same source gives the same manifest, wherever it lies.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, get_args

from cosmos_data.errors import DataError
from cosmos_data.location import VideoFile
from cosmos_data.manifests.clip import Clip, Pictures, Split
from cosmos_data.manifests.conditions import Camera, CaptionWindow, signal_faults
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.readers.bridge import GripperOpen
from cosmos_data.readers.found import BadVideo, FoundCamera, FoundVideo, FoundView, LeftOut, printable
from cosmos_data.readers.sources import read_sources
from cosmos_data.videos.gathered import SUFFIX, gather
from cosmos_data.videos.shown import Rules
from cosmos_data.videos.video import BadVideoError, VideoInfo, probe_video

SAME_RATE = 0.005
"""Rates of a file and of its data set that differ by no more than this share, such as 30 and 29.97, are one rate that
was written in two ways: frames are then counted one for one."""

SAME_LENGTH = 0.02
"""Views whose lengths differ by a larger share (and by more than 2 frames) are not of the same moments."""


class Built(NamedTuple):
    """A build makes this of a source."""

    manifest: Manifest
    bad: list[BadVideo]
    left_out: list[LeftOut]
    num_videos: int
    """That were found, the bad ones among them."""

    by_time: list[str]
    """Sentences on videos whose file has another rate than its data set says, and which are therefore read by time."""


def build_manifest(
    source: str | Path,
    clip_frames: int | None,
    heldout_every: int | None,
    *,
    min_frames: int | None = None,
    split_shots: bool = True,
    rules: Rules | None = None,
    cameras: Sequence[str] = (),
    splits: Mapping[str, Split] | None = None,
    gripper_open: GripperOpen | None = None,
    pictures_fps: float | None = None,
    gathered_folder: Path | None = None,
    max_bad_share: float = 0.05,
    num_workers: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> Built:
    """Build the manifest of a folder of videos, a LeRobot or an energon folder, a .jsonl listing, a .tar or a folder of
    all these.

    Args:
        clip_frames: frames per clip (None: whole shots). The last, shorter clip of a shot stays if it has `min_frames`
            (None: clip_frames, or 1).
        heldout_every: every k-th clip goes to the split "heldout", unless its source names a split (None: none does).
        split_shots: no clip spans a cut. Episodes of LeRobot are never split.
        rules: what is made of pictures that are not plain ones (None: what a player shows).
        cameras: LeRobot's names of the cameras to take (none: all but depth).
        splits: of an energon folder, the parts to take and what they are here (None: all, `train` to train on).
        gripper_open: Bridge's value of a gripper that is open (None: 1, if the grasps of each data set show it).
        pictures_fps: frames per second of frames that lie as pictures, where their source does not say.
        gathered_folder: where such frames are gathered into video files (None: they are refused).
        max_bad_share: the largest share (0 to 1) of videos without a clip.
        progress: called with (videos done, videos in all) after each video.

    Raises:
        DataError: the request makes no sense, nothing is found, or more videos than max_bad_share give no clip.
    """
    path = Path(source).absolute()
    min_frames = (clip_frames or 1) if min_frames is None else min_frames
    for name, value in (("clip_frames", clip_frames), ("min_frames", min_frames), ("heldout_every", heldout_every)):
        if value is not None and value < 1:
            raise DataError(f"{name}={value} is not a positive count; use 1 or more")
    if pictures_fps is not None and not 0 < pictures_fps < math.inf:
        raise DataError(f"pictures_fps={pictures_fps} is no rate; use a positive number of frames per second")
    if not 0 <= max_bad_share <= 1:
        raise DataError(f"max_bad_share={max_bad_share} is not a share; use a number from 0 to 1")
    found = list(read_sources(path, cameras, splits, gripper_open))
    left_out = [one for one in found if isinstance(one, LeftOut)]
    videos = list(_with_own_names([one for one in found if not isinstance(one, LeftOut)]))
    if not videos:
        raise DataError(f"{printable(str(path))} holds no video; {_said(left_out) or 'nothing is in it'}")

    gather_into = _GatherInto(gathered_folder and gathered_folder.absolute(), pictures_fps)

    def examine(video: FoundVideo | BadVideo) -> list[Clip] | BadVideo:
        if isinstance(video, BadVideo):
            return video
        try:
            video = replace(video, views=tuple(map(partial(_gathered, video.name, gather_into), video.views)))
            return _clips_of(video, clip_frames, min_frames, split_shots=split_shots, rules=rules or Rules())
        except (DataError, BadVideoError) as error:
            return BadVideo(_place(video), str(error))
        except OSError as error:
            return BadVideo(_place(video), f"it can not be read ({error.strerror})")

    clips: list[Clip] = []
    bad: list[BadVideo] = []
    decided: set[str] = set()
    by_time: list[str] = []
    with ThreadPoolExecutor(num_workers) as pool:
        for done, (read, made) in enumerate(zip(videos, pool.map(examine, videos), strict=True), start=1):
            if isinstance(made, BadVideo):
                bad.append(made)
            else:
                clips += made
                assert isinstance(read, FoundVideo)
                if read.split is not None:
                    decided.update(clip.clip_id for clip in made)
                if read.fps is not None and not _is_same_rate(read.fps, made[0].fps):
                    by_time.append(f"{_place(read)}: {made[0].fps:g} fps, its data set says {read.fps:g}")
            if progress is not None:
                progress(done, len(videos))

    if len(bad) > max_bad_share * len(videos):
        raise DataError(
            f"{len(bad)} of {len(videos)} videos in {printable(str(path))} give no clip, more than"
            f" max_bad_share={max_bad_share}; repair or remove them, or raise max_bad_share:\n{listed(bad)}"
        )
    return Built(Manifest(tuple(_held_out(clips, heldout_every, decided))), bad, left_out, len(videos), by_time)


class _GatherInto(NamedTuple):
    folder: Path | None
    fps: float | None


def _gathered(name: str, into: _GatherInto, view: FoundView) -> FoundView:
    """Give a view whose frames are pictures a video file of them."""
    if view.pictures is None:
        return view
    fps = into.fps if view.pictures.fps is None else view.pictures.fps
    if fps is None:
        raise DataError("its frames are pictures, which have no rate; say frames per second (--pictures-fps)")
    if into.folder is None:
        raise DataError("its frames are pictures; say where they are gathered into videos (gathered_folder)")
    path = into.folder / f"{name}.{view.view}{SUFFIX}" if view.view else into.folder / f"{name}{SUFFIX}"
    gather(view.pictures.read(), path, fps)
    return replace(view, file=VideoFile(str(path)), pictures=None)


def said_of_left_out(left_out: Sequence[LeftOut]) -> Iterator[str]:
    """Yield a line for each reason that says how many things it left out, and the first of them."""
    first: dict[str, LeftOut] = {}
    for one in left_out:
        first.setdefault(one.reason, one)
    counts = Counter(one.reason for one in left_out)
    for reason, example in first.items():
        count = counts[reason]
        yield f"{count}: {reason} ({example.path}{', ...' if count > 1 else ''})"


def listed(bad: Sequence[BadVideo]) -> str:
    """Join a line for each bad video."""
    return "\n".join(f"  {video.path}: {video.reason}" for video in bad)


def _said(left_out: Sequence[LeftOut]) -> str:
    lines = list(said_of_left_out(left_out))
    return "left out:\n" + "\n".join(f"  {line}" for line in lines) if lines else ""


def _with_own_names(videos: Sequence[FoundVideo | BadVideo]) -> Iterator[FoundVideo | BadVideo]:
    """Set apart sources that can give no good row: they are bad before anything is decoded."""
    places: dict[str, str] = {}
    for video in videos:
        if isinstance(video, BadVideo):
            yield video
            continue
        place = _place(video)
        fault = next(_name_faults(video), None)
        if fault is None and video.name in places:
            fault = (
                f"its name {video.name!r} is that of {places[video.name]} too; give each a name of its own (clip_id)"
            )
        places.setdefault(video.name, place)
        yield video if fault is None else BadVideo(place, fault)


def _place(video: FoundVideo) -> str:
    """Name a video's file for people, and the video in it, since many may be in one file."""
    path = video.views[0].file.path
    return printable(path if path.endswith(video.name) else f"{path}, {video.name}")


def _name_faults(video: FoundVideo) -> Iterator[str]:
    """Yield what is wrong with what is said of a video; its files are not looked at."""
    for text in (video.name, *(view.file.path for view in video.views), *(view.caption for view in video.views)):
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            yield f"its name is not UTF-8 ({printable(text)}); rename it"
        if "\0" in text:
            yield f"there is a NUL character in {printable(text)[:80]!r}"
    names = [view.view for view in video.views]
    if len(set(names)) < len(names):
        yield f"its views are named {', '.join(map(repr, names))}; give each view a name of its own"
    if video.num_frames is not None and video.num_frames < 1:
        yield f"num_frames={video.num_frames} is no positive count"
    for view in video.views:
        if view.start_frame < 0:
            yield f"start_frame={view.start_frame} is before the file's first frame"
    if video.split is not None and video.split not in get_args(Split):
        yield f"split={video.split!r} is unknown; use one of {', '.join(get_args(Split))}"


def _clips_of(
    video: FoundVideo, clip_frames: int | None, min_frames: int, *, split_shots: bool, rules: Rules
) -> list[Clip]:
    """Raises BadVideoError or DataError where the videos are damaged, too short or do not belong together."""
    infos = [_probe(view.file, rules) for view in video.views]
    first = infos[0]
    for view, info in zip(video.views, infos, strict=True):
        if abs(info.fps - first.fps) > 1e-3 * first.fps:
            raise BadVideoError(f"view {view.view or view.file.path} has {info.fps:g} fps, the first {first.fps:g}")
    video = _posed_part(_in_frames_of(video, first.fps), first)
    lengths = [info.num_frames - view.start_frame for view, info in zip(video.views, infos, strict=True)]
    for view, info, length in zip(video.views, infos, lengths, strict=True):
        if length < 1:
            raise BadVideoError(f"it starts at frame {view.start_frame}, and {view.file.path} has {info.num_frames}")
    if video.num_frames is None:
        if max(lengths) - min(lengths) > max(2, SAME_LENGTH * max(lengths)):
            raise BadVideoError(f"its views have {lengths} frames and are not of the same moments; say num_frames")
        video = replace(video, num_frames=min(lengths))
    num_frames = video.num_frames
    assert num_frames is not None
    if min(lengths) < num_frames:
        raise BadVideoError(f"it has {min(lengths)} frames from its start on, its source says {num_frames}")
    cameras = [_camera(view, num_frames, info) for view, info in zip(video.views, infos, strict=True)]
    for fault in _faults(video, cameras, num_frames, first.fps):
        raise BadVideoError(fault)
    is_cut = split_shots and not video.is_one_shot
    cuts = [cut - video.views[0].start_frame for cut in first.cuts] if is_cut else []
    clips = [
        _clip(video, infos, cameras, start_frame, length)
        for start_frame, length in cut_points(num_frames, cuts, clip_frames)
        if length >= min_frames
    ]
    if not clips:
        longest = max(length for _, length in cut_points(num_frames, cuts, None))
        shot = " in its longest shot" if longest < num_frames else ""
        raise BadVideoError(f"it has {longest} frames{shot}, a clip needs {min_frames} or more")
    return clips


def _in_frames_of(video: FoundVideo, fps: float) -> FoundVideo:
    """Give a video that counts by a rate of its own in frames of its files' rate: by number where the rates are one,
    else by time, as LeRobot finds its frames."""
    if video.has_step_per_frame:
        return _at_rate(video, fps)
    if video.fps is None:
        return video
    counted_per_sec = video.fps if _is_same_rate(video.fps, fps) else fps
    views = tuple(replace(view, start_frame=round(view.start_sec * counted_per_sec)) for view in video.views)
    if counted_per_sec == video.fps:
        return _at_rate(replace(video, views=views), fps)
    assert video.num_frames is not None
    ratio = fps / video.fps

    def frames(number: int) -> int:
        return math.floor(number * ratio + 1e-6)

    num_frames = frames(video.num_frames)
    captions = []
    for window in video.captions:
        start, end = frames(window.start_frame), frames(window.start_frame + window.num_frames)
        captions.append(replace(window, start_frame=start, num_frames=end - start))
    return replace(
        video,
        views=views,
        num_frames=num_frames,
        captions=tuple(captions),
        action=video.action and video.action.part(0, num_frames, fps),
        state=video.state and video.state.part(0, num_frames, fps),
    )


def _posed_part(video: FoundVideo, info: VideoInfo) -> FoundVideo:
    """Give the part of a longer video that poses with times are of, as RealEstate10K has them of films."""
    view, *others = video.views
    if others or video.num_frames is not None or not isinstance(view.camera, FoundCamera):
        return video
    part = view.camera.part_of(info.num_frames, info.fps)
    if part is None:
        return video
    start_frame, num_frames = part
    return replace(video, views=(replace(view, start_frame=start_frame),), num_frames=num_frames)


def _at_rate(video: FoundVideo, fps: float) -> FoundVideo:
    """Give its signals a step for each frame."""
    action = video.action and replace(video.action, rate_hz=fps)
    return replace(video, action=action, state=video.state and replace(video.state, rate_hz=fps))


def _is_same_rate(said_fps: float, fps: float) -> bool:
    return abs(said_fps - fps) <= SAME_RATE * fps


def _camera(view: FoundView, num_frames: int, info: VideoInfo) -> Camera | None:
    if isinstance(view.camera, FoundCamera):
        return view.camera.of_pictures(num_frames, info.height_px, info.width_px)
    return view.camera


def _faults(video: FoundVideo, cameras: Sequence[Camera | None], num_frames: int, fps: float) -> Iterator[str]:
    """Say what is wrong with what is said of the whole video, before it is cut."""
    for camera in cameras:
        if camera is not None:
            yield from camera.faults(num_frames)
    yield from signal_faults(video.action, video.state, video.ego_trajectory, num_frames, fps)


def cut_points(num_frames: int, cuts: list[int], clip_frames: int | None) -> Iterator[tuple[int, int]]:
    """Yield (first frame, frames) of the clips between cuts."""
    for start, end in pairwise([0, *(cut for cut in cuts if 0 < cut < num_frames), num_frames]):
        step = clip_frames or max(1, end - start)
        for start_frame in range(start, end, step):
            yield start_frame, min(step, end - start_frame)


def _clip(
    video: FoundVideo, infos: list[VideoInfo], cameras: list[Camera | None], start_frame: int, num_frames: int
) -> Clip:
    """Make a clip of frames of a video, with what belongs to them."""
    fps = infos[0].fps
    total = video.num_frames
    assert total is not None
    views = []
    for view, info, camera in zip(video.views, infos, cameras, strict=True):
        at = view.start_frame + start_frame
        pictures = Pictures(
            path=view.file.path,
            offset_bytes=view.file.offset_bytes,
            size_bytes=view.file.size_bytes,
            start_frame=at,
            digest="",
            caption=view.caption,
            view=view.view,
            camera=camera and camera.part(start_frame, num_frames, total),
            **info.pictures(),
        )
        views.append(replace(pictures, digest=pictures.digest_of(_sha256(view.file), num_frames)))
    captions = list[CaptionWindow]()
    for window in video.captions:
        common = window.overlap(start_frame, num_frames)
        if common:
            first_frame = max(window.start_frame, start_frame)
            captions.append(replace(window, start_frame=first_frame - start_frame, num_frames=common))
    return Clip(
        clip_id=f"{video.name}@{start_frame}",
        num_frames=num_frames,
        fps=fps,
        duration_sec=num_frames / fps,
        split=video.split or "train",
        captions=tuple(captions),
        views=tuple(views[1:]),
        action=video.action and video.action.part(start_frame, num_frames, fps),
        state=video.state and video.state.part(start_frame, num_frames, fps),
        ego_trajectory=video.ego_trajectory and video.ego_trajectory.part(start_frame, num_frames, fps),
        labels_file=video.labels_file,
        **{name: getattr(views[0], name) for name in Pictures.__dataclass_fields__},
    )


def _held_out(clips: list[Clip], every: int | None, decided: set[str]) -> Iterator[Clip]:
    """decided: clips whose video says where they belong."""
    for number, clip in enumerate(clips, start=1):
        is_held_out = every is not None and number % every == 0 and clip.clip_id not in decided
        yield replace(clip, split="heldout") if is_held_out else clip


# Several sources may be parts of one file.
@lru_cache(maxsize=64)
def _probe(file: VideoFile, rules: Rules) -> VideoInfo:
    return probe_video(file, rules)


@lru_cache(maxsize=64)
def _sha256(file: VideoFile) -> str:
    return file.sha256()
