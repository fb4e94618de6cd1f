"""The module turns poses of cameras and of robots into each other's conventions, and into actions and back.

A pose is a matrix of float64 [4, 4] that maps points from the posed thing's own axes to the world's: the columns of R
are its axes, t its place. Of a camera that is camera_to_world in OpenCV axes (x right, y down, z ahead), whatever the
file says. Rotations in other forms are in `cosmos_data.geometry.rotations`.

Two kinds of actions are made of poses P_0 .. P_(T-1), each with its inverse:

    framewise backward    D_k = P_(k-1)^-1 P_k,  t = R_(k-1)^T (p_k - p_(k-1)),  T-1 of them (IRASim, Cosmos)
    anchored              D_k = P_0^-1 P_k, of all T; the first is the identity
"""

import numpy as np

from cosmos_data.errors import DataError
from cosmos_data.geometry.rotations import rotation_faults
from cosmos_data.manifests.conditions import Camera, Convention

FLIP_Y_AND_Z = np.diag([1.0, -1.0, -1.0, 1.0])
"""From OpenGL's axes of a camera to OpenCV's, and back: columns 1 and 2 of a pose change their sign."""


def camera_to_world_T44(camera: Camera, num_frames: int) -> np.ndarray:
    """Return the pose of each frame in OpenCV axes, from any convention.

    Raises:
        DataError: the camera is impossible, as `Camera.faults` says, which names the frame.
    """
    for fault in camera.faults(num_frames):
        raise DataError(f"{fault}; correct the poses, or build the manifest without this clip")
    poses_T44 = to_44(camera.extrinsics_T34(num_frames))
    if camera.convention == "world_to_camera_opencv":
        return inverse_of(poses_T44)
    return poses_T44 @ FLIP_Y_AND_Z if camera.convention == "camera_to_world_opengl" else poses_T44


def extrinsics_of(poses_T44: np.ndarray, convention: Convention) -> tuple[float, ...]:
    """Return [3, 4] of each frame, as a `Camera` of that convention has them: the inverse of `camera_to_world_T44`."""
    matrices_T44 = poses_T44
    if convention == "world_to_camera_opencv":
        matrices_T44 = inverse_of(poses_T44)
    elif convention == "camera_to_world_opengl":
        matrices_T44 = poses_T44 @ FLIP_Y_AND_Z
    return tuple(matrices_T44[:, :3].ravel().tolist())


def check_poses(what: str, poses_T44: np.ndarray, *, unit: str = "frame") -> None:
    """Refuse matrices that are no poses.

    Raises:
        DataError: it names the first frame whose matrix has another shape or last row, a value that is not finite, or
            a rotation part that is not orthonormal or a mirror image.
    """
    if poses_T44.ndim != 3 or poses_T44.shape[1:] != (4, 4):
        raise DataError(f"{what}: poses have the shape {list(poses_T44.shape)}; give [T, 4, 4]")
    bad = np.flatnonzero(~np.isfinite(poses_T44).all(axis=(1, 2)))
    if len(bad):
        raise DataError(f"{what}: the matrix at {unit} {bad[0]} holds NaN or infinity, {len(bad)} do; correct them")
    bad = np.flatnonzero(np.abs(poses_T44[:, 3] - (0, 0, 0, 1)).max(axis=1) > 1e-6)
    if len(bad):
        raise DataError(f"{what}: the last row at {unit} {bad[0]} is {poses_T44[bad[0], 3].tolist()}; it is 0 0 0 1")
    for fault in rotation_faults(what, poses_T44[:, :3, :3], unit):
        raise DataError(f"{fault}; correct them")


def to_44(matrices_T34: np.ndarray) -> np.ndarray:
    """Return [R | t] with the row 0 0 0 1."""
    last_row = np.broadcast_to([0.0, 0.0, 0.0, 1.0], (len(matrices_T34), 1, 4))
    return np.concatenate([np.asarray(matrices_T34, dtype=np.float64), last_row], axis=1)


def poses_of(positions_T3: np.ndarray, rotations_T33: np.ndarray) -> np.ndarray:
    """Return [T, 4, 4] of places and rotations."""
    return to_44(np.concatenate([rotations_T33, positions_T3[:, :, None]], axis=2))


def inverse_of(poses_44: np.ndarray) -> np.ndarray:
    """Return the inverse of rigid poses [..., 4, 4]: R^T and -R^T t. A matrix that is only nearly orthonormal keeps
    R^T for the inverse, as all readers of such files take it."""
    inverse = poses_44.copy()
    inverse[..., :3, :3] = np.swapaxes(poses_44[..., :3, :3], -1, -2)
    inverse[..., :3, 3:] = -inverse[..., :3, :3] @ poses_44[..., :3, 3:]
    return inverse


def relative_to(poses_T44: np.ndarray, pose_44: np.ndarray) -> np.ndarray:
    """Return the poses as seen from one of them: pose^-1 P_k."""
    return inverse_of(pose_44) @ poses_T44


def framewise_deltas(poses_T44: np.ndarray) -> np.ndarray:
    """Return the T-1 steps from each pose to the next, in the axes of the earlier one."""
    return inverse_of(poses_T44[:-1]) @ poses_T44[1:]


def compose_framewise(start_44: np.ndarray, deltas_N44: np.ndarray) -> np.ndarray:
    """Return the N+1 poses that the steps lead through: the inverse of `framewise_deltas`."""
    poses = [start_44]
    for delta_44 in deltas_N44:
        poses.append(poses[-1] @ delta_44)
    return np.stack(poses)


def anchored_deltas(poses_T44: np.ndarray) -> np.ndarray:
    """Return each pose as seen from the first one."""
    return relative_to(poses_T44, poses_T44[0])


def compose_anchored(start_44: np.ndarray, deltas_T44: np.ndarray) -> np.ndarray:
    """Return the poses that were so seen from the start: the inverse of `anchored_deltas`."""
    return start_44 @ deltas_T44
