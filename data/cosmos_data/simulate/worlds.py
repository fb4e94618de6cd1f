"""A world is opened by its configuration."""

from functools import lru_cache
from pathlib import Path

from cosmos_data.location import file_sha256
from cosmos_data.simulate.clips import World
from cosmos_data.simulate.config import (
    ArmConfig,
    DiscsConfig,
    MujocoConfig,
    PusherConfig,
    RoomConfig,
    TableConfig,
    WorldConfig,
)
from cosmos_data.simulate.discs import Discs
from cosmos_data.simulate.pusher import Pusher
from cosmos_data.simulate.renderers import found_renderer
from cosmos_data.simulate.room import Room


def open_world(config: WorldConfig) -> World:
    """Return the world that has this configuration; one world for equal ones, since opening may be slow.

    Raises:
        DataError: it is MuJoCo's, and MuJoCo, a renderer or the model is missing.
    """
    if isinstance(config, MujocoConfig) and Path(config.xml).is_file():
        return _opened(config, file_sha256(Path(config.xml)))
    return _opened(config, "")


@lru_cache(maxsize=4)
def _opened(config: WorldConfig, xml_sha256: str) -> World:
    """xml_sha256: of the model's file, which may change under its name."""
    match config:
        case DiscsConfig():
            return Discs(config)
        case RoomConfig():
            return Room(config)
        case PusherConfig():
            return Pusher(config)
        case TableConfig() | ArmConfig() | MujocoConfig():
            return _mujoco_world(config)
    raise TypeError(f"{type(config).__name__} is the configuration of no world")


def _mujoco_world(config: TableConfig | ArmConfig | MujocoConfig) -> World:
    """Import MuJoCo, which is optional, and what needs it."""
    renderer = found_renderer(config.renderer)
    from cosmos_data.simulate.mujoco_arm import ArmStage
    from cosmos_data.simulate.mujoco_table import TableStage
    from cosmos_data.simulate.mujoco_world import MujocoWorld, XmlStage

    match config:
        case TableConfig():
            return MujocoWorld(config, TableStage(config), (), renderer)
        case ArmConfig():
            return MujocoWorld(config, ArmStage(config), config.cameras, renderer)
        case MujocoConfig():
            return MujocoWorld(config, XmlStage(config), config.cameras, renderer)
