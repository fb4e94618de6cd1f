"""A manifest's clips as files that are cheap to read anywhere in: re-encoded at the size that is trained on, or copied;
one file per clip, or together in tar shards.

Random windows are cheap in re-encoded clips: key frames are close together (every frame for mjpeg, every `gop_frames`
for vp9 and h264), groups of pictures are closed, no frame of another clip is decoded on the way, and mjpeg and vp9 are
codecs that DALI has on the CPU too. Colours become BT.601, which every decoder here reads alike. Clip names, captions,
conditions and splits stay as they are. Labels of simulated clips are cut and scaled with the pictures.

    folder/
      manifest.arrow         of shards it is the index too: it says where in which shard each video lies
      000000.avi ...           or shard-000000.tar ..., WebDataset's layout: KEY.mp4, KEY.txt, KEY.json
      000000.labels.npz ...    of simulated clips, in shards too; the manifest says where
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal

import av

from cosmos_data.errors import DataError
from cosmos_data.location import VideoFile, file_sha256
from cosmos_data.manifests.clip import Clip, Pictures, clip_digest
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.manifests.rows import to_row
from cosmos_data.readers.tarshard import ShardWriter
from cosmos_data.sample_plan.window import central_box, largest_box
from cosmos_data.simulate.labels import SUFFIX, labels_bytes, labels_of_part, read_labels
from cosmos_data.videos.video import probe_video
from cosmos_data.videos.written_codecs import ENCODINGS, PackCodec, encode_clip


@dataclass(frozen=True, kw_only=True, slots=True)
class PackRequest:
    """How clips are packed."""

    codec: PackCodec | Literal["copy"] = "mjpeg"
    """copy: the source files as they are; clips of one file go on sharing it."""

    height_px: int | None = None
    """Size of re-encoded clips: the largest central part of the picture that has this shape, scaled to it."""

    width_px: int | None = None
    allow_upscale: bool = False
    gop_frames: int = 12
    """Frames from one key frame to the next, of vp9 and h264."""

    shard_mib: int | None = None
    """Put clips into tar shards of at most about so many MiB; None: a file for each."""


def pack_manifest(
    manifest: Manifest,
    out_folder: str | Path,
    request: PackRequest,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Write `out_folder`, complete or not at all.

    progress: called with (clips done, clips in all) after each clip.
    Raises `DataError` before anything is written if the folder exists, the encoder is missing or a clip is too small.
    """
    out_folder = Path(out_folder).absolute()
    _check_request(manifest, out_folder, request)
    out_folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out_folder.name}.partial-", dir=out_folder.parent))
    writer = None if request.shard_mib is None else ShardWriter(aside, request.shard_mib * 2**20)
    try:
        packed, copied = [], dict[VideoFile, VideoFile]()
        for row, clip in enumerate(manifest):
            views = [
                _copied(view, f"{row:06d}", aside, copied)
                if request.codec == "copy"
                else _encoded(view, f"{row:06d}", aside, request)
                for view in clip.each_view()
            ]
            labels_file = _packed_labels(clip, f"{row:06d}", aside, request, copied)
            if writer is not None:
                said = {} if request.codec == "copy" else _said(f"{row:06d}", clip, views)
                moved, moved_labels = _into_shard(views, labels_file, said, writer)
                copied |= {view.file: there.file for view, there in zip(clip.each_view(), moved, strict=True)}
                if clip.labels_file is not None and moved_labels is not None:
                    copied[clip.labels_file] = moved_labels
                views, labels_file = moved, moved_labels
            packed.append(replace(_joined(clip, views), labels_file=labels_file))
            if progress is not None:
                progress(row + 1, len(manifest))
        if writer is not None:
            writer.close()
        written = Manifest(tuple(packed))
        written.write(aside / "manifest.arrow")
        written.write(aside / "manifest.parquet")  # for other programs
        aside.chmod(0o755)  # mkdtemp made it private
        aside.rename(out_folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)  # gone already where all went well
    return Manifest.read(out_folder / "manifest.arrow")


def _check_request(manifest: Manifest, out_folder: Path, request: PackRequest) -> None:
    if out_folder.exists():
        raise DataError(f"{out_folder} exists already; choose another folder, or remove it")
    if not len(manifest):
        raise DataError("the manifest has no clips to pack")
    if request.shard_mib is not None and request.shard_mib < 1:
        raise DataError(f"shard_mib={request.shard_mib} is not a positive size; use 1 or more")
    if request.codec == "copy":
        return
    if request.codec not in ENCODINGS:
        raise DataError(f"codec={request.codec!r} is unknown; use one of copy, {', '.join(ENCODINGS)}")
    encoder = ENCODINGS[request.codec].encoder
    if encoder not in av.codecs_available:
        raise DataError(
            f"codec={request.codec} needs the encoder {encoder}, which this build of PyAV lacks; use another codec"
        )
    if request.gop_frames < 1:
        raise DataError(f"gop_frames={request.gop_frames} is not a positive count; use 1 or more")
    height_px, width_px = _size_of(request)
    for name, size_px in (("height_px", height_px), ("width_px", width_px)):
        if size_px < 2 or size_px % 2:
            raise DataError(f"{name}={size_px} is not a positive even number, which 4:2:0 video needs; use another one")
    for clip in manifest:
        for view in clip.each_view():
            if not request.allow_upscale and (view.height_px < height_px or view.width_px < width_px):
                raise DataError(
                    f"clip {clip.clip_id} is {view.width_px}x{view.height_px} px, smaller than {width_px}x{height_px};"
                    " use a smaller size, or allow upscaling (allow_upscale)"
                )


