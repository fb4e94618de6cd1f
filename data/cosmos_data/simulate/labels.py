"""The file of labels beside a simulated video: what is known of its pixels and of its world, in each frame.

    NAME.labels.npz
      depth_m_VTHW      float32, for each view: metres ahead of the camera to what the centre of a pixel shows
      instances_VTHW    uint8, for each view: which thing it shows, a place in instance_names
      instance_names    the name of each thing
      STATE             the world's state by name, with frames as the first axis, as in hand_T2

V counts the views in the manifest's order. Arrays that a world does not know are not in the file.
"""

from pathlib import Path

import numpy as np

from cosmos_data.errors import DataError
from cosmos_data.manifests.clip import Clip
from cosmos_data.simulate.clips import SimulatedClip

SUFFIX = ".labels.npz"
DEPTH, INSTANCES, NAMES = "depth_m_VTHW", "instances_VTHW", "instance_names"


def labels_path(video: Path) -> Path:
    """Return where the labels of a video lie; those of all views of a clip are in one file."""
    return video.with_name(video.name.partition(".")[0] + SUFFIX)


def write_labels(clip: SimulatedClip, path: Path) -> None:
    """Write what is known of a clip; equal clips give equal bytes."""
    arrays = dict[str, np.ndarray](clip.states)
    depths = [view.depth_m_THW for view in clip.views if view.depth_m_THW is not None]
    instances = [view.instances_THW for view in clip.views if view.instances_THW is not None]
    if depths:
        arrays[DEPTH] = np.stack(depths)
    if instances:
        arrays |= {INSTANCES: np.stack(instances), NAMES: np.array(clip.instance_names)}
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]


def read_labels(clip: Clip) -> dict[str, np.ndarray]:
    """Return the arrays above of a clip of a simulated manifest, cut to the clip's frames.

    Raises:
        DataError: no labels lie beside the clip's video.
    """
    path = labels_path(Path(clip.path))
    if not path.is_file():
        raise DataError(
            f"{path} is missing, so clip {clip.clip_id} has no labels; only `cosmos-train data simulate` writes them,"
            " beside its videos"
        )
    frames = slice(clip.start_frame, clip.start_frame + clip.num_frames)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    return {name: _cut(name, array, frames) for name, array in arrays.items()}


def _cut(name: str, array: np.ndarray, frames: slice) -> np.ndarray:
    if name == NAMES:
        return array
    return array[:, frames] if name in (DEPTH, INSTANCES) else array[frames]
