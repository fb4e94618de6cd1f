"""Videos -> a manifest. Every frame is decoded once, so what the manifest lists was really there.

Videos are taken in the order of their source (see `cosmos_data.sources`) and cut where one shot ends and another
begins, then into consecutive clips. The same source gives the same manifest, wherever it lies.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from cosmos_data.clip import Clip, Pictures
from cosmos_data.energon import is_energon, read_energon
from cosmos_data.errors import DataError
from cosmos_data.lerobot import INFO, read_lerobot
from cosmos_data.location import VideoFile
from cosmos_data.manifest import Manifest
from cosmos_data.shown import Rules
from cosmos_data.sources import BadVideo, Source, read_folder, read_listing, read_tars
from cosmos_data.video import BadVideoError, VideoInfo, probe_video


def build_manifest(
    source: str | Path,
    clip_frames: int | None,
    heldout_every: int | None,
    *,
    min_frames: int | None = None,
    split_shots: bool = True,
    rules: Rules | None = None,
    max_bad_share: float = 0.05,
    num_workers: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Manifest, list[BadVideo]]:
    """Of a folder of videos, a LeRobot or an energon folder, a .jsonl listing, a .tar or a folder of them.

    clip_frames: frames per clip (None: whole shots). The last, shorter clip of a shot stays if it has `min_frames`
        (None: clip_frames, or 1).
    heldout_every: every k-th clip goes to the split "heldout", unless its source names a split (None: no clip does).
    split_shots: no clip spans a cut. Episodes of LeRobot are never split.
    rules: what is made of pictures that are not plain ones (None: what a player shows).
    max_bad_share: more videos than this share (0 to 1) without a clip -> `DataError` that lists them.
    progress: called with (videos done, videos in all) after each video.
    """
    path = Path(source).absolute()
    min_frames = (clip_frames or 1) if min_frames is None else min_frames
    for name, value in (("clip_frames", clip_frames), ("min_frames", min_frames), ("heldout_every", heldout_every)):
        if value is not None and value < 1:
            raise DataError(f"{name}={value} is not a positive count; use 1 or more")
    sources, is_lerobot = list(read_sources(path)), (path / INFO).is_file()

    def examine(source: Source | BadVideo) -> list[Clip] | BadVideo:
        if isinstance(source, BadVideo):
            return source
        try:
            return _clips_of(
                source, clip_frames, min_frames, split_shots=split_shots and not is_lerobot, rules=rules or Rules()
            )
        except (DataError, BadVideoError) as error:
            return BadVideo(source.views[0].file.path, str(error))

    clips: list[Clip] = []
    bad: list[BadVideo] = []
    decided: set[str] = set()
    with ThreadPoolExecutor(num_workers) as pool:
        for done, (read, found) in enumerate(zip(sources, pool.map(examine, sources), strict=True), start=1):
            bad.append(found) if isinstance(found, BadVideo) else clips.extend(found)
            if isinstance(read, Source) and read.split is not None and isinstance(found, list):
                decided.update(clip.clip_id for clip in found)
            if progress is not None:
                progress(done, len(sources))

    if len(bad) > max_bad_share * len(sources):
        listing = "\n".join(f"  {video.path}: {video.reason}" for video in bad)
        raise DataError(
            f"{len(bad)} of {len(sources)} videos in {path} give no clip, more than max_bad_share={max_bad_share};"
            f" repair or remove them, or raise max_bad_share:\n{listing}"
        )
    return Manifest(tuple(_held_out(clips, heldout_every, decided))), bad


def read_sources(path: Path) -> Iterator[Source | BadVideo]:
    """What lies there, by what it looks like."""
    if path.suffix == ".jsonl" and path.is_file():
        return read_listing(path)
    if path.suffix == ".tar" and path.is_file():
        return read_tars([path])
    if (path / INFO).is_file():
        return read_lerobot(path)
    if is_energon(path):
        return read_energon(path)
    tars = sorted(path.rglob("*.tar")) if path.is_dir() else []
    return read_tars(tars) if tars else read_folder(path)


def _clips_of(
    source: Source, clip_frames: int | None, min_frames: int, *, split_shots: bool, rules: Rules
) -> list[Clip]:
    """Raises BadVideoError or DataError where the videos are damaged, too short or do not belong together."""
    infos = [_probe(view.file, rules) for view in source.views]
    first = infos[0]
    for view, info in zip(source.views, infos, strict=True):
        if abs(info.fps - first.fps) > 1e-3 * first.fps:
            raise BadVideoError(f"view {view.view or view.file.path} has {info.fps:g} fps, the first {first.fps:g}")
    lengths = [info.num_frames - view.start_frame for view, info in zip(source.views, infos, strict=True)]
    num_frames = min(lengths) if source.num_frames is None else source.num_frames
    if min(lengths) < num_frames:
        raise BadVideoError(f"it has {min(lengths)} frames from its start on, its source says {num_frames}")
    for fault in _faults(source, num_frames, first.fps):
        raise BadVideoError(fault)
    cuts = [cut - source.views[0].start_frame for cut in first.cuts] if split_shots else []
    clips = [
        _clip(source, infos, start_frame, length)
        for start_frame, length in cut_points(num_frames, cuts, clip_frames)
        if length >= min_frames
    ]
    if not clips:
        longest = max(length for _, length in cut_points(num_frames, cuts, None))
        shot = " in its longest shot" if longest < num_frames else ""
        raise BadVideoError(f"it has {longest} frames{shot}, a clip needs {min_frames} or more")
    return clips


def _faults(source: Source, num_frames: int, fps: float) -> Iterator[str]:
    """Of what is said of the whole video, before it is cut."""
    for view in source.views:
        if view.camera is not None:
            yield from view.camera.faults(num_frames)
    for signal in (source.action, source.ego_trajectory):
        if signal is not None:
            yield from signal.faults(num_frames, fps)


def cut_points(num_frames: int, cuts: list[int], clip_frames: int | None) -> Iterator[tuple[int, int]]:
    """(first frame, frames) of the clips between cuts."""
    for start, end in pairwise([0, *(cut for cut in cuts if 0 < cut < num_frames), num_frames]):
        step = clip_frames or max(1, end - start)
        for start_frame in range(start, end, step):
            yield start_frame, min(step, end - start_frame)


def _clip(source: Source, infos: list[VideoInfo], start_frame: int, num_frames: int) -> Clip:
    """Frames of a source, with what belongs to them."""
    first, fps = infos[0], infos[0].fps
    total = source.num_frames or first.num_frames - source.views[0].start_frame
    views = []
    for view, info in zip(source.views, infos, strict=True):
        at = view.start_frame + start_frame
        pictures = Pictures(
            path=view.file.path,
            offset_bytes=view.file.offset_bytes,
            size_bytes=view.file.size_bytes,
            start_frame=at,
            digest="",
            caption=view.caption,
            view=view.view,
            camera=view.camera and view.camera.part(start_frame, num_frames, total),
            **info.pictures(),
        )
        views.append(replace(pictures, digest=pictures.digest_of(_sha256(view.file), num_frames)))
    captions = (
        replace(window, start_frame=first_frame - start_frame, num_frames=common)
        for window in source.captions
        if (common := window.overlap(start_frame, num_frames))
        for first_frame in [max(window.start_frame, start_frame)]
    )
    return Clip(
        clip_id=f"{source.name}@{start_frame}",
        num_frames=num_frames,
        fps=fps,
        duration_sec=num_frames / fps,
        split=source.split or "train",
        captions=tuple(captions),
        views=tuple(views[1:]),
        action=source.action and source.action.part(start_frame, num_frames, fps),
        ego_trajectory=source.ego_trajectory and source.ego_trajectory.part(start_frame, fps),
        **{name: getattr(views[0], name) for name in Pictures.__dataclass_fields__},
    )


def _held_out(clips: list[Clip], every: int | None, decided: set[str]) -> Iterator[Clip]:
    """decided: clips whose source says where they belong."""
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
