"""What a clip comes with besides pictures: captions of its parts, its camera, actions, states, the vehicle's path.

Arrays are flat tuples, row after row, as the manifest stores them; the methods give numpy arrays of the shapes below.
T is the clip's frames, N the steps of a signal that has a rate of its own. Step k of a signal is at time k / rate_hz
after the clip's first frame, so a clip of T frames has round(T * rate_hz / fps) steps: `num_steps`.

`faults` say what no real camera or robot can have done (no number, no rotation, another length than the clip). They
are found by `cosmos-train data check`; a training run replaces such a clip as it replaces one that can not be decoded.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from cosmos_data.geometry.rotations import rotation_faults

Convention = Literal["world_to_camera_opencv", "camera_to_world_opencv", "camera_to_world_opengl"]
"""What an extrinsic matrix [R | t] maps, and the camera's axes: OpenCV x right, y down, z ahead; OpenGL x right, y up,
z back. Translations in metres where the scale is known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionWindow:
    """What the frames start_frame .. start_frame + num_frames - 1 show, counted from the clip's first frame."""

    start_frame: int
    num_frames: int
    text: str

    def overlap(self, start_frame: int, num_frames: int) -> int:
        """Return how many frames the two have in common."""
        first = max(self.start_frame, start_frame)
        return max(0, min(self.start_frame + self.num_frames, start_frame + num_frames) - first)


@dataclass(frozen=True, kw_only=True, slots=True)
class Camera:
    convention: Convention
    intrinsics_px: tuple[float, ...]
    """(fx, fy, cx, cy) once, or for each frame, in pixels of a picture of the size below."""

    height_px: int
    """The size that the intrinsics refer to, which need not be the video's."""

    width_px: int
    extrinsics: tuple[float, ...]
    """[3, 4] once, where the camera stands still, or for each frame."""

    def intrinsics_T4(self, num_frames: int) -> np.ndarray:
        return _per_frame(self.intrinsics_px, num_frames, (4,))

    def extrinsics_T34(self, num_frames: int) -> np.ndarray:
        return _per_frame(self.extrinsics, num_frames, (3, 4))

    def faults(self, num_frames: int) -> Iterator[str]:
        if self.convention not in get_args(Convention):
            yield f"camera: convention {self.convention!r} is none of {', '.join(get_args(Convention))}"
        if self.height_px < 1 or self.width_px < 1:
            yield f"camera: intrinsics refer to a picture of {self.width_px}x{self.height_px} px"
        for name, values, each in (("intrinsics_px", self.intrinsics_px, 4), ("extrinsics", self.extrinsics, 12)):
            if len(values) not in (each, each * num_frames):
                yield f"camera: {name} has {len(values)} values; {each}, or {each} for each of {num_frames} frames"
                return
        yield from _not_finite("camera: intrinsics_px", self.intrinsics_px, 4, "frame")
        focal_px_N2 = np.reshape(self.intrinsics_px, (-1, 4))[:, :2]
        bad = np.flatnonzero((focal_px_N2 <= 0).any(axis=1))
        if len(bad):
            yield f"camera: fx and fy are {focal_px_N2[bad[0]].tolist()} at frame {bad[0]}; focal lengths are positive"
        yield from _not_finite("camera: extrinsics", self.extrinsics, 12, "frame")
        yield from rotation_faults("camera: extrinsics", np.reshape(self.extrinsics, (-1, 3, 4))[:, :, :3], "frame")

    def part(self, start_frame: int, num_frames: int, of_frames: int, *, frame_stride: int = 1) -> "Camera":
        """Return the camera of a shorter clip: so many frames from start_frame on, every frame_stride-th of the
        `of_frames` there are."""
        end_frame = start_frame + (num_frames - 1) * frame_stride + 1

        def cut(values: tuple[float, ...], each: int) -> tuple[float, ...]:
            if len(values) != each * of_frames:
                return values
            frames = np.reshape(values, (of_frames, each))[start_frame:end_frame:frame_stride]
            return tuple(frames.ravel().tolist())

        return replace(self, intrinsics_px=cut(self.intrinsics_px, 4), extrinsics=cut(self.extrinsics, 12))

    def cropped(
        self, *, top_px: int, left_px: int, height_px: int, width_px: int, of_height_px: int, of_width_px: int
    ) -> "Camera":
        """Return the camera of a part of the picture, given in pixels of a video of another size; the intrinsics then
        refer to it. The part may reach beyond the picture: so a picture is scaled and padded."""
        down, right = of_height_px / self.height_px, of_width_px / self.width_px
        shifted = np.reshape(self.intrinsics_px, (-1, 4)) * (right, down, right, down) - (0, 0, left_px, top_px)
        return replace(self, intrinsics_px=tuple(shifted.ravel().tolist()), height_px=height_px, width_px=width_px)


