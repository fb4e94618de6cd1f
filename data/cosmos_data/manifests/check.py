"""Is a manifest true of its files? What is wrong, and where.

Every frame was decoded when the manifest was built, so a file with the same bytes is still good: files are read once,
and decoded only where their bytes have changed, to say what became of them. Errors are what a run would have to
replace; warnings are what a person should know.

The check writes a journal, a JSON line for each file, and passes over files that stand in it unchanged: one that was
interrupted goes on, and the next one costs only what is new.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from cosmos_data.errors import DataError
from cosmos_data.location import VideoFile
from cosmos_data.manifests.clip import Clip
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.readers.tarshard import read_members
from cosmos_data.sample_plan.window import stride_for
from cosmos_data.videos.opened import open_video
from cosmos_data.videos.video import BadVideoError, probe_video

FORMAT_OF_SUFFIX = {".avi": "avi", ".mkv": "matroska", ".webm": "webm", ".mov": "mov", ".mp4": "mp4"}
"""FFmpeg's name of the format that a file's name promises."""

JOURNAL_SUFFIX = ".check.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestFinding:
    """One thing that is wrong."""

    where: str
    """A clip's name, or a file where it is wrong for all clips in it."""

    text: str
    level: Literal["error", "warning"] = "error"


def check_manifest(
    manifest: Manifest,
    *,
    journal: Path | None = None,
    target_fps: float | None = None,
    num_workers: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> list[ManifestFinding]:
    """Compare a manifest with its files, and return what is wrong.

    journal: of what was read already, and will be. target_fps: of the run that the clips are for.

    progress: called with (files done, files in all).
    """
    of_file: dict[VideoFile, list[Clip]] = defaultdict(list)
    for clip in manifest:
        for view in clip.each_view():
            of_file[view.file].append(view)
    known = _read_journal(journal)
    if journal is not None and journal.is_file() and not journal.read_bytes().endswith(b"\n"):
        with journal.open("ab") as file:
            file.write(b"\n")  # after a line torn by a kill
    findings = [*check_rows(manifest, target_fps=target_fps), *_missing_labels(manifest)]
    shards = sorted({file.path for file in of_file if file.offset_bytes is not None})
    for shard in shards:
        findings += _check_shard(Path(shard))

    def check(file: VideoFile) -> tuple[str, list[ManifestFinding], bool]:
        key = _state(file, of_file[file])
        return (key, known[key], False) if key in known else (key, list(_check_file(file, of_file[file])), True)

    with ThreadPoolExecutor(num_workers) as pool:
        for done, (key, found, is_new) in enumerate(pool.map(check, of_file), start=1):
            findings += found
            if is_new and journal is not None:
                with journal.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"key": key, "findings": [asdict(finding) for finding in found]}) + "\n")
            if progress is not None:
                progress(done, len(of_file))
    return findings


def check_rows(clips: Iterable[Clip], *, target_fps: float | None = None) -> Iterator[ManifestFinding]:
    """Yield what is wrong as far as it can be seen without the files."""
    first_with: dict[str, str] = {}
    for clip in clips:
        for fault in clip.faults():
            yield ManifestFinding(where=clip.clip_id, text=fault)
        same = first_with.setdefault(clip.digest, clip.clip_id)
        if same != clip.clip_id:
            yield ManifestFinding(where=clip.clip_id, text=f"it has the same frames as {same}", level="warning")
        if not clip.caption and not clip.captions:
            yield ManifestFinding(where=clip.clip_id, text="it has no caption", level="warning")
        if clip.num_frames == 1:
            yield ManifestFinding(where=clip.clip_id, text="it has one frame: an image", level="warning")
        if target_fps is not None and stride_for(clip.fps, target_fps) is None:
            yield ManifestFinding(
                where=clip.clip_id,
                text=f"its {clip.fps:g} fps give no whole stride near {target_fps:g} fps; a run leaves it out",
                level="warning",
            )


def _missing_labels(clips: Iterable[Clip]) -> Iterator[ManifestFinding]:
    seen = set[str]()
    for clip in clips:
        path = "" if clip.labels_file is None else clip.labels_file.path
        if path and path not in seen and not Path(path).is_file():
            yield ManifestFinding(where=path, text=f"it is missing, the labels of {clip.clip_id}", level="warning")
        seen.add(path)


