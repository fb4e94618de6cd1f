"""Clips that a command is given by path: whole videos, folders of numbered pictures, or the clips of a manifest.

A clip says its digest without being decoded, so that one that was worked on before costs no more than being read.
Frames come one after the other: a clip may be of any length.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cosmos_data.decoders.transform import cut_and_scale
from cosmos_data.errors import ClipError, DataError
from cosmos_data.location import VideoFile, file_sha256
from cosmos_data.manifests.clip import Clip, Split
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.readers.folder import find_videos, is_video
from cosmos_data.sample_plan.window import central_box
from cosmos_data.videos.pictures import read_pictures
from cosmos_data.videos.video import BadVideoError, RgbConverter, probe_video, read_frames

PICTURE_SUFFIXES = (".avif", ".bmp", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")
PICTURES_CODEC = "pictures"
"""In the place of a codec's name: the clip's path is a folder, and each file in it a frame."""


@dataclass(frozen=True, slots=True)
class GivenClip:
    """A clip that was found, and not decoded yet."""

    name: str
    """Unique among those found: its path under the folder that was given, or its clip_id."""
    digest: Callable[[], str]
    """sha256 that stands for its pixels and their times. DataError where a manifest says another one."""
    describe: Callable[[], Clip]
    """Its length, size and frame rate, found by decoding it once. DataError where it is damaged."""


def find_clips(path: Path, *, pictures_fps: float, split: Split | Literal["all"] = "all") -> list[GivenClip]:
    """Return the clips of a manifest, the videos in and below a folder, or else its folders of pictures; never none.

    pictures_fps: frames per second of folders of pictures, which do not say.
    split: which of a manifest's clips; a folder has no splits.
    """
    if path.is_dir():
        pictures = _folders_of_pictures(path)
        others = (file for file in path.rglob("*") if file.suffix.lower() not in PICTURE_SUFFIXES)
        if not pictures or any(is_video(file) for file in others):
            return [_of_video(file, file.relative_to(path).as_posix()) for file in find_videos(path)]
        return [_of_pictures(folder, files, path, pictures_fps) for folder, files in pictures.items()]
    if is_video(path):
        return [_of_video(path, path.name)]
    sha256_of = lru_cache(maxsize=4)(VideoFile.sha256)  # a manifest's clips of one file stand together
    manifest = Manifest.read(path)
    clips = list(manifest if split == "all" else manifest.select(split))
    if not clips:
        raise DataError(f"{path} has no clips of split {split}; use split=all, or build it with --heldout-every")
    return list(chain.from_iterable(_of_manifest(clip, sha256_of) for clip in clips))


def whole_video(path: Path) -> Clip:
    """Return all frames of a video or image file as a clip. Raises BadVideoError where it is damaged or neither."""
    info = probe_video(path)
    return Clip(
        clip_id=path.name,
        path=str(path.absolute()),
        start_frame=0,
        num_frames=info.num_frames,
        fps=info.fps,
        digest="",
        split="heldout",
        **info.pictures(),
    )


def clip_of_pictures(path: Path, pictures_HW3: Sequence[np.ndarray], *, fps: float) -> Clip:
    """Return a picture file, or a folder of them, as a clip of that many frames, of the first one's size."""
    height_px, width_px, _ = pictures_HW3[0].shape
    return Clip(
        clip_id=path.name,
        path=str(path.absolute()),
        start_frame=0,
        num_frames=len(pictures_HW3),
        fps=fps,
        height_px=height_px,
        width_px=width_px,
        codec=PICTURES_CODEC,
        color_matrix="",
        digest="",
        split="heldout",
    )


def read_pixels(clip: Clip, *, num_frames: int, height_px: int, width_px: int) -> Iterator[Tensor]:
    """Yield the first frames of a clip, scaled: uint8 [3, 1, height_px, width_px] each. Raises ClipError where one is
    damaged."""
    whole = central_box(clip.height_px, clip.width_px, clip.height_px, clip.width_px)
    for rgb_HWC in _frames(clip, num_frames):
        height, width, _ = rgb_HWC.shape
        if (height, width) != (clip.height_px, clip.width_px):
            raise ClipError(f"{clip.path}: one frame is {width}x{height} px, others {clip.width_px}x{clip.height_px}")
        yield cut_and_scale(torch.from_numpy(rgb_HWC)[None], whole, height_px, width_px, flip=False)