def _size_of(request: PackRequest) -> tuple[int, int]:
    if request.height_px is None or request.width_px is None:
        raise DataError(f"codec={request.codec} needs height_px and width_px, the size of the clips; or use codec=copy")
    return request.height_px, request.width_px


def _encoded(view: Clip, key: str, folder: Path, request: PackRequest) -> Clip:
    """Return the view in a file of its own, which is decoded once more to see that it holds what it should."""
    assert request.codec != "copy"
    height_px, width_px = _size_of(request)
    path = folder / f"{key}{_dotted(view.view)}{ENCODINGS[request.codec].suffix}"
    box = central_box(view.height_px, view.width_px, *largest_box(view.height_px, view.width_px, height_px, width_px))
    encode_clip(view, box, path, height_px, width_px, request.codec, gop_frames=request.gop_frames)
    info = probe_video(path)
    assert info.num_frames == view.num_frames, f"{path}: {info.num_frames} frames written of {view.num_frames}"
    camera = view.camera and view.camera.cropped(**asdict(box), of_height_px=view.height_px, of_width_px=view.width_px)
    digest = clip_digest(file_sha256(path), start_frame=0, num_frames=view.num_frames)
    encoded = replace(view, start_frame=0, fps=info.fps, digest=digest, camera=camera, **info.pictures())
    return _at(encoded, VideoFile(str(path)))


def _copied(view: Clip, key: str, folder: Path, copied: dict[VideoFile, VideoFile]) -> Clip:
    """Return the view in a copy of its file, made once."""
    if view.file not in copied:
        suffix = Path(view.path).suffix if view.offset_bytes is None else f".{view.codec}"
        path = folder / f"{key}{_dotted(view.view)}{suffix}"
        path.write_bytes(view.file.read_bytes())
        copied[view.file] = VideoFile(str(path))
    return _at(view, copied[view.file])


def _packed_labels(
    clip: Clip, key: str, folder: Path, request: PackRequest, copied: dict[VideoFile, VideoFile]
) -> VideoFile | None:
    """Write the labels of a packed clip, where it has some: a copy, made once, or those of its frames and pictures."""
    source = clip.labels_file
    if source is None:
        return None
    if request.codec == "copy":
        if source not in copied:
            copied[source] = _written(folder / f"{key}{SUFFIX}", source.read_bytes())
        return copied[source]
    height_px, width_px = _size_of(request)
    box = central_box(clip.height_px, clip.width_px, *largest_box(clip.height_px, clip.width_px, height_px, width_px))
    labels = labels_of_part(read_labels(clip), box, height_px, width_px)
    return _written(folder / f"{key}{SUFFIX}", labels_bytes(labels))


def _written(path: Path, content: bytes) -> VideoFile:
    path.write_bytes(content)
    return VideoFile(str(path))


def _into_shard(
    views: list[Clip], labels_file: VideoFile | None, said: Mapping[str, bytes], writer: ShardWriter
) -> tuple[list[Clip], VideoFile | None]:
    """Move the files of one clip into a shard, with what is said of it; what is in a shard already stays there."""
    paths = {view.path for view in views if view.offset_bytes is None}
    if labels_file is not None and labels_file.offset_bytes is None:
        paths.add(labels_file.path)
    if not paths:
        return views, labels_file
    places = writer.add({Path(path).name: Path(path).read_bytes() for path in sorted(paths)} | dict(said))
    for path in paths:
        Path(path).unlink()
    moved = [_at(view, places[Path(view.path).name]) if view.path in paths else view for view in views]
    return moved, places[Path(labels_file.path).name] if labels_file and labels_file.path in paths else labels_file


def _at(view: Clip, place: VideoFile) -> Clip:
    return replace(view, path=place.path, offset_bytes=place.offset_bytes, size_bytes=place.size_bytes)


def _said(key: str, clip: Clip, views: list[Clip]) -> dict[str, bytes]:
    """Return KEY.txt and KEY.json, as `cosmos_data.readers.sources` reads them."""
    row = to_row(replace(clip, camera=views[0].camera))
    said = {name: row[name] for name in ("clip_id", "split", "captions", "action", "state", "ego_trajectory", "camera")}
    said["views"] = [{"view": view.view, "camera": to_row(view)["camera"]} for view in views[1:]]
    return {f"{key}.txt": clip.caption.encode(), f"{key}.json": json.dumps(said).encode()}


def _joined(clip: Clip, views: list[Clip]) -> Clip:
    """Return the row of a clip whose views are now elsewhere."""
    names = [field.name for field in fields(Pictures)]
    first, *others = ({name: getattr(view, name) for name in names} for view in views)
    return replace(clip, fps=views[0].fps, views=tuple(Pictures(**other) for other in others), **first)


def _dotted(view: str) -> str:
    return f".{view}" if view else ""
