"""Camera paths that a command is given, as the `Camera` of a video: a named motion, a file, or a manifest's clip.

    still | pan:DEGREES | dolly:DISTANCE | orbit:DEGREES     a motion at an even pace; with ,fov_deg=F, and orbit with
                                                             ,radius=R. Without a number: pan:20, dolly:0.5, orbit:30
    PATH.json                                                a pose for each frame, or key frames
    MANIFEST#CLIP                                            what a clip's camera did

A named motion begins at the origin and looks along z. A file is an object of these keys:

    convention      world_to_camera_opencv, camera_to_world_opencv or camera_to_world_opengl (manifests.conditions)
    intrinsics_px   [fx, fy, cx, cy], or one such list for each pose, in pixels of the video
    height_px, width_px   the picture that the intrinsics are of
    extrinsics      a list of matrices, 3x4 or 4x4, one for each frame from the first on
    key_frames      optional: the frame number of each pose, from 0 on, rising; frames between two have poses between
"""

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cosmos_data.config import DataConfig
from cosmos_data.errors import DataError
from cosmos_data.geometry.poses import camera_to_world_T44, extrinsics_of
from cosmos_data.manifests.conditions import Camera
from cosmos_data.manifests.rows import json_object
from cosmos_data.steering.interpolation import interpolate_linearly, interpolate_poses
from cosmos_data.steering.steered import SteeredVideo, conditions_of_clip, names_clip

MOTIONS = {"still": 0.0, "pan": 20.0, "dolly": 0.5, "orbit": 30.0}
"""Named motions, and by how much each goes where a command does not say it."""
OPTIONS = {
    "still": ("fov_deg",),
    "pan": ("amount", "fov_deg"),
    "dolly": ("amount", "fov_deg"),
    "orbit": ("amount", "radius", "fov_deg"),
}
"""Each name may be followed by these, and an `amount` may be a number alone."""
FILE_KEYS = ("convention", "intrinsics_px", "height_px", "width_px", "extrinsics")


@dataclass(frozen=True, kw_only=True, slots=True)
class Motion:
    """A camera motion by its name; by all of `amount` from the first frame to the last."""

    name: str
    amount: float = 0.0
    """pan, orbit: degrees, to the right where positive. dolly: distance ahead, in the unit of the poses."""
    radius: float = 1.0
    """orbit: distance of the point that the camera circles and looks at, in the unit of the poses."""
    fov_deg: float | None = None
    """Horizontal field of view; None leaves the intrinsics to those that the model was trained with."""

    def poses_T34(self, num_frames: int) -> np.ndarray:
        """Return the pose of each frame, camera to world in OpenCV axes; the first is the identity."""
        progress_T = np.linspace(0, 1, num_frames) * self.amount
        zeros_T = np.zeros(num_frames)
        match self.name:
            case "pan":
                return _turned_right(np.radians(progress_T), np.zeros((num_frames, 3)))
            case "dolly":
                return _turned_right(zeros_T, np.stack((zeros_T, zeros_T, progress_T), axis=1))
            case "orbit":
                angle_T = np.radians(progress_T)
                centres_T3 = np.stack((np.sin(angle_T), zeros_T, 1 - np.cos(angle_T)), axis=1) * self.radius
                return _turned_right(-angle_T, centres_T3)
            case _:
                return _turned_right(zeros_T, np.zeros((num_frames, 3)))

    def camera(self, video: SteeredVideo, intrinsics_px: tuple[float, ...] | None) -> Camera:
        """Return the camera of a video.

        Raises DataError where neither `fov_deg` nor the argument says the intrinsics.
        """
        if self.fov_deg is not None:
            focal_px = video.width_px / 2 / math.tan(math.radians(self.fov_deg) / 2)
            intrinsics_px = (focal_px, focal_px, video.width_px / 2, video.height_px / 2)
        if intrinsics_px is None:
            raise DataError(
                "it says no field of view, and the run's manifest is not there to say it; add it in degrees, as in "
                f"{self.name}:{self.amount:g},fov_deg=60"
            )
        return Camera(
            convention="camera_to_world_opencv",
            intrinsics_px=intrinsics_px,
            height_px=video.height_px,
            width_px=video.width_px,
            extrinsics=_flat(self.poses_T34(video.num_frames)),
        )