@dataclass(frozen=True, kw_only=True, slots=True)
class Action:
    """What was done to bring about what is seen: robot commands, steering. Step k is done at time k / rate_hz and leads
    to what is seen after it, so at a rate of one step a frame, step k leads from frame k to frame k+1, and the last one
    past the clip's end. The same record, as a clip's `state`, holds what sensors measured at these times."""

    names: tuple[str, ...]
    """Of the dimensions: x, y, z, roll, pitch, yaw, gripper."""

    units: tuple[str, ...]
    """Of each dimension: m, rad, 1."""

    rate_hz: float
    frame_of_reference: str
    """Such as `previous end effector` or `robot base`."""

    values: tuple[float, ...]
    """[N, dimensions]"""

    embodiment: str = ""
    """Whose actions they are, such as bridge, droid or pusher: what is learnt of one embodiment's numbers, and their
    statistics, hold for no other. Empty where nobody says."""

    def values_ND(self) -> np.ndarray:
        return np.reshape(self.values, (-1, len(self.names)))

    def faults(self, num_frames: int, fps: float, *, what: str = "action") -> Iterator[str]:
        """Yield what is wrong. what: the column that holds it, action or state."""
        if not self.names or len(set(self.names)) != len(self.names) or len(self.units) != len(self.names):
            yield f"{what}: names {list(self.names)} with units {list(self.units)}; one unit for each name, none twice"
            return
        if not (math.isfinite(self.rate_hz) and self.rate_hz > 0):
            yield f"{what}: rate_hz {self.rate_hz} is no rate"
            return
        expected = num_steps(num_frames, fps, self.rate_hz)
        if len(self.values) != expected * len(self.names):
            yield (
                f"{what}: {len(self.values)} values; {expected} steps of {len(self.names)} belong to {num_frames}"
                f" frames at {fps:g} fps and {self.rate_hz:g} Hz"
            )
        yield from _not_finite(what, self.values, len(self.names), "step")

    def part(self, start_frame: int, num_frames: int, fps: float) -> "Action":
        """Return the action of a shorter clip."""
        each = len(self.names)
        start, count = _steps_of_part(start_frame, num_frames, fps, self.rate_hz, of_steps=len(self.values) // each)
        return replace(self, values=self.values[start * each : (start + count) * each])


@dataclass(frozen=True, kw_only=True, slots=True)
class EgoTrajectory:
    """Where the vehicle or robot was; it may go on past the clip's end, for models that are told the future path."""

    rate_hz: float
    frame_of_reference: str
    """Such as `vehicle at the clip's first frame, x ahead, y left, z up`."""

    positions_m: tuple[float, ...]
    """[N, 3]"""

    rotations: tuple[float, ...] = ()
    """[N, 3, 3], or nothing where only places are known."""

    def positions_N3(self) -> np.ndarray:
        return np.reshape(self.positions_m, (-1, 3))

    def faults(self, num_frames: int, fps: float) -> Iterator[str]:
        if not (math.isfinite(self.rate_hz) and self.rate_hz > 0):
            yield f"ego_trajectory: rate_hz {self.rate_hz} is no rate"
            return
        expected, steps = num_steps(num_frames, fps, self.rate_hz), len(self.positions_m) // 3
        if len(self.positions_m) % 3 or steps < expected:
            yield f"ego_trajectory: {len(self.positions_m)} values; 3 for each of {expected} steps or more"
        if len(self.rotations) not in (0, 9 * steps):
            yield f"ego_trajectory: rotations has {len(self.rotations)} values; none, or 9 for each of {steps} steps"
            return
        yield from _not_finite("ego_trajectory", self.positions_m, 3, "step")
        yield from _not_finite("ego_trajectory: rotations", self.rotations, 9, "step")
        yield from rotation_faults("ego_trajectory", np.reshape(self.rotations, (-1, 3, 3)), "step")

    def part(self, start_frame: int, num_frames: int, fps: float) -> "EgoTrajectory":
        """Return the trajectory of a shorter clip, which goes as far past its end as this one does."""
        start, _ = _steps_of_part(start_frame, num_frames, fps, self.rate_hz, of_steps=len(self.positions_m) // 3)
        return replace(self, positions_m=self.positions_m[3 * start :], rotations=self.rotations[9 * start :])


def signal_faults(
    action: Action | None, state: Action | None, ego_trajectory: EgoTrajectory | None, num_frames: int, fps: float
) -> Iterator[str]:
    """Yield what is wrong with the signals of a clip, or of a whole video, of so many frames."""
    if action is not None:
        yield from action.faults(num_frames, fps)
    if state is not None:
        yield from state.faults(num_frames, fps, what="state")
    if ego_trajectory is not None:
        yield from ego_trajectory.faults(num_frames, fps)


def num_steps(num_frames: int, fps: float, rate_hz: float) -> int:
    """Return how many steps of a signal belong to so many frames."""
    return round(num_frames * rate_hz / fps)


def _steps_of_part(start_frame: int, num_frames: int, fps: float, rate_hz: float, *, of_steps: int) -> tuple[int, int]:
    """Return (first step, number of steps) of a part of a clip. Beginning and length are rounded, which may come to one
    step more than there are: then the part begins a step earlier, and has its number still."""
    count = num_steps(num_frames, fps, rate_hz)
    return max(0, min(num_steps(start_frame, fps, rate_hz), of_steps - count)), count


def _per_frame(values: tuple[float, ...], num_frames: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.reshape(values, (-1, *shape)), (num_frames, *shape))


def _not_finite(what: str, values: tuple[float, ...], each: int, unit: str) -> Iterator[str]:
    bad = np.flatnonzero(~np.isfinite(np.asarray(values, dtype=np.float64)))
    if len(bad):
        yield f"{what}: {values[bad[0]]} at {unit} {bad[0] // each}, {len(bad)} such values in all"
