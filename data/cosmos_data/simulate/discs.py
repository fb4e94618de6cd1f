"""A small simulated world: coloured discs that fly straight and bounce off the walls, made from a seed.

Where a disc goes shows only from one frame to the next, so more frames tell more of the future; and all of it follows
from a few numbers drawn once, so a model can learn it in minutes.

A disc's place is a closed form of time, so frame t costs the same whichever frames came before it.
"""

from dataclasses import dataclass

import numpy as np

from cosmos_data.simulate.clips import SimulatedClip, SimulatedView
from cosmos_data.simulate.config import DiscsConfig

COLORS_RGB = {
    "red": (0.9, 0.2, 0.2),
    "green": (0.2, 0.8, 0.3),
    "blue": (0.25, 0.35, 0.95),
    "yellow": (0.95, 0.85, 0.2),
    "white": (0.95, 0.95, 0.95),
}
BACKGROUND_RGB = (0.1, 0.1, 0.12)


@dataclass(frozen=True, slots=True)
class Disc:
    """One disc, as it starts."""

    color: str
    radius_px: float
    place_px: tuple[float, float]
    """Centre in frame 0, down and right of the upper left corner."""
    velocity_px: tuple[float, float]
    """Per frame, down and right."""

    def place_at(self, frame: float, config: DiscsConfig) -> tuple[float, float]:
        """Return the centre after `frame` frames: straight flight, folded back at the walls."""
        down, right = (
            _folded(start + speed * frame, self.radius_px, side - self.radius_px)
            for start, speed, side in zip(
                self.place_px, self.velocity_px, (config.height_px, config.width_px), strict=True
            )
        )
        return down, right


def discs_of(seed: int, config: DiscsConfig) -> tuple[Disc, ...]:
    """Return the discs of a seed; later ones pass in front of earlier ones, and no two have one colour."""
    # Raw words alone: numpy keeps those the same between its versions (see cosmos_data.sample_plan.plan).
    words = np.random.Philox(key=seed).random_raw(6 * config.num_discs)
    uniform = (words >> np.uint64(11)) / 2.0**53
    colors, discs = list(COLORS_RGB), []
    for pick, size, down, right, speed, angle in uniform.reshape(config.num_discs, 6).tolist():
        radius = _between(config.min_radius_px, config.max_radius_px, size)
        magnitude, direction = _between(config.min_speed_px, config.max_speed_px, speed), 2 * np.pi * angle
        discs.append(
            Disc(
                color=colors.pop(int(pick * len(colors))),
                radius_px=radius,
                place_px=(
                    _between(radius, config.height_px - radius, down),
                    _between(radius, config.width_px - radius, right),
                ),
                velocity_px=(magnitude * float(np.sin(direction)), magnitude * float(np.cos(direction))),
            )
        )
    return tuple(discs)


def caption_of(seed: int, config: DiscsConfig) -> str:
    """Return what is seen, without where it goes: `a red disc and a blue disc`."""
    return " and ".join(f"a {disc.color} disc" for disc in discs_of(seed, config))


def render(seed: int, config: DiscsConfig) -> np.ndarray:
    """Return uint8 RGB pictures [T, H, W, 3] of a seed, in which a disc's edge fades into what lies behind it."""
    picture_THW3 = np.empty((config.num_frames, config.height_px, config.width_px, 3))
    picture_THW3[:] = BACKGROUND_RGB
    for disc in discs_of(seed, config):
        coverage_THW = np.clip((disc.radius_px - _distances_px(disc, config)) / config.edge_px + 0.5, 0, 1)
        picture_THW3 += coverage_THW[..., None] * (np.array(COLORS_RGB[disc.color]) - picture_THW3)
    return np.round(255 * picture_THW3).astype(np.uint8)


class Discs:
    """The world `discs`."""

    def __init__(self, config: DiscsConfig) -> None:
        self.config = config

    def clip(self, seed: int) -> SimulatedClip:
        """Return the clip of a seed, with the places [T, discs, 2] of the discs, right and down, in pixels."""
        discs = discs_of(seed, self.config)
        instances_THW = np.zeros((self.config.num_frames, self.config.height_px, self.config.width_px), dtype=np.uint8)
        for number, disc in enumerate(discs, start=1):
            instances_THW[_distances_px(disc, self.config) < disc.radius_px] = number
        places_px = np.stack([_places_px(disc, self.config)[:, ::-1] for disc in discs], axis=1)
        view = SimulatedView(pictures_THW3=render(seed, self.config), instances_THW=instances_THW)
        return SimulatedClip(
            views=(view,),
            fps=self.config.fps,
            caption=caption_of(seed, self.config),
            instance_names=("background", *(f"{disc.color} disc" for disc in discs)),
            states={"discs_px_TN2": places_px},
        )


def _places_px(disc: Disc, config: DiscsConfig) -> np.ndarray:
    """Return [T, 2], down and right."""
    return np.array([disc.place_at(frame, config) for frame in range(config.num_frames)])


def _distances_px(disc: Disc, config: DiscsConfig) -> np.ndarray:
    """Return [T, H, W]: how far the centre of each pixel is from the disc's."""
    down_T, right_T = _places_px(disc, config).T
    rows_H, columns_W = np.arange(config.height_px) + 0.5, np.arange(config.width_px) + 0.5
    down_TH1, right_T1W = (rows_H - down_T[:, None])[:, :, None], (columns_W - right_T[:, None])[:, None]
    return np.sqrt(down_TH1 * down_TH1 + right_T1W * right_T1W)


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share


def _folded(value: float, low: float, high: float) -> float:
    """Fold a straight line, as it goes to and fro between two walls."""
    there_and_back = (value - low) % (2 * (high - low))
    return low + min(there_and_back, 2 * (high - low) - there_and_back)
