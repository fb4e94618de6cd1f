"""A room with checkered walls and coloured spheres, seen by a camera that moves freely: ray-cast in closed form.

The world's x and y lie along the floor, its z points up, and its origin is the middle of the floor; lengths are in
metres. Each side of the room has two tones of a colour of its own, so a picture tells where the camera is and where it
looks. A ray from inside a box leaves it on the nearest of the three sides that it runs towards, so a picture costs
three divisions a ray, and a quadratic equation for each sphere.

All that decides a pixel is made of + - * / and square roots in float64, which IEEE 754 rounds in one way: pictures,
depth and instances are the same bit for bit on every machine.
"""

import math
from dataclasses import dataclass

import numpy as np

from cosmos_data.manifests.conditions import Camera
from cosmos_data.simulate.camera_path import Vectors, camera_path_T34
from cosmos_data.simulate.clips import SimulatedClip, SimulatedView
from cosmos_data.simulate.config import RoomConfig
from cosmos_data.simulate.draws import Draws

LOW_M, HIGH_M = (-2.0, -2.0, 0.0), (2.0, 2.0, 2.4)
"""Corners of the room."""
CAMERA_LOW_M, CAMERA_HIGH_M = (-0.8, -0.8, 0.6), (0.8, 0.8, 1.6)
"""Corners of the box that the camera stays in. Spheres stay out of it."""
CHECK_M = 0.8
"""Side of a square of the walls' pattern."""
NEAREST_SPHERE_M, FURTHEST_SPHERE_M = 1.3, 1.6
"""How far a sphere's centre is from the middle of the room, towards the wall at which it is."""
MIN_RADIUS_M, MAX_RADIUS_M = 0.25, 0.4

SIDES = ("left wall", "right wall", "near wall", "far wall", "floor", "ceiling")
"""In the order of (axis, low or high)."""
SIDE_COLORS_RGB = ((200, 60, 60), (70, 170, 80), (70, 100, 210), (215, 180, 60), (130, 100, 80), (190, 190, 205))
SPHERE_COLORS_RGB = {
    "white": (250, 250, 250),
    "orange": (255, 120, 0),
    "cyan": (0, 220, 230),
    "purple": (150, 30, 200),
    "black": (25, 25, 25),
    "pink": (255, 130, 190),
    "lime": (170, 250, 20),
    "navy": (20, 20, 120),
}
DARK = 0.55
"""Brightness of the darker tone of a side, and of the dark half of a sphere."""
LIGHT = (0.48, -0.36, 0.8)
"""Unit vector towards the light that shades the spheres."""
RAYS = ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75))
"""Places within a pixel, right and down, whose colours are averaged."""
RAYS_AT_ONCE = 8192
"""Rays that are cast together, if a frame has no more; more are slower, since they leave the processor's cache."""


@dataclass(frozen=True, slots=True)
class Sphere:
    """One sphere of a room."""

    color: str
    center_m: tuple[float, float, float]
    radius_m: float


@dataclass(frozen=True, slots=True)
class Scene:
    """What stands still in a room."""

    side_colors_rgb: tuple[tuple[int, int, int], ...]
    """Of each of SIDES."""
    spheres: tuple[Sphere, ...]

    @property
    def instance_names(self) -> tuple[str, ...]:
        """Name every number that instances may have."""
        return (*SIDES, *(f"{sphere.color} sphere" for sphere in self.spheres))