def read_camera(
    source: str, video: SteeredVideo, data: DataConfig, *, intrinsics_px: tuple[float, ...] | None = None
) -> Camera:
    """Return the camera of each frame of a video, from what a command was given.

    Args:
        source: a motion, a file or a clip; see above.
        data: how the model's windows are cut out of a clip's pictures.
        intrinsics_px: fx, fy, cx, cy of the video's pictures, for a motion that says no field of view.

    Raises:
        DataError: there is no such path, it is shorter than the video, its poses are no rotations, or its intrinsics
            are those of another picture.
    """
    try:
        camera = _read(source, video, data, intrinsics_px)
        for fault in camera.faults(video.num_frames):
            raise DataError(f"{fault}; correct it")
    except DataError as error:
        raise DataError(f"--camera {source}: {error}") from error
    return camera


def parse_motion(source: str) -> Motion | None:
    """Return the motion that an argument names; None where it names something else.

    Raises DataError where the motion is one of ours and what follows its name is unknown, said twice or no number.
    """
    [name] = re.findall("^[^:,]*", source)
    if name not in MOTIONS or Path(source).exists():
        return None
    rest = source[len(name) + 1 :]
    settings = rest.split(",") if rest else []
    numbers = dict[str, float]()
    for place, setting in enumerate(settings):
        key, is_named, text = setting.partition("=")
        if not is_named and place == 0:
            key, text = "amount", setting
        if key not in OPTIONS[name]:
            takes = " and ".join(f"{option}=..." for option in OPTIONS[name])
            raise DataError(f"{key}={text} is nothing that {name} takes; it takes {takes}")
        if key in numbers:
            raise DataError(f"{key} is said twice, {numbers[key]:g} and {text}; say it once")
        numbers[key] = _number(key, text)
    if numbers.get("radius", 1.0) <= 0:
        raise DataError(f"radius={numbers['radius']:g} must be greater than 0")
    if not 0 < numbers.get("fov_deg", 60.0) < 180:
        raise DataError(f"fov_deg={numbers['fov_deg']:g} must lie between 0 and 180")
    return Motion(name=name, **{"amount": MOTIONS[name]} | numbers)


