"""The conditions of a long video, cut to its windows: each frame keeps its pose and each step its frame."""

from dataclasses import replace

import numpy as np

from cosmos_data.errors import DataError
from cosmos_data.manifests.conditions import Action, Camera, num_steps, signal_faults
from cosmos_data.sample_plan.window_conditions import WindowConditions


def require_length(conditions: WindowConditions, num_frames: int, fps: float) -> None:
    """Raise DataError where one of the conditions is impossible, or of another length than the video."""
    camera = conditions.camera
    faults = [] if camera is None else list(camera.faults(num_frames))
    faults += signal_faults(conditions.action, conditions.state, conditions.ego_trajectory, num_frames, fps)
    for fault in faults:
        raise DataError(f"{fault}; give conditions as long as the video, {num_frames} frames at {fps:g} per second")


def lengthened(conditions: WindowConditions, num_frames: int, *, to_frames: int, fps: float) -> WindowConditions:
    """Return the conditions of a video that goes on past its end: the camera stays, and the last action and the last
    state go on.

    Windows have one length, so the last one may show more frames than are kept.
    """
    camera, action, state = conditions.camera, conditions.action, conditions.state
    return replace(
        conditions,
        camera=camera and _camera_stays(camera, num_frames, to_frames),
        action=action and _goes_on(action, num_steps(to_frames, fps, action.rate_hz)),
        state=state and _goes_on(state, num_steps(to_frames, fps, state.rate_hz)),
    )


def part_of(
    conditions: WindowConditions, start_frame: int, num_frames: int, *, of_frames: int, fps: float
) -> WindowConditions:
    """Return the conditions of so many frames from one on, of a video of `of_frames`."""
    camera, trajectory = conditions.camera, conditions.ego_trajectory
    action, state = conditions.action, conditions.state
    return replace(
        conditions,
        camera=camera and camera.part(start_frame, num_frames, of_frames),
        action=action and action.part(start_frame, num_frames, fps),
        state=state and state.part(start_frame, num_frames, fps),
        ego_trajectory=trajectory and trajectory.part(start_frame, num_frames, fps),
    )


def _camera_stays(camera: Camera, num_frames: int, to_frames: int) -> Camera:
    def held(values: tuple[float, ...], each: int) -> tuple[float, ...]:
        if len(values) != each * num_frames:
            return values  # one for all frames
        return values + values[-each:] * (to_frames - num_frames)

    return replace(camera, intrinsics_px=held(camera.intrinsics_px, 4), extrinsics=held(camera.extrinsics, 12))


def _goes_on(action: Action, to_steps: int) -> Action:
    steps_ND = action.values_ND()
    held_ND = np.concatenate((steps_ND, np.repeat(steps_ND[-1:], max(0, to_steps - len(steps_ND)), axis=0)))
    return replace(action, values=tuple(held_ND.ravel().tolist()))
