"""Are the poses of a manifest those of its pictures? Corners that are followed from frame to frame say so.

Each clip's matrices are taken to mean each of four things (`geometry.epipolar.poses_by_convention`), and the median
residual of the corners says which one fits. Beside it stands the floor: what corners come to under the best epipolar
geometry that they can have. Nothing is said of scale, nor of the world's axes: no picture shows them. Frames between
which the camera stands still say nothing, for what moves there are things; where it never moves, or nothing can be
followed, nothing is proven, which is a warning.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import chain

import numpy as np

from cosmos_data.geometry.epipolar import (
    AnyConvention,
    Matches,
    fitted_intrinsics,
    poses_by_convention,
    residuals_px,
)
from cosmos_data.geometry.rotations import angle_between_rad
from cosmos_data.geometry.tracks import floor_px, follow, opencv
from cosmos_data.manifests.check import ManifestFinding
from cosmos_data.manifests.clip import Clip
from cosmos_data.manifests.conditions import Camera
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.videos.opened import BadVideoError
from cosmos_data.videos.video import RgbConverter, read_frames

NUM_STARTS, SPAN_FRAMES = 8, 24
"""Corners are looked for in so many frames, evenly spread, and followed over so many."""

LONGEST_SIDE_PX = 640
"""Larger pictures are made smaller."""

FEWEST_MATCHES = 30
MOST_MATCHES = 600
"""For a search of intrinsics."""

FITS_SHARE = 0.0007
"""A residual below this share of the picture's diagonal needs no explanation: 0.5 px of 640x360."""

UNFIT_SHARE = 0.005
"""One above this share is no error of measurement: 3.7 px of 640x360."""

STILL_RAD = 1e-3
"""A camera that turns by less stands still: half a pixel of a picture 640 wide, unless it also moves."""

STILL_SHARE = 0.01
"""A movement below this share of the largest one between two frames that are compared is none."""

ROUNDING_SHARE = 1e-5
"""One below this share of the camera's distance from the origin is what rounding leaves of none."""