def _number(key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{key} is {text!r}, no number; write as in orbit:30,radius=2,fov_deg=60")
    return value


def _turned_right(angle_T: np.ndarray, centres_T3: np.ndarray) -> np.ndarray:
    """Return poses [T, 3, 4] at these centres, turned about the vertical axis by so many radians."""
    poses_T34 = np.zeros((len(angle_T), 3, 4))
    poses_T34[:, 0, 0] = poses_T34[:, 2, 2] = np.cos(angle_T)
    poses_T34[:, 0, 2], poses_T34[:, 2, 0] = np.sin(angle_T), -np.sin(angle_T)
    poses_T34[:, 1, 1] = 1
    poses_T34[:, :, 3] = centres_T3
    return poses_T34


def _read(source: str, video: SteeredVideo, data: DataConfig, intrinsics_px: tuple[float, ...] | None) -> Camera:
    motion = parse_motion(source)
    if motion is not None:
        return motion.camera(video, intrinsics_px)
    if not names_clip(source):
        return _read_file(source, video)
    found = conditions_of_clip(source, video, data).camera
    if found is None:
        raise DataError("the clip has no camera; name a clip that has one")
    return found


# Files


def _read_file(source: str, video: SteeredVideo) -> Camera:
    path = Path(source)
    if not path.is_file():
        raise DataError(f"it is no file, no clip (MANIFEST#CLIP) and no motion ({', '.join(MOTIONS)}), as orbit:30 is")
    values = json_object(path.read_bytes())
    missing = [key for key in FILE_KEYS if key not in values]
    unknown = sorted(set(values) - {*FILE_KEYS, "key_frames"})
    if missing or unknown:
        wrong = f"it lacks {', '.join(missing)}" if missing else f"it has unknown keys {', '.join(unknown)}"
        raise DataError(f"{wrong}; a path needs {', '.join(FILE_KEYS)}, and may have key_frames")
    camera = _camera_of(values)
    poses = len(camera.extrinsics) // 12
    _require_size(camera, video)
    key_frames = _key_frames(values.get("key_frames"), poses)
    num_given = poses if key_frames is None else key_frames[-1] + 1
    if num_given < video.num_frames and poses > 1:
        raise DataError(
            f"it has poses for {num_given} frames and the video has {video.num_frames}; give a longer path, or "
            f"--num-frames {num_given}"
        )
    if key_frames is None:
        return camera.part(0, video.num_frames, poses)
    frames_T, poses_K44 = np.arange(video.num_frames), camera_to_world_T44(camera, poses)
    intrinsics_T4 = interpolate_linearly(camera.intrinsics_T4(poses), key_frames, frames_T)
    return replace(
        camera,
        extrinsics=extrinsics_of(interpolate_poses(poses_K44, key_frames, frames_T), camera.convention),
        intrinsics_px=_flat(intrinsics_T4),
    )


def _camera_of(values: dict[str, Any]) -> Camera:
    """Return the poses of a file as they stand there."""
    matrices = _numbers("extrinsics", values["extrinsics"])
    if matrices.ndim != 3 or matrices.shape[1:] not in ((3, 4), (4, 4)) or not len(matrices):
        raise DataError(f"extrinsics is of shape {list(matrices.shape)}; give a list of 3x4 or 4x4 matrices")
    if matrices.shape[1] == 4 and not np.allclose(matrices[:, 3], (0, 0, 0, 1)):
        raise DataError("extrinsics: the last row of a 4x4 matrix must be 0 0 0 1; transpose them, perhaps")
    intrinsics = _numbers("intrinsics_px", values["intrinsics_px"])
    if intrinsics.shape not in ((4,), (1, 4), (len(matrices), 4)):
        raise DataError(
            f"intrinsics_px is of shape {list(intrinsics.shape)}; give fx, fy, cx, cy once, or for each of "
            f"{len(matrices)} poses"
        )
    return Camera(
        convention=values["convention"],
        intrinsics_px=_flat(intrinsics),
        height_px=_count("height_px", values["height_px"]),
        width_px=_count("width_px", values["width_px"]),
        extrinsics=_flat(matrices[:, :3]),
    )


def _numbers(key: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{key} holds what is no number, or rows of different lengths ({error}); correct it") from error


def _count(key: str, value: Any) -> int:
    if not isinstance(value, int) or value < 1:
        raise DataError(f"{key}={value!r} is not a positive count of pixels; correct it")
    return value


def _require_size(camera: Camera, video: SteeredVideo) -> None:
    """Raises DataError where the intrinsics are of a picture of another size than the video's."""
    if (camera.height_px, camera.width_px) == (video.height_px, video.width_px):
        return
    right, down = video.width_px / max(camera.width_px, 1), video.height_px / max(camera.height_px, 1)
    remedy = f"multiply fx and cx by {right:g}, fy and cy by {down:g}"
    if not math.isclose(right, down):
        remedy = "cut the picture to the video's shape first (take what is cut off from cx and cy), then scale them"
    raise DataError(
        f"intrinsics_px are of a picture of {camera.width_px}x{camera.height_px} px, and the video is "
        f"{video.width_px}x{video.height_px} px; {remedy}, and write the video's size there"
    )


def _key_frames(numbers: Any, poses: int) -> list[int] | None:
    if numbers is None:
        return None
    frames = _numbers("key_frames", numbers)
    if frames.shape != (poses,) or frames[0] != 0 or (np.diff(frames) <= 0).any() or (frames % 1).any():
        raise DataError(f"key_frames={numbers} must be {poses} frame numbers, one for each pose, from 0 on and rising")
    return frames.astype(int).tolist()


def _flat(values: np.ndarray) -> tuple[float, ...]:
    return tuple(values.ravel().tolist())
