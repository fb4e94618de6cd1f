"""Folders whose pictures come with camera poses: which video, or which pictures, a file of poses is about.

    SCENE/transforms.json                      nerfstudio, DL3DV: names each picture
    SCENE/**/cameras.bin, images.bin (.txt)    COLMAP: names each picture
    SCENE/NAME.txt, SCENE/NAME/*.png           RealEstate10K with frames as pictures, named by their times

The pictures that are named lie in the scene, in its `images`, or in another folder `images_*`, as DL3DV has them in
smaller sizes. Where there are none, the scene's one video is meant, frame by frame in the order of the names. A scene
whose poses can not be read is bad as a whole: nothing trains on its pictures alone without a word.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path, PurePosixPath

from cosmos_data.contents import VIDEO_SUFFIXES
from cosmos_data.errors import DataError
from cosmos_data.location import VideoFile
from cosmos_data.manifests.conditions import Convention
from cosmos_data.readers.camera_text import camera_of_text
from cosmos_data.readers.colmap import read_model
from cosmos_data.readers.found import (
    BadVideo,
    Found,
    FoundCamera,
    FoundVideo,
    FoundView,
    LeftOut,
    PictureSequence,
    printable,
)
from cosmos_data.readers.nerfstudio import read_transforms
from cosmos_data.readers.posed import PosedPicture, camera_of, folder_of, in_order, natural_key

PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
COLMAP_BESIDE = ("points3D", "rigs", "frames")
"""Further files of a model, of which nothing is read."""


@dataclass(frozen=True, slots=True)
class Scenes:
    """What files of poses say of a folder."""

    cameras: dict[str, FoundCamera] = field(default_factory=dict)
    """By the name of the video."""

    found: list[Found] = field(default_factory=list)
    """Videos whose frames are pictures, scenes that are bad, and poses that are said twice."""

    used: set[str] = field(default_factory=set)
    """Files that are nothing else: poses, and pictures that are frames."""


def find_scenes(root: str, files: Mapping[str, Path]) -> Scenes:
    """Look for poses among the files below a folder, which are named by their path from there."""
    listing, scenes = _Listing(root, files), Scenes()
    for scene, (poses, *others) in _scenes_of(listing).items():
        for other in others:
            scenes.used.update(other.files)
            reason = "further poses of a scene whose poses are read already"
            scenes.found.append(LeftOut(listing.place(other.files[0]), reason))
        scenes.used.update(poses.files)
        try:
            _read_scene(scene, poses, listing, scenes)
        except (DataError, OSError) as error:
            scenes.used.update(listing.videos(scene))
            reason = f"it can not be read ({error.strerror})" if isinstance(error, OSError) else str(error)
            scenes.found.append(BadVideo(listing.place(poses.files[0]), reason))
    for name in sorted(files):
        folder, dot, suffix = name.rpartition(".")
        if dot and suffix == "txt" and name not in scenes.used and listing.pictures(folder):
            _read_timed_pictures(name, folder, listing, scenes)
    return scenes


class _Listing:
    """Files by their folder; the root is the empty name."""

    def __init__(self, root: str, files: Mapping[str, Path]) -> None:
        self.files = files
        self._root = Path(root)
        self._names: dict[str, list[str]] = defaultdict(list)
        for name in files:
            self._names[name.rpartition("/")[0]].append(name)
        self._children: dict[str, set[str]] = defaultdict(set)
        for folder in self._names:
            while folder:
                parent, _, own = folder.rpartition("/")
                self._children[parent].add(own)
                folder = parent

    def place(self, name: str) -> str:
        """Name a file or folder for people."""
        return printable(str(self._root / name))

    def name_of(self, scene: str) -> str:
        """Name a scene; the one that was given is named by its folder."""
        return scene or self._root.name

    def videos(self, folder: str) -> list[str]:
        return sorted(name for name in self._names.get(folder, ()) if _suffix(name) in VIDEO_SUFFIXES)

    def pictures(self, folder: str) -> list[str]:
        """Return them in the order of their names, numbers by their value."""
        found = [name for name in self._names.get(folder, ()) if _suffix(name) in PICTURE_SUFFIXES]
        return sorted(found, key=natural_key)

    def folders_of_images(self, scene: str) -> list[str]:
        """Return the names of the folders beside the poses that hold pictures: images, images_2, images_4."""
        found = [name for name in self._children.get(scene, ()) if name == "images" or name.startswith("images_")]
        return sorted(found, key=natural_key)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Poses:
    """A file of poses, or several that are one model."""

    files: tuple[str, ...]
    read: Callable[[], list[PosedPicture]]
    convention: Convention


def _scenes_of(listing: _Listing) -> dict[str, list[_Poses]]:
    """Return the poses by the folder of their scene, those that are read first."""
    found: dict[str, list[_Poses]] = defaultdict(list)
    for name in sorted(listing.files):
        folder, _, own = name.rpartition("/")
        if own == "transforms.json":
            read = partial(_transforms, listing.files[name], listing.place(name))
            found[folder].insert(0, _Poses(files=(name,), read=read, convention="camera_to_world_opengl"))
        elif own in ("cameras.bin", "cameras.txt"):
            suffix, start = own[-4:], name.removesuffix(own)
            parts = [f"{start}{part}{suffix}" for part in COLMAP_BESIDE]
            images = f"{start}images{suffix}"
            if images in listing.files:
                own_files = (name, images, *(part for part in parts if part in listing.files))
                read = partial(_model, listing.files[name], listing.files[images], listing.place(folder))
                poses = _Poses(files=own_files, read=read, convention="world_to_camera_opencv")
                found[_scene_of_model(folder, listing)].append(poses)
    return found


def _scene_of_model(folder: str, listing: _Listing) -> str:
    """Return the nearest folder, from the model's own upwards, that has a video or a folder of images."""
    one = folder
    while not (listing.videos(one) or listing.folders_of_images(one)):
        if not one:
            return folder
        one = one.rpartition("/")[0]
    return one