BETTER = 0.5
"""Another explanation is better where it leaves less than this share of the residual."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PoseProof:
    """What the pictures of a clip say of its camera. Residuals are medians, in pixels of the view."""

    where: str
    declared: str
    residual_px: dict[AnyConvention, float]
    """Empty where nothing could be followed."""

    floor_px: float
    fault: str = ""
    """What is wrong, and what is right; empty where the poses fit."""

    @property
    def line(self) -> str:
        """Return a line that says all of it."""
        if not self.residual_px:
            return f"{self.where}: {self.declared}, not proven: too little moves, or too little can be followed"
        others = {name: value for name, value in self.residual_px.items() if name != self.declared}
        said = ", ".join(f"{name} {value:.2f}" for name, value in others.items())
        own = self.residual_px[self.declared]  # pyright: ignore[reportArgumentType]
        verdict = f"WRONG, {self.fault}" if self.fault else "it fits"
        return f"{self.where}: {self.declared} {own:.2f} px (floor {self.floor_px:.2f}; {said}): {verdict}"

    def findings(self) -> Iterator[ManifestFinding]:
        """Yield an error where the poses are wrong, a warning where nothing is proven."""
        if self.fault:
            yield ManifestFinding(where=self.where, text=f"camera: {self.fault}")
        elif not self.residual_px:
            text = "its poses are not proven: too little moves, or too little can be followed"
            yield ManifestFinding(where=self.where, text=text, level="warning")


def prove_poses(
    manifest: Manifest, *, num_workers: int = 4, progress: Callable[[int, int], None] | None = None
) -> Iterator[PoseProof]:
    """Yield a proof for each view with a possible camera, in the manifest's order; impossible ones are named by
    `check_manifest`, as are files that can not be read.

    progress: called with (views done, views in all).

    Raises:
        DataError: OpenCV is not installed.
    """
    opencv()
    views = list(chain.from_iterable(map(_with_camera, manifest)))
    with ThreadPoolExecutor(num_workers) as pool:
        for done, proof in enumerate(pool.map(_prove, views), start=1):
            if progress is not None:
                progress(done, len(views))
            yield from proof


def _with_camera(clip: Clip) -> list[Clip]:
    return [view for view in clip.each_view() if view.camera and not list(view.camera.faults(view.num_frames))]


def _prove(view: Clip) -> list[PoseProof]:
    assert view.camera is not None
    where = f"{view.clip_id}, view {view.view}" if view.view else view.clip_id
    try:
        pairs = list(_matches(view))
    except (BadVideoError, OSError, ValueError):
        return []  # check_manifest says what is wrong with the file
    return [judged(where, view.camera, view.num_frames, view.height_px, view.width_px, pairs)]


def _matches(view: Clip) -> Iterator[Matches]:
    """In pixels of the view."""
    last_start = max(0, view.num_frames - 2)
    to_rgb = RgbConverter()
    for start in sorted({round(last_start * number / NUM_STARTS) for number in range(NUM_STARTS)}):
        count = min(SPAN_FRAMES, view.num_frames - start)
        frames = read_frames(view, start_frame=view.start_frame + start, num_frames=count)
        gray = [_gray(to_rgb(frame)) for frame in frames]
        matches = follow(gray, start)
        if matches is not None:
            scale_2 = np.array([view.width_px / gray[0].shape[1], view.height_px / gray[0].shape[0]])
            yield Matches(
                first_frame_N=matches.first_frame_N,
                second_frame_N=matches.second_frame_N,
                first_px_N2=matches.first_px_N2 * scale_2,
                second_px_N2=matches.second_px_N2 * scale_2,
            )


def _gray(rgb_HW3: np.ndarray) -> np.ndarray:
    cv2 = opencv()
    height_px, width_px, _ = rgb_HW3.shape
    share = min(1.0, LONGEST_SIDE_PX / max(height_px, width_px))
    size = max(1, round(width_px * share)), max(1, round(height_px * share))
    gray_HW = cv2.cvtColor(np.ascontiguousarray(rgb_HW3), cv2.COLOR_RGB2GRAY)
    return cv2.resize(gray_HW, size, interpolation=cv2.INTER_AREA) if share < 1 else gray_HW


def judged(
    where: str, camera: Camera, num_frames: int, height_px: int, width_px: int, pairs: Sequence[Matches]
) -> PoseProof:
    """Judge a camera by matches of a view of that size, each of one pair of frames."""
    poses = poses_by_convention(camera.extrinsics_T34(num_frames))
    pairs = _with_movement(pairs, poses[camera.convention])
    if sum(map(len, pairs)) < FEWEST_MATCHES:
        return PoseProof(where=where, declared=camera.convention, residual_px={}, floor_px=0.0)
    matches = Matches(**{part.name: np.concatenate([getattr(one, part.name) for one in pairs]) for part in _PARTS})
    size = {"height_px": height_px, "width_px": width_px}
    of_view = camera.cropped(top_px=0, left_px=0, of_height_px=height_px, of_width_px=width_px, **size)
    judge = _Judge(
        matches=matches,
        poses=poses,
        intrinsics_T4=of_view.intrinsics_T4(num_frames),
        **size,
    )
    floor = float(np.median(np.concatenate([floor_px(one) for one in pairs])))
    residual: dict[AnyConvention, float] = {name: judge.residual_px(name) for name in judge.poses}
    fault = judge.fault(camera.convention, residual, floor)
    return PoseProof(where=where, declared=camera.convention, residual_px=residual, floor_px=floor, fault=fault)


_PARTS = fields(Matches)


def _with_movement(pairs: Sequence[Matches], poses_T44: np.ndarray) -> list[Matches]:
    """Return the pairs of frames between which the camera turns or moves."""
    if not pairs:
        return []
    first_P44 = poses_T44[[int(pair.first_frame_N[0]) for pair in pairs]]
    second_P44 = poses_T44[[int(pair.second_frame_N[0]) for pair in pairs]]
    turn_P = angle_between_rad(first_P44[:, :3, :3], second_P44[:, :3, :3])
    way_P = np.linalg.norm(second_P44[:, :3, 3] - first_P44[:, :3, 3], axis=1)
    distance = float(np.linalg.norm(poses_T44[:, :3, 3], axis=1).max())
    least = max(STILL_SHARE * float(way_P.max()), ROUNDING_SHARE * distance)
    is_moving_P = (turn_P > STILL_RAD) | (way_P > least)
    return [pair for pair, is_moving in zip(pairs, is_moving_P, strict=True) if is_moving]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Judge:
    matches: Matches
    poses: dict[AnyConvention, np.ndarray]
    intrinsics_T4: np.ndarray
    height_px: int
    width_px: int

    def residual_px(self, name: AnyConvention) -> float:
        return float(np.median(residuals_px(self.matches, self.poses[name], self.intrinsics_T4)))

    def fault(self, declared: AnyConvention, residual_px: dict[AnyConvention, float], floor_px: float) -> str:
        """Say which explanation is better than the declared one; nothing where none is needed."""
        own_px = residual_px[declared]
        diagonal_px = float(np.hypot(self.height_px, self.width_px))
        if own_px <= FITS_SHARE * diagonal_px:
            return ""
        unfit_px = max(UNFIT_SHARE * diagonal_px, 3 * floor_px)
        best = min(residual_px, key=lambda name: residual_px[name])
        fitted_4, fitted_px = self._fitted(declared)
        # Other intrinsics explain little where the convention is wrong, and another convention where intrinsics are.
        is_better = residual_px[best] < min(BETTER * own_px, unfit_px)
        if is_better and not fitted_px < BETTER * residual_px[best]:
            return _said_of_convention(declared, best, own_px, residual_px[best])
        if fitted_px < min(BETTER * own_px, unfit_px):
            return self._said_of_intrinsics(fitted_4, own_px, fitted_px)
        if own_px > unfit_px:
            others = {name: self._fitted(name)[1] for name in self.poses if name != declared}
            best = min(others, key=lambda name: others[name])
            if others[best] < min(BETTER * own_px, BETTER * fitted_px, unfit_px):
                return _said_of_convention(declared, best, own_px, others[best]) + ", with other intrinsics too"
            return (
                f"no convention explains the pictures ({own_px:.2f} px, floor {floor_px:.2f}); the poses are of another"
                " video, other frames, or a lens with distortion"
            )
        return ""

    def _fitted(self, name: AnyConvention) -> tuple[np.ndarray, float]:
        step = max(1, len(self.matches) // MOST_MATCHES)
        some = Matches(**{part.name: getattr(self.matches, part.name)[::step] for part in _PARTS})
        return fitted_intrinsics(some, self.poses[name], self.intrinsics_T4, self.height_px, self.width_px)

    def _said_of_intrinsics(self, fitted_4: np.ndarray, own_px: float, fitted_px: float) -> str:
        said_4 = np.median(self.intrinsics_T4, axis=0)
        said = " ".join(f"{value:.1f}" for value in said_4)
        fitted = " ".join(f"{value:.1f}" for value in fitted_4)
        return (
            f"its intrinsics are not those of these pictures: fx fy cx cy {said} leave {own_px:.2f} px, {fitted} leave"
            f" {fitted_px:.2f}; give those of the pictures as they were cropped and scaled"
        )


def _said_of_convention(declared: str, best: str, own_px: float, best_px: float) -> str:
    remedy = f"say convention {best}"
    if best == "world_to_camera_opengl":
        remedy = "store the inverses of the matrices and say convention camera_to_world_opengl"
    return f"its poses are {best} and not {declared}: {best_px:.2f} px against {own_px:.2f}; {remedy}"