def scaled_size(clip: Clip, short_side_px: int | None) -> tuple[int, int]:
    """Return (height_px, width_px) of a clip whose shorter side is shrunk to `short_side_px`; smaller ones stay as they
    are.

    The longer side is rounded to the nearest pixel.
    """
    short_px = min(clip.height_px, clip.width_px)
    if short_side_px is None or short_px <= short_side_px:
        return clip.height_px, clip.width_px
    height_px, width_px = (int(side * short_side_px / short_px + 0.5) for side in (clip.height_px, clip.width_px))
    return height_px, width_px


def gathered(frames: Iterable[Tensor], count: int) -> Iterator[Tensor]:
    """Yield frames [3, 1, H, W] in consecutive pieces [3, count, H, W], the last as long as it comes."""
    waiting = iter(frames)
    while piece := list(islice(waiting, count)):
        yield torch.cat(piece, dim=1)


# Videos


def _of_video(path: Path, name: str) -> GivenClip:
    return GivenClip(name, partial(file_sha256, path), partial(_describe_video, path))


def _describe_video(path: Path) -> Clip:
    try:
        return whole_video(path)
    except BadVideoError as error:
        raise DataError(f"{path}: {error}") from error


def _of_manifest(clip: Clip, sha256_of: Callable[[VideoFile], str]) -> Iterator[GivenClip]:
    """Give the clip, or each of its views."""
    for number, view in enumerate(clip.each_view()):
        name = f"{clip.clip_id}.{view.view or number}" if clip.views else clip.clip_id
        yield GivenClip(name, partial(_manifest_digest, view, sha256_of), partial(_known, view))


def _known(clip: Clip) -> Clip:
    return clip


def _manifest_digest(clip: Clip, sha256_of: Callable[[VideoFile], str]) -> str:
    if not Path(clip.path).is_file():
        raise DataError(f"{clip.path} of clip {clip.clip_id} is missing; bring it back, or build the manifest again")
    if clip.digest_of(sha256_of(clip.file), clip.num_frames) != clip.digest:
        raise DataError(f"{clip.path} has changed since the manifest was built; build the manifest again")
    return clip.digest


# Folders of pictures


def _folders_of_pictures(folder: Path) -> dict[Path, list[Path]]:
    """Return folder -> its pictures in the order of their names, folders in the order of theirs."""
    found: dict[Path, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".") and path.is_file():
            found.setdefault(path.parent, []).append(path)
    return found


def _of_pictures(folder: Path, files: list[Path], root: Path, fps: float) -> GivenClip:
    name = folder.name if folder == root else folder.relative_to(root).as_posix()
    return GivenClip(name, partial(_pictures_digest, files, fps), partial(_describe_pictures, folder, len(files), fps))


def _pictures_digest(files: list[Path], fps: float) -> str:
    sha256 = hashlib.sha256(f"{fps} frames per second\n".encode())
    for file in files:
        sha256.update(f"{file.name} {file_sha256(file)}\n".encode())
    return sha256.hexdigest()


def _describe_pictures(folder: Path, num_frames: int, fps: float) -> Clip:
    return replace(clip_of_pictures(folder, [next(_pictures(folder))], fps=fps), num_frames=num_frames)


def _pictures(folder: Path) -> Iterator[np.ndarray]:
    """Yield pictures, uint8 [H, W, 3] each."""
    [files] = [files for parent, files in _folders_of_pictures(folder).items() if parent == folder]
    for file in files:
        try:
            found = read_pictures(file, 1)
        except DataError as error:
            raise ClipError(str(error)) from error
        if found is None:
            raise ClipError(f"{file} cannot be read as a picture")
        yield found[0]


def _frames(clip: Clip, num_frames: int) -> Iterator[np.ndarray]:
    """Yield frames, uint8 [H, W, 3] each."""
    if clip.codec == PICTURES_CODEC:
        return islice(_pictures(Path(clip.path)), num_frames)
    return map(RgbConverter(), read_frames(clip, start_frame=clip.start_frame, num_frames=num_frames))