def _transforms(path: Path, where: str) -> list[PosedPicture]:
    return read_transforms(path.read_bytes(), where)


def _model(cameras: Path, images: Path, where: str) -> list[PosedPicture]:
    return read_model(cameras.read_bytes(), images.read_bytes(), where, is_binary=cameras.suffix == ".bin")


def _read_scene(scene: str, poses: _Poses, listing: _Listing, scenes: Scenes) -> None:
    where = listing.place(poses.files[0])
    posed = in_order(poses.read())
    places = _places(scene, posed, listing, where)
    if places is None:
        videos = listing.videos(scene)
        if len(videos) != 1:
            said = f"{len(videos)} videos" if videos else "no video and none of the pictures it names"
            raise DataError(f"{where} has poses, and beside it are {said}; put the one that is meant beside it")
        scenes.cameras[videos[0]] = camera_of(posed, poses.convention, where)
        return
    made = []
    for folder, group in groupby(zip(posed, places, strict=True), key=lambda pair: folder_of(pair[0])):
        own_posed, own_places = zip(*group, strict=True)
        _demand_all(own_places, listing, where)
        view = "" if folder in (".", "images") else folder.removeprefix("images/")
        name = "/".join(filter(None, (listing.name_of(scene), view)))
        made.append(_video(name, own_places, listing, camera_of(list(own_posed), poses.convention, where)))
    scenes.found.extend(made)
    scenes.used.update(places)


def _video(
    name: str, pictures: Sequence[str], listing: _Listing, camera: FoundCamera, fps: float | None = None
) -> FoundVideo:
    paths = [listing.files[picture] for picture in pictures]
    sequence = PictureSequence(read=partial(_contents, paths), fps=fps)
    folder = VideoFile(str(paths[0].parent))
    return FoundVideo(name=name, views=(FoundView(file=folder, pictures=sequence, camera=camera),))


def _contents(paths: list[Path]) -> Iterator[bytes]:
    return (path.read_bytes() for path in paths)


def _places(scene: str, posed: list[PosedPicture], listing: _Listing, where: str) -> list[str] | None:
    """Return where the pictures lie; None where not one of them is there."""
    start = f"{scene}/" if scene else ""
    for folder in ("", *listing.folders_of_images(scene)):
        prefix = f"{start}{folder}/" if folder else start
        # A folder of another size stands in the place of `images`.
        names = [prefix + (one.name.removeprefix("images/") if folder else one.name) for one in posed]
        missing = [name for name in names if name not in listing.files]
        if not missing:
            return names
        if len(missing) < len(names):
            raise DataError(f"{where} names {len(missing)} pictures that are not there, such as {missing[0]}")
    return None


def _demand_all(names: Sequence[str], listing: _Listing, where: str) -> None:
    """Refuse a folder of pictures some of which have no pose: what is left is no film."""
    there = listing.pictures(names[0].rpartition("/")[0])
    posed = set(names)
    without = [name for name in there if name not in posed]
    if without:
        raise DataError(
            f"{where} holds {len(names)} poses, and there are {len(there)} pictures; {PurePosixPath(without[0]).name}"
            " has none: give its pose, or move pictures without one elsewhere"
        )


def _read_timed_pictures(name: str, folder: str, listing: _Listing, scenes: Scenes) -> None:
    """Read RealEstate10K's: the frames of NAME.txt are the pictures in NAME."""
    where, pictures = listing.place(name), listing.pictures(folder)
    try:
        camera = camera_of_text(listing.files[name].read_bytes(), where)
    except (DataError, OSError) as error:
        scenes.found.append(BadVideo(where, str(error)))
        scenes.used.add(name)
        return
    if camera is not None:
        times = camera.times_sec
        scenes.used.update(pictures, [name])
        wrong = _not_of_its_time(pictures, times)
        if wrong:
            scenes.found.append(BadVideo(where, wrong))
            return
        span_sec = times[-1] - times[0] if times else 0.0
        fps = (len(times) - 1) / span_sec if span_sec > 0 else None
        scenes.found.append(_video(folder, pictures, listing, camera, fps))


def _not_of_its_time(pictures: Sequence[str], times_sec: Sequence[float]) -> str:
    """Say which picture is the first whose name is a whole number and not its pose's time in microseconds; nothing
    where there is none."""
    for number, (name, time_sec) in enumerate(zip(pictures, times_sec, strict=False), start=1):
        stem, time_us = PurePosixPath(name).stem, round(time_sec * 1e6)
        if stem.isdecimal() and int(stem) != time_us:
            return (
                f"pose {number} is of the time {time_us}, and picture {number} is {PurePosixPath(name).name}; give each"
                " picture the name of its pose's time in microseconds, and each pose its picture"
            )
    return ""


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
