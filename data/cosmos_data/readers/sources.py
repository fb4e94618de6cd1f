"""What lies at a path, by what it looks like: videos with what is said about them, before any of them is opened.

    a folder of videos     NAME.mp4, with the caption in NAME.txt (or NAME.mp4.txt, NAME.caption) and what else is known
                           (cosmos_data.readers.described) in NAME.json or NAME.mp4.json, where they exist
    a listing              JSON lines (cosmos_data.readers.listing)
    WebDataset tars        cosmos_data.readers.webdataset
    LeRobot, energon       cosmos_data.readers.lerobot, cosmos_data.readers.energon
    files of camera poses  beside a video or pictures: cosmos_data.readers.scenes; as a text of numbers in NAME.txt:
                           cosmos_data.readers.camera_text
    Bridge, 1X             a robot's states beside videos: cosmos_data.readers.bridge, cosmos_data.readers.one_x

A folder may hold tars and such data sets beside its videos. Captions, cameras, actions and trajectories are of the
whole video; the build cuts them with it.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath

from cosmos_data.contents import Content, look_at
from cosmos_data.errors import DataError
from cosmos_data.location import VideoFile
from cosmos_data.manifests.clip import Split
from cosmos_data.readers.bridge import GripperOpen, read_bridge
from cosmos_data.readers.energon import is_energon, read_energon
from cosmos_data.readers.file_group import (
    CAPTION_SUFFIXES,
    TEXT_SUFFIXES,
    FileGroup,
    Named,
    read_group,
    stem_and_suffix,
)
from cosmos_data.readers.folder import Folder, sort_of, walk
from cosmos_data.readers.found import Found, LeftOut, printable
from cosmos_data.readers.lerobot import is_lerobot, read_lerobot
from cosmos_data.readers.listing import read_listing
from cosmos_data.readers.one_x import read_one_x
from cosmos_data.readers.scenes import Scenes, find_scenes
from cosmos_data.readers.webdataset import read_tar


def read_sources(
    path: Path,
    cameras: Sequence[str] = (),
    splits: Mapping[str, Split] | None = None,
    gripper_open: GripperOpen | None = None,
) -> Iterator[Found]:
    """Yield everything that is found there.

    Args:
        cameras: LeRobot's names of the cameras to take (none: all but depth).
        splits: of an energon folder, the parts to take (None: all).
        gripper_open: Bridge's value of a gripper that is open (None: 1, if its grasps show it).

    Raises:
        DataError: nothing of these kinds is there, or a data set's own description is wrong.
    """
    if path.is_dir():
        if splits is not None:
            yield from read_energon(path, "", splits)
        elif is_lerobot(path) or is_energon(path):
            yield from _read_data_set(path, "", cameras)
        else:
            yield from _read_folder(path, cameras, gripper_open)
        return
    try:
        content = look_at(path)
    except OSError as error:
        raise DataError(
            f"{printable(str(path))} can not be read ({error.strerror}); give a folder, a .jsonl listing or a .tar"
        ) from error
    if path.suffix in (".jsonl", ".json"):
        yield from read_listing(path)
    elif content.kind == "tar" or path.suffix == ".tar":
        yield from read_tar(path, path.stem)
    else:
        hint = "; give the folder it lies in" if content.kind == "video" else ""
        raise DataError(f"{printable(str(path))} is {content.what}, and no folder, .jsonl listing or .tar{hint}")


def _read_data_set(path: Path, prefix: str, cameras: Sequence[str]) -> Iterator[Found]:
    """prefix: begins the names of its sources."""
    return read_lerobot(path, prefix, cameras) if is_lerobot(path) else read_energon(path, prefix)


def _read_folder(root: Path, cameras: Sequence[str], gripper_open: GripperOpen | None) -> Iterator[Found]:
    folder = walk(root)
    scenes = find_scenes(str(root), folder.files)
    yield from folder.others
    yield from scenes.found
    for read in (partial(read_bridge, gripper_open=gripper_open), read_one_x):
        found, own = read(str(root), folder.files)
        for name in own:
            del folder.files[name]
        yield from found
    texts = _texts_by_stem(folder)
    used = set(scenes.used)
    for name in sorted(folder.files | folder.data_sets):
        if name in folder.data_sets:
            yield from _read_data_set(folder.data_sets[name], f"{name}/", cameras)
            continue
        path = folder.files[name]
        if name in scenes.used or stem_and_suffix(path.name)[1] in TEXT_SUFFIXES:
            continue
        sort = sort_of(path)
        if not isinstance(sort, Content):
            yield sort
        elif sort.kind == "tar":
            yield from read_tar(path, str(PurePosixPath(name).with_suffix("")))
        else:
            beside = texts.get(_stem(name), [])
            used.update(beside)
            yield from read_group(_group(name, path, beside, folder, scenes))
    for name in sorted(set(chain.from_iterable(texts.values())) - used):
        yield LeftOut(printable(str(folder.files[name])), "a text that belongs to no video")


def _stem(name: str) -> str:
    """Return where a video and the texts beside it agree."""
    path = PurePosixPath(name)
    return str(path.parent / stem_and_suffix(path.name)[0])


def _texts_by_stem(folder: Folder) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for name in folder.files:
        if stem_and_suffix(PurePosixPath(name).name)[1] in TEXT_SUFFIXES:
            texts.setdefault(_stem(name), []).append(name)
    return texts


def _group(name: str, path: Path, beside: Sequence[str], folder: Folder, scenes: Scenes) -> FileGroup:
    group = FileGroup(name=name, where=printable(str(path)), folder=path.parent)
    if name in scenes.cameras:
        group.cameras[""] = scenes.cameras[name]
    group.videos[""].append(Named(name=name, file=VideoFile(str(path))))
    for text in beside:
        named = Named(name=text, file=VideoFile(str(folder.files[text])))
        if stem_and_suffix(PurePosixPath(text).name)[1] in CAPTION_SUFFIXES:
            group.captions[""].append(named)
        else:
            group.descriptions.append(named)
    return group