def _check_shard(path: Path) -> Iterator[ManifestFinding]:
    try:
        for _ in read_members(path):
            pass
    except (DataError, OSError) as error:
        yield ManifestFinding(where=str(path), text=str(error).removeprefix(f"{path}: "))


def _check_file(file: VideoFile, clips: list[Clip]) -> Iterator[ManifestFinding]:
    """Check all clips of one file."""
    path = Path(file.path)
    if not path.is_file():
        yield ManifestFinding(where=file.path, text="it is missing")
        return
    if path.stat().st_size == 0:
        yield ManifestFinding(where=file.path, text="it has zero bytes")
        return
    try:
        sha256 = file.sha256()
        if any(clip.digest_of(sha256, clip.num_frames) != clip.digest for clip in clips):
            yield ManifestFinding(
                where=file.path, text=f"its bytes are not those of the manifest: {_diagnosis(file, clips)}"
            )
            return
        yield from _check_header(file, clips)
    except OSError as error:  # FFmpeg's errors among them
        yield ManifestFinding(where=file.path, text=f"it cannot be read ({error.strerror})")


def _diagnosis(file: VideoFile, clips: list[Clip]) -> str:
    """Say what became of a file that has changed."""
    try:
        info = probe_video(file)
    except BadVideoError as error:
        return str(error)
    for clip in clips:
        end_frame = clip.start_frame + clip.num_frames
        if info.num_frames < end_frame:
            return f"it is truncated, {info.num_frames} frames are left and clip {clip.clip_id} ends at {end_frame}"
        if (info.height_px, info.width_px) != (clip.height_px, clip.width_px):
            return f"it is {info.width_px}x{info.height_px} px now"
    return "it is another video, or was coded again"


def _check_header(file: VideoFile, clips: list[Clip]) -> Iterator[ManifestFinding]:
    """Good bytes under a wrong name, or rows that were written by hand."""
    container, stream, _ = open_video(file, clips[0].stream_index)
    with container:
        found = container.format.name
        promised = FORMAT_OF_SUFFIX.get(Path(file.path).suffix.lower())
        if file.offset_bytes is None and promised is not None and promised not in found.split(","):
            text = f"its name ends in {Path(file.path).suffix}, its content is {found}"
            yield ManifestFinding(where=file.path, text=text, level="warning")
        rate = float(stream.average_rate or 0)
        for clip in clips:
            turned = clip.rotation_deg % 180 != 0
            size = (clip.width_px, clip.height_px) if turned else (clip.height_px, clip.width_px)
            if size != (stream.height, stream.width) and not clip.is_squared:
                text = f"the manifest says {clip.width_px}x{clip.height_px} px, the file {stream.width}x{stream.height}"
                yield ManifestFinding(where=clip.clip_id, text=text)
            if clip.seek == "rate" and abs(clip.fps - rate) > 1e-3 * rate:
                yield ManifestFinding(where=clip.clip_id, text=f"the manifest says {clip.fps:g} fps, the file {rate:g}")
            # Manifests of before name AV1 by its decoder.
            if clip.codec not in (stream.codec.canonical_name, stream.codec_context.name):
                text = f"the manifest says {clip.codec}, the file {stream.codec.canonical_name}"
                yield ManifestFinding(where=clip.clip_id, text=text)


def _state(file: VideoFile, clips: list[Clip]) -> str:
    """Return what the findings about a file depend on, without reading it."""
    path = Path(file.path)
    stat = path.stat() if path.is_file() else None
    rows = [(clip.clip_id, clip.digest, clip.fps, clip.height_px, clip.width_px, clip.codec) for clip in clips]
    return json.dumps([file.url, stat and stat.st_size, stat and stat.st_mtime_ns, rows])


def _read_journal(journal: Path | None) -> dict[str, list[ManifestFinding]]:
    if journal is None or not journal.is_file():
        return {}
    known = {}
    for line in journal.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
            known[entry["key"]] = [ManifestFinding(**finding) for finding in entry["findings"]]
        except (ValueError, KeyError, TypeError):
            continue  # a line torn by a kill; its file is read again
    return known
