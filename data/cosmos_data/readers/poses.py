"""Layouts whose videos come with poses or actions that are not read yet: they are refused, so that nothing trains on
the pictures alone, or on a part that was kept for validation, without a word."""

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from cosmos_data.errors import DataError
from cosmos_data.readers.found import printable

REMEDY = (
    "list the videos in a .jsonl, with camera or action where they are wanted (see cosmos_data.readers.listing), or"
    " build from a folder that holds only the videos"
)


def refuse_poses(root: str, names: Iterable[str]) -> None:
    """names: of the files below `root`. DataError where they are laid out as one of these."""
    for layout in _layouts({PurePosixPath(name) for name in names}):
        raise DataError(f"{printable(root)} holds {layout}, which is not read yet; {REMEDY}")


def _layouts(paths: set[PurePosixPath]) -> Iterator[str]:
    for path in sorted(paths):
        if path.name == "transforms.json":
            yield f"camera poses of nerfstudio ({path})"
        for suffix in (".bin", ".txt"):
            if path.name == f"cameras{suffix}" and path.with_name(f"images{suffix}") in paths:
                yield f"camera poses of COLMAP ({path})"
        is_annotation = path.suffix == ".json" and path.parts[-3:-2] in (("annotation",), ("annotations",))
        if is_annotation and path.parts[-2] in ("train", "val", "test"):
            yield f"robot actions in Bridge's layout ({path.parent}), with parts of its own for training and validation"
