"""What a simulated world makes of a seed: a clip's views, its caption, its conditions and its labels."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from cosmos_data.manifests.conditions import Action, Camera
from cosmos_data.simulate.config import WorldConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedView:
    """One camera's pictures and what is known of each pixel."""

    pictures_THW3: np.ndarray
    """uint8 RGB."""

    name: str = ""
    """Of the camera, where the clip has several."""

    camera: Camera | None = None
    depth_m_THW: np.ndarray | None = None
    """float32: how far ahead of the camera, along its axis, what the centre of the pixel shows is; infinite where it
    shows nothing."""

    instances_THW: np.ndarray | None = None
    """uint8: which thing the centre of the pixel shows, a place in `SimulatedClip.instance_names`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedClip:
    """One clip of a simulated world."""

    views: tuple[SimulatedView, ...]
    fps: float
    caption: str
    action: Action | None = None
    state: Action | None = None
    """What a robot would know of itself: the manifest's column of that name."""

    instance_names: tuple[str, ...] = ()
    """Name of each number in `instances_THW`."""

    states: Mapping[str, np.ndarray] = field(default_factory=dict)
    """The state of the world in each frame, by name: arrays whose first axis is T."""


class World(Protocol):
    """A world gives the same clip for the same seed, whoever asks."""

    @property
    def config(self) -> WorldConfig: ...

    def clip(self, seed: int) -> SimulatedClip: ...