class Room:
    """The world `room`."""

    def __init__(self, config: RoomConfig) -> None:
        self.config = config

    def scene(self, seed: int) -> Scene:
        """Return the room of a clip's seed, which is the same for all seeds where scenes are fixed."""
        scene_seed = self.config.scene_seed if self.config.scenes == "fixed" else seed
        draws = Draws(scene_seed, "room")
        colors = [SIDE_COLORS_RGB[number] for number in draws.order(len(SIDES))]
        names = [list(SPHERE_COLORS_RGB)[number] for number in draws.order(len(SPHERE_COLORS_RGB))]
        spheres = []
        for number, name in enumerate(names[: self.config.num_spheres]):
            radius_m = draws.between(MIN_RADIUS_M, MAX_RADIUS_M)
            out_m, along_m = draws.between(NEAREST_SPHERE_M, FURTHEST_SPHERE_M), draws.between(-1.2, 1.2)
            height_m = draws.between(radius_m, 1.9)
            side = -out_m if number % 2 else out_m
            x_m, y_m = (side, along_m) if number % 4 < 2 else (along_m, side)
            spheres.append(Sphere(name, (x_m, y_m, height_m), radius_m))
        return Scene(tuple(colors), tuple(spheres))

    def camera(self, poses_T34: np.ndarray) -> Camera:
        """Return the camera that takes these camera-to-world poses (OpenCV's axes, metres)."""
        config = self.config
        # Rounded: no two libraries' tangents then differ.
        focal_px = round(config.width_px / 2 / math.tan(math.radians(config.field_of_view_deg / 2)), 6)
        return Camera(
            convention="camera_to_world_opencv",
            intrinsics_px=(focal_px, focal_px, config.width_px / 2, config.height_px / 2),
            height_px=config.height_px,
            width_px=config.width_px,
            extrinsics=tuple(np.asarray(poses_T34, dtype=np.float64).ravel().tolist()),
        )

    def clip(self, seed: int) -> SimulatedClip:
        """Return the clip of a seed: a random smooth path through the room."""
        return self.filmed(self.scene(seed), camera_path_T34(seed, self.config, CAMERA_LOW_M, CAMERA_HIGH_M))

    def filmed(self, scene: Scene, poses_T34: np.ndarray) -> SimulatedClip:
        """Return the clip that a camera with these camera-to-world poses takes of a scene, as many frames as poses."""
        camera = self.camera(poses_T34)
        pictures, depths, instances = [], [], []
        frames_at_once = max(1, RAYS_AT_ONCE // (self.config.height_px * self.config.width_px))
        for start in range(0, len(poses_T34), frames_at_once):
            poses = poses_T34[start : start + frames_at_once]
            total = np.zeros((len(poses), self.config.height_px * self.config.width_px, 3), dtype=np.uint16)
            for right, down in RAYS:
                total += cast(scene, poses, *_directions(camera, right, down)).rgb_TP3
            pictures.append(((total + len(RAYS) // 2) // len(RAYS)).astype(np.uint8))
            seen = cast(scene, poses, *_directions(camera, 0.5, 0.5))
            depths.append(seen.depth_m_TP.astype(np.float32))
            instances.append(seen.instance_TP)
        shape_THW = (len(poses_T34), self.config.height_px, self.config.width_px)
        view = SimulatedView(
            pictures_THW3=np.concatenate(pictures).reshape(*shape_THW, 3),
            camera=camera,
            depth_m_THW=np.concatenate(depths).reshape(shape_THW),
            instances_THW=np.concatenate(instances).reshape(shape_THW),
        )
        return SimulatedClip(
            views=(view,), fps=self.config.fps, caption=caption_of(scene), instance_names=scene.instance_names
        )


def caption_of(scene: Scene) -> str:
    """Say what is in the room: `a camera moves through a room with a white sphere and a pink sphere`."""
    things = " and ".join(f"a {sphere.color} sphere" for sphere in scene.spheres)
    return f"a camera moves through a room with {things or 'nothing in it'}"


def _directions(camera: Camera, right: float, down: float) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y, [P] each, of the rays through that place within each pixel, where they are 1 ahead."""
    focal_x_px, focal_y_px, center_x_px, center_y_px = camera.intrinsics_px
    x_W = (np.arange(camera.width_px) + right - center_x_px) / focal_x_px
    y_H = (np.arange(camera.height_px) + down - center_y_px) / focal_y_px
    shape_HW = (camera.height_px, camera.width_px)
    return np.broadcast_to(x_W, shape_HW).ravel(), np.broadcast_to(y_H[:, None], shape_HW).ravel()


@dataclass(frozen=True, slots=True)
class Seen:
    """What rays meet; P rays in each of T frames."""

    rgb_TP3: np.ndarray
    """uint8"""
    depth_m_TP: np.ndarray
    """float64, along the camera's axis."""
    instance_TP: np.ndarray
    """uint8, a place in `Scene.instance_names`."""


def cast(scene: Scene, poses_T34: np.ndarray, x_P: np.ndarray, y_P: np.ndarray) -> Seen:
    """Cast rays from cameras within the room; x_P and y_P say where a ray is when it is 1 ahead of its camera.

    A ray's parameter is then its depth: how far ahead of the camera, along the camera's axis, it has come.
    """
    right, down, ahead, place = (poses_T34[:, :, column] for column in range(4))
    rays = tuple(right[:, [k]] * x_P + down[:, [k]] * y_P + ahead[:, [k]] for k in range(3))
    origin = tuple(place[:, [k]] for k in range(3))
    depth, side = _sides_met(origin, rays)
    rgb = _colors_of_sides(scene, origin, rays, depth, side)
    instance = side.astype(np.uint8)
    squares = rays[0] * rays[0] + rays[1] * rays[1] + rays[2] * rays[2]
    for number, sphere in enumerate(scene.spheres, start=len(SIDES)):
        _put_sphere(sphere, number, origin, rays, squares, Seen(rgb, depth, instance))
    return Seen(rgb, depth, instance)


def _sides_met(origin: Vectors, rays: Vectors) -> tuple[np.ndarray, np.ndarray]:
    """Return depth and side of the room where each ray leaves it."""
    depth = np.full(rays[0].shape, np.inf)
    side = np.zeros(rays[0].shape, dtype=np.int64)
    for axis, (start, ray) in enumerate(zip(origin, rays, strict=True)):
        is_high = ray > 0
        to_wall = np.where(is_high, HIGH_M[axis] - start, start - LOW_M[axis])
        with np.errstate(divide="ignore"):  # a ray along a wall meets it nowhere: infinity
            meets = to_wall / np.abs(ray)
        is_nearer = meets < depth
        depth = np.where(is_nearer, meets, depth)
        side = np.where(is_nearer, 2 * axis + is_high, side)
    return depth, side


def _colors_of_sides(scene: Scene, origin: Vectors, rays: Vectors, depth: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Return uint8 [T, P, 3]: of the two tones of a side, the one of the square that the ray meets."""
    squares = [np.floor((start + depth * ray) / CHECK_M) for start, ray in zip(origin, rays, strict=True)]
    axis = side // 2
    # The two coordinates along the side count, its own axis does not.
    along = np.where(axis == 0, squares[1] + squares[2], squares[0] + np.where(axis == 1, squares[2], squares[1]))
    is_dark = along.astype(np.int64) & 1
    bright = np.array(scene.side_colors_rgb, dtype=np.float64)
    tones = np.stack([bright, np.floor(bright * DARK)], axis=1).astype(np.uint8).reshape(-1, 3)
    return tones[2 * side + is_dark]


def _put_sphere(sphere: Sphere, number: int, origin: Vectors, rays: Vectors, squares: np.ndarray, seen: Seen) -> None:
    """Put a sphere into what is seen, where it is nearer than what is seen there."""
    from_center = tuple(start - center for start, center in zip(origin, sphere.center_m, strict=True))
    half_b = from_center[0] * rays[0] + from_center[1] * rays[1] + from_center[2] * rays[2]
    outside = sum(one * one for one in from_center) - sphere.radius_m * sphere.radius_m
    discriminant = half_b * half_b - squares * outside
    frame, ray = np.nonzero((discriminant > 0) & (half_b < 0))
    depth = (-half_b[frame, ray] - np.sqrt(discriminant[frame, ray])) / squares[frame, ray]
    is_nearer = depth < seen.depth_m_TP[frame, ray]
    frame, ray, depth = frame[is_nearer], ray[is_nearer], depth[is_nearer]
    facing = np.zeros(len(depth))
    for from_one, along, light in zip(from_center, rays, LIGHT, strict=True):
        facing += (from_one[frame, 0] + depth * along[frame, ray]) / sphere.radius_m * light
    brightness = DARK + (1 - DARK) * np.maximum(facing, 0)
    color = np.array(SPHERE_COLORS_RGB[sphere.color], dtype=np.float64)
    seen.rgb_TP3[frame, ray] = np.floor(brightness[:, None] * color + 0.5).astype(np.uint8)
    seen.depth_m_TP[frame, ray] = depth
    seen.instance_TP[frame, ray] = number
