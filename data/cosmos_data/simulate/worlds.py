"""A world is opened by its configuration."""

from functools import lru_cache

from cosmos_data.simulate.clips import World
from cosmos_data.simulate.config import DiscsConfig, PusherConfig, RoomConfig, WorldConfig
from cosmos_data.simulate.discs import Discs
from cosmos_data.simulate.pusher import Pusher
from cosmos_data.simulate.room import Room


@lru_cache(maxsize=4)
def open_world(config: WorldConfig) -> World:
    """Return the world that has this configuration; one world for equal ones, since opening may be slow."""
    match config:
        case DiscsConfig():
            return Discs(config)
        case RoomConfig():
            return Room(config)
        case PusherConfig():
            return Pusher(config)
    raise TypeError(f"{type(config).__name__} is the configuration of no world")
