"""The file of labels of a simulated clip: what is known of its pixels and of its world, in each frame.

    NAME.labels.npz
      depth_m_VTHW      float32, for each view: metres ahead of the camera to what the centre of a pixel shows
      instances_VTHW    uint8, for each view: which thing it shows, a place in instance_names
      instance_names    the name of each thing
      STATE             the world's state by name, with frames as the first axis, as in hand_T2

V counts the views in the manifest's order. Arrays that a world does not know are not in the file. The manifest's column
`labels_file` says where it lies: beside the video, or in a shard with it.
"""

import io
from collections.abc import Mapping
from zipfile import BadZipFile

import numpy as np

from cosmos_data.errors import DataError
from cosmos_data.manifests.clip import Clip
from cosmos_data.sample_plan.window import Box
from cosmos_data.simulate.clips import SimulatedClip

SUFFIX = ".labels.npz"
DEPTH, INSTANCES, NAMES = "depth_m_VTHW", "instances_VTHW", "instance_names"

Labels = Mapping[str, np.ndarray]


def labels_of(clip: SimulatedClip) -> Labels:
    """Return the arrays above of a clip that was just made."""
    arrays = dict[str, np.ndarray](clip.states)
    depths = [view.depth_m_THW for view in clip.views if view.depth_m_THW is not None]
    instances = [view.instances_THW for view in clip.views if view.instances_THW is not None]
    if depths:
        arrays[DEPTH] = np.stack(depths)
    if instances:
        arrays |= {INSTANCES: np.stack(instances), NAMES: np.array(clip.instance_names)}
    return arrays


def labels_bytes(labels: Labels) -> bytes:
    """Return the file's content; equal labels give equal bytes."""
    file = io.BytesIO()
    np.savez_compressed(file, **labels)  # pyright: ignore[reportArgumentType]
    return file.getvalue()


def read_labels(clip: Clip) -> dict[str, np.ndarray]:
    """Return the arrays above of a clip of a simulated manifest, cut to the clip's frames.

    Raises:
        DataError: the clip has no labels, or their file is missing or damaged.
    """
    if clip.labels_file is None:
        raise DataError(
            f"clip {clip.clip_id} has no labels; only clips of `cosmos-train data simulate` have some, also where they"
            " were packed"
        )
    try:
        with np.load(io.BytesIO(clip.labels_file.read_bytes())) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, BadZipFile) as error:
        raise DataError(
            f"{clip.labels_file.path}: the labels of clip {clip.clip_id} can not be read ({error}); copy them again"
        ) from error
    frames = slice(clip.start_frame, clip.start_frame + clip.num_frames)
    return {name: _cut(name, array, frames) for name, array in arrays.items()}


def labels_of_part(labels: Labels, box: Box, height_px: int, width_px: int) -> Labels:
    """Return the labels of a part of the pictures, scaled: a pixel's depth and thing are those at its centre, and
    places in pixels go with the picture. The world's own numbers stay.

    Raises:
        DataError: the part reaches beyond the pictures that the labels are of.
    """
    return {name: _of_part(name, array, box, height_px, width_px) for name, array in labels.items()}


def _of_part(name: str, array: np.ndarray, box: Box, height_px: int, width_px: int) -> np.ndarray:
    if name in (DEPTH, INSTANCES):
        if array.shape[2] < box.top_px + box.height_px or array.shape[3] < box.left_px + box.width_px:
            raise DataError(f"{name} is of pictures of {array.shape[3]}x{array.shape[2]} px, and a part reaches beyond")
        rows_H = box.top_px + ((np.arange(height_px) + 0.5) * box.height_px / height_px).astype(int)
        columns_W = box.left_px + ((np.arange(width_px) + 0.5) * box.width_px / width_px).astype(int)
        return array[:, :, rows_H[:, None], columns_W]
    if "_px_" in name:
        return (array - (box.left_px, box.top_px)) * (width_px / box.width_px, height_px / box.height_px)
    return array


def _cut(name: str, array: np.ndarray, frames: slice) -> np.ndarray:
    if name == NAMES:
        return array
    return array[:, frames] if name in (DEPTH, INSTANCES) else array[frames]
