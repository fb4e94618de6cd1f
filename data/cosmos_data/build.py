"""A folder of videos -> a manifest. Every frame is decoded once, so what the manifest lists was really there.

The videos are taken in the order of their relative paths and cut into consecutive clips; the caption of a video is
the text file beside it with the same stem. The same folder gives the same manifest, wherever it lies.
"""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from cosmos_data.errors import DataError
from cosmos_data.manifest import Clip, Manifest, clip_digest
from cosmos_data.video import BadVideoError, VideoInfo, probe_video

VIDEO_SUFFIXES = (".avi", ".mkv", ".mov", ".mp4", ".webm")


@dataclass(frozen=True, slots=True)
class BadVideo:
    """A video that gave no clip, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class _GoodVideo:
    info: VideoInfo
    file_sha256: str
    caption: str


def build_manifest(
    folder: str | Path,
    clip_frames: int,
    heldout_every: int | None,
    *,
    min_frames: int | None = None,
    max_bad_share: float = 0.05,
    num_workers: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Manifest, list[BadVideo]]:
    """Scans `folder` and everything below it.

    clip_frames: frames per clip. A last, shorter clip of a video stays if it has `min_frames` (None: clip_frames).
    heldout_every: every k-th clip goes to the split "heldout" (None: all clips are for training).
    max_bad_share: more videos than this share (0 to 1) without a clip -> `DataError` that lists them.
    progress: called with (videos done, videos in all) after each video.
    """
    folder = Path(folder).absolute()
    min_frames = clip_frames if min_frames is None else min_frames
    for name, value in (("clip_frames", clip_frames), ("min_frames", min_frames), ("heldout_every", heldout_every)):
        if value is not None and value < 1:
            raise DataError(f"{name}={value} is not a positive count; use 1 or more")
    paths = find_videos(folder)

    clips: list[Clip] = []
    bad: list[BadVideo] = []
    with ThreadPoolExecutor(num_workers) as pool:
        for done, (path, video) in enumerate(zip(paths, pool.map(_examine, paths), strict=True), start=1):
            if isinstance(video, BadVideo):
                bad.append(video)
            elif video.info.num_frames < min_frames:
                bad.append(
                    BadVideo(str(path), f"it has {video.info.num_frames} frames, a clip needs {min_frames} or more")
                )
            else:
                clips.extend(_cut(path, folder, video, clip_frames, min_frames))
            if progress is not None:
                progress(done, len(paths))

    if len(bad) > max_bad_share * len(paths):
        listing = "\n".join(f"  {video.path}: {video.reason}" for video in bad)
        raise DataError(
            f"{len(bad)} of {len(paths)} videos in {folder} give no clip, more than max_bad_share={max_bad_share};"
            f" repair or remove them, or raise max_bad_share:\n{listing}"
        )
    if heldout_every is not None:
        clips[heldout_every - 1 :: heldout_every] = [
            replace(clip, split="heldout") for clip in clips[heldout_every - 1 :: heldout_every]
        ]
    return Manifest(tuple(clips)), bad


def find_videos(folder: Path) -> list[Path]:
    """Videos in and below `folder`, in the order of their relative paths; names that begin with a dot are not."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give the folder that holds the videos")
    found = (
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    paths = sorted(found, key=lambda path: path.relative_to(folder).as_posix())
    if not paths:
        raise DataError(f"{folder} holds no video; expected files that end in {', '.join(VIDEO_SUFFIXES)}")
    return paths


def _examine(path: Path) -> _GoodVideo | BadVideo:
    try:
        info = probe_video(path)
    except BadVideoError as error:
        return BadVideo(str(path), str(error))
    caption_path = path.with_suffix(".txt")
    try:
        caption = caption_path.read_text(encoding="utf-8").strip() if caption_path.is_file() else ""
    except UnicodeDecodeError as error:
        return BadVideo(str(path), f"its caption {caption_path.name} is not UTF-8 text ({error.reason})")
    return _GoodVideo(info, file_sha256(path), caption)


def find_changed(manifest: Manifest, *, progress: Callable[[int, int], None] | None = None) -> list[BadVideo]:
    """Reads every file of a manifest once: those that are missing or are not the bytes that the manifest was built
    from. For a check before a long run; it costs the reading, no decoding."""
    changed = []
    clips = {clip.path: clip for clip in manifest}  # one per file: its digest covers the whole file
    for done, clip in enumerate(clips.values(), start=1):
        if not Path(clip.path).is_file():
            changed.append(BadVideo(clip.path, "it is missing"))
        elif clip.digest != clip_digest(
            file_sha256(clip.path), start_frame=clip.start_frame, num_frames=clip.num_frames
        ):
            changed.append(BadVideo(clip.path, "it has changed since the manifest was built"))
        if progress is not None:
            progress(done, len(clips))
    return changed


def file_sha256(path: str | Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cut(path: Path, folder: Path, video: _GoodVideo, clip_frames: int, min_frames: int) -> Iterator[Clip]:
    info = video.info
    for start_frame in range(0, info.num_frames, clip_frames):
        num_frames = min(clip_frames, info.num_frames - start_frame)
        if num_frames >= min_frames:
            yield Clip(
                clip_id=f"{path.relative_to(folder).as_posix()}@{start_frame}",
                path=str(path),
                start_frame=start_frame,
                num_frames=num_frames,
                fps=info.fps,
                height_px=info.height_px,
                width_px=info.width_px,
                codec=info.codec,
                color_matrix=info.color_matrix,
                first_pts=info.first_pts,
                digest=clip_digest(video.file_sha256, start_frame=start_frame, num_frames=num_frames),
                caption=video.caption,
                split="train",
            )
