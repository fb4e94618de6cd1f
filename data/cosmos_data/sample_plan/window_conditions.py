"""What a window comes with besides pictures: the conditions of its clip, cut and transformed to the window.

A window shows every `frame_stride`-th frame of a part of its clip, and of the picture a box, which is scaled to the
window's size, or to a part of it with padding around. Pixels are counted as areas: a picture's upper left corner is
(0, 0) and the centre of its first pixel (0.5, 0.5), so what scales a picture multiplies its camera's intrinsics, and
rays go through x + 0.5. A principal point that was counted from the first pixel's centre is to be moved by half a pixel
where the manifest is made.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cosmos_data.errors import DataError
from cosmos_data.manifests.conditions import Action, Camera, EgoTrajectory
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.manifests.rows import CONDITIONS, SCHEMA, record
from cosmos_data.sample_plan.plan import Sample
from cosmos_data.sample_plan.window import Box

COLUMNS = [SCHEMA.field(name) for name in (*CONDITIONS, "view")]
"""Of a table of windows, as a manifest has them of clips."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowConditions:
    """What is known of a window; None, or an empty name, where its clip does not say it."""

    camera: Camera | None = None
    """Its intrinsics are in pixels of the window, padding included; its extrinsics are as the clip has them."""

    action: Action | None = None
    """The steps from the window's first frame to the end of its last one, at the action's own rate: as many in every
    window of so many frames, whatever its stride leaves out between them."""

    state: Action | None = None
    """What was measured at the steps of the same times."""

    ego_trajectory: EgoTrajectory | None = None
    """From the window's first frame on, and past its end as far as the clip knows. Places stay relative to what
    frame_of_reference says, such as the CLIP's first frame: they are not moved to the window's."""

    view: str = ""
    """Name of the camera, where the clip has several."""


BARE = WindowConditions()
"""Nothing is known."""


def conditions_of(sample: Sample) -> WindowConditions:
    """Return the conditions of the view that the sample shows.

    Raises:
        DataError: the clip's are impossible, as of another length than the clip (see cosmos_data.manifests.conditions).
    """
    clip = sample.clip
    fault = next(clip.faults(), None)
    if fault is not None:
        raise DataError(
            f"clip {clip.clip_id}: {fault}; find all such clips with `cosmos-train data check`, and build the manifest "
            "again, or name them in data.quarantine"
        )
    start_frame = sample.start_frame - clip.start_frame
    span = (sample.num_frames - 1) * sample.frame_stride + 1
    found = WindowConditions(
        camera=clip.camera and _camera_of(clip.camera, sample),
        action=clip.action and clip.action.part(start_frame, span, clip.fps),
        state=clip.state and clip.state.part(start_frame, span, clip.fps),
        ego_trajectory=clip.ego_trajectory and clip.ego_trajectory.part(start_frame, span, clip.fps),
        view=clip.view,
    )
    is_bare = (found.camera, found.action, found.state, found.ego_trajectory) == (None,) * 4
    assert is_bare or not sample.flip, "conditions do not hold in a mirrored picture, and the plan mirrors no such clip"
    return found


def conditions_said(manifest: Manifest) -> str:
    """Return the names of the conditions that some of its clips have."""
    return " ".join(column.name for column in COLUMNS if manifest.says(column.name))


def from_columns(values: Mapping[str, Any]) -> WindowConditions:
    """Return the conditions of a row with COLUMNS, or of one of a table that has none of them."""
    records = {
        name: record(kind, values[name], 0, f"{name}.")
        for name, kind in CONDITIONS.items()
        if values.get(name) is not None
    }
    return WindowConditions(**records, view=values.get("view", ""))


def _camera_of(camera: Camera, sample: Sample) -> Camera:
    clip = sample.clip
    start_frame = sample.start_frame - clip.start_frame
    shown = camera.part(start_frame, sample.num_frames, clip.num_frames, frame_stride=sample.frame_stride)
    cut = shown.cropped(**asdict(sample.box), of_height_px=clip.height_px, of_width_px=clip.width_px)
    inner = sample.inner or Box(top_px=0, left_px=0, height_px=sample.height_px, width_px=sample.width_px)
    return cut.cropped(
        top_px=-inner.top_px,
        left_px=-inner.left_px,
        height_px=sample.height_px,
        width_px=sample.width_px,
        of_height_px=inner.height_px,
        of_width_px=inner.width_px,
    )
