"""The keys of simulated worlds, by world. Plain values only, without numpy, so that a command line is checked at once.

On the command line a key has its world's name before it, as in `room.scenes=random`.
"""

from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval

from cosmos_data.errors import DataError

Positive = Annotated[float, Gt(0)]
Count = Annotated[int, Ge(1)]
Size = Annotated[int, Ge(2)]

MIN_FPS, MAX_FPS = 0.1, 1000
"""Rates that every kind of file which is written here holds."""

NUM_DISC_COLORS = 5
"""Discs have so many colours by name, and no two discs of a clip have one."""
NUM_SPHERE_COLORS = 8
"""As many for the room's spheres."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldConfig:
    """What every world has: the size and the rate of its videos."""

    height_px: Size = 32
    """Height of the pictures, in pixels."""

    width_px: Size = 32
    """Width of the pictures, in pixels."""

    num_frames: Count = 33
    """Frames of a clip."""

    fps: Annotated[float, Interval(ge=MIN_FPS, le=MAX_FPS)] = 24.0
    """Frames per second."""

    def __post_init__(self) -> None:
        for name, side_px in (("height_px", self.height_px), ("width_px", self.width_px)):
            if side_px < 2 or side_px % 2:
                raise DataError(f"{name}={side_px} must be even and at least 2, as video with 4:2:0 colours needs")
        if self.num_frames < 1:
            raise DataError(f"num_frames={self.num_frames} must be at least 1")
        if not MIN_FPS <= self.fps <= MAX_FPS:
            raise DataError(f"fps={self.fps} must lie between {MIN_FPS} and {MAX_FPS}, rates that video files hold")


@dataclass(frozen=True, kw_only=True, slots=True)
class DiscsConfig(WorldConfig):
    """Discs that bounce off the walls (`cosmos_data.simulate.discs`). Lengths are in pixels, times in frames."""

    num_discs: Annotated[int, Interval(ge=1, le=NUM_DISC_COLORS)] = 2
    """Discs in a clip."""

    min_radius_px: Positive = 4.0
    """Radius of the smallest disc."""

    max_radius_px: Positive = 6.0
    """Radius of the largest disc."""

    edge_px: Positive = 2.0
    """Width of a disc's edge, over which it fades into what lies behind it."""

    min_speed_px: Positive = 0.7
    """Slowest disc, in pixels per frame."""

    max_speed_px: Positive = 1.4
    """Fastest disc, in pixels per frame."""

    def __post_init__(self) -> None:
        WorldConfig.__post_init__(self)
        if not 1 <= self.num_discs <= NUM_DISC_COLORS:
            raise DataError(
                f"num_discs={self.num_discs} must lie between 1 and the {NUM_DISC_COLORS} colours there are"
            )
        for name, low, high in (
            ("radius_px", self.min_radius_px, self.max_radius_px),
            ("speed_px", self.min_speed_px, self.max_speed_px),
        ):
            if not 0 < low <= high:
                raise DataError(f"min_{name}={low} must be greater than 0 and at most max_{name}={high}")
        if self.edge_px <= 0:
            raise DataError(f"edge_px={self.edge_px} must be greater than 0")
        if 2 * self.max_radius_px >= min(self.height_px, self.width_px):
            raise DataError(
                f"max_radius_px={self.max_radius_px} leaves a disc no room to move in "
                f"{self.width_px}x{self.height_px} px; use a smaller disc or a larger picture"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class RoomConfig(WorldConfig):
    """The room with a free camera (`cosmos_data.simulate.room`)."""

    scenes: Literal["fixed", "random"] = "fixed"
    """fixed: one room for all clips, that of scene_seed. random: each clip has a room of its own."""

    scene_seed: Annotated[int, Ge(0)] = 0
    """Which fixed room: its colours and its spheres."""

    num_spheres: Annotated[int, Interval(ge=0, le=NUM_SPHERE_COLORS)] = 4
    """Spheres in the room."""

    field_of_view_deg: Annotated[float, Interval(ge=20, le=120)] = 75.0
    """Angle that the camera sees from left to right, in degrees."""

    knot_frames: Count = 8
    """The camera changes its course every so many frames, smoothly."""

    step_m: Annotated[float, Interval(ge=0, le=1.5)] = 0.45
    """Longest way of the camera from one change of course to the next along each axis, in metres."""

    turn_deg: Annotated[float, Interval(ge=0, le=60)] = 20.0
    """Largest turn of the camera to a side from one change of course to the next, in degrees."""

    def __post_init__(self) -> None:
        WorldConfig.__post_init__(self)
        if not 0 <= self.num_spheres <= NUM_SPHERE_COLORS:
            raise DataError(
                f"num_spheres={self.num_spheres} must be from 0 to the {NUM_SPHERE_COLORS} colours there are"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class PusherConfig(WorldConfig):
    """A hand that pushes discs or blocks over a table, in closed form (`cosmos_data.simulate.pusher`). Lengths are in
    widths of the table, which fills the picture: the same seed is the same world at every size."""

    shape: Literal["disc", "block"] = "disc"
    """What is pushed: discs, or square blocks that do not turn."""

    num_objects: Annotated[int, Interval(ge=1, le=2)] = 1
    """Things on the table that can be pushed, each of a colour of its own."""

    hand_radius: Annotated[float, Interval(gt=0, le=0.15)] = 0.07
    """Radius of the hand."""

    object_radius: Annotated[float, Interval(gt=0, le=0.15)] = 0.12
    """Radius of a disc, or half the side of a block."""

    max_speed: Annotated[float, Interval(gt=0, le=0.1)] = 0.06
    """Longest way of the hand from one frame to the next."""

    policy: Literal["random", "scripted", "task"] = "random"
    """random: the hand goes to and fro, often through a thing that it then pushes, and stands still at times. scripted:
    it pushes one thing after the other, each from a side. task: it pushes one thing one way and then stands still, and
    the caption says so; the first frame tells nothing of the task."""

    task: Literal["random", "left", "right", "up", "down"] = "random"
    """Which way policy=task pushes: random: another one for each clip. Clips that differ in it alone have the same
    first frame."""

    def __post_init__(self) -> None:
        WorldConfig.__post_init__(self)
        room = min(1, self.height_px / self.width_px) - 2 * (2 * self.hand_radius + self.object_radius)
        if room < 0.1:
            raise DataError(
                f"hand_radius={self.hand_radius} and object_radius={self.object_radius} leave the hand no room around a"
                f" thing on a table of {self.width_px}x{self.height_px} px; make them smaller, or the picture squarer"
            )
        # Places of things lie at least a hand and its way around them from the edges; two lie apart along one side.
        apart = max(1, self.height_px / self.width_px) - 2 * (2 * self.hand_radius + self.object_radius)
        if self.num_objects == 2 and apart < 2 * self.object_radius + 0.15:
            raise DataError(
                f"object_radius={self.object_radius} and hand_radius={self.hand_radius} leave no room for two things"
                f" on a table of {self.width_px}x{self.height_px} px; make them smaller, or use num_objects=1"
            )
        if self.task != "random" and self.policy != "task":
            raise DataError(f"task={self.task} is for policy=task, and policy={self.policy}; use policy=task")


Renderer = Literal["auto", "egl", "osmesa"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MujocoConfig(WorldConfig):
    """Any MuJoCo model (`cosmos_data.simulate.mujoco_world`): its actuators are the dimensions of actions, its cameras
    the views."""

    xml: str = ""
    """Path of the model: MJCF, or URDF that MuJoCo reads."""

    policy: str = "random"
    """random: smooth random controls within their ranges. module:function: a function of (observation, step, generator)
    that returns the controls of a step, one step a frame; see `cosmos_data.simulate.mujoco_policies.Observation`."""

    cameras: tuple[str, ...] = ()
    """Names of the model's cameras to film with, the first one's view first; none: all of them."""

    initial_noise: Annotated[float, Interval(ge=0, le=10)] = 0.0
    """How far each hinge and slide begins from the model's own beginning, at most, in radians or metres."""

    renderer: Renderer = "auto"
    """The library that draws: auto: EGL, or OSMesa where EGL is not there. Pictures of two renderers may differ in last
    digits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TableConfig(WorldConfig):
    """A hand that pushes blocks with real contact, in MuJoCo (`cosmos_data.simulate.mujoco_table`). The table is 1 m
    wide."""

    num_blocks: Annotated[int, Interval(ge=1, le=3)] = 1
    """Blocks on the table, each of a colour of its own."""

    max_speed_m: Annotated[float, Interval(gt=0, le=0.1)] = 0.03
    """Longest way of the hand from one frame to the next, in metres."""

    policy: str = "random"
    """random: to and fro, often through a block, at times still. scripted: pushes one block after the other from a
    side. module:function: as mujoco.policy."""

    renderer: Renderer = "auto"
    """As mujoco.renderer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmConfig(WorldConfig):
    """An arm of three joints with a gripper, blocks and three cameras, in MuJoCo
    (`cosmos_data.simulate.mujoco_arm`)."""

    num_frames: Count = 49
    """Frames of a clip; its script takes 43."""

    num_blocks: Annotated[int, Interval(ge=1, le=3)] = 2
    """Blocks in reach of the arm, each of a colour of its own."""

    policy: str = "scripted"
    """scripted: grasps a block and carries it elsewhere, which the caption says. random: smooth random controls.
    module:function: as mujoco.policy."""

    cameras: tuple[str, ...] = ("front", "side", "top")
    """Views to film, the first one first."""

    renderer: Renderer = "auto"
    """As mujoco.renderer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldsConfig:
    """All simulated worlds: each field is called as its world is on the command line."""

    discs: DiscsConfig = field(default_factory=DiscsConfig)
    """Discs that bounce off the walls."""

    room: RoomConfig = field(default_factory=RoomConfig)
    """A room with a free camera."""

    pusher: PusherConfig = field(default_factory=PusherConfig)
    """A hand that pushes discs or blocks, seen from above."""

    table: TableConfig = field(default_factory=TableConfig)
    """A hand that pushes blocks with real contact, in MuJoCo."""

    arm: ArmConfig = field(default_factory=ArmConfig)
    """An arm with a gripper and several views, in MuJoCo."""

    mujoco: MujocoConfig = field(default_factory=MujocoConfig)
    """Any model and policy, in MuJoCo."""


WORLD_NAMES = tuple(world.name for world in fields(WorldsConfig))


def name_of(config: WorldConfig) -> str:
    """Return what the world of a configuration is called."""
    return next(world.name for world in fields(WorldsConfig) if world.type is type(config))
