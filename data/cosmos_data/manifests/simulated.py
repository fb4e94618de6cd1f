"""A small simulated world: coloured discs that fly straight and bounce off the walls, made from a seed.

Where a disc goes shows only from one frame to the next, so more frames tell more of the future; and all of it follows
from a few numbers drawn once, so a model can learn it in minutes. `write_world` gives a folder of videos with a
manifest as real footage has one, whose held-out clips are of seeds that no training clip has.

    folder/
      manifest.arrow
      train/000000.avi, .txt ...      one video and its caption for each seed
      heldout/...

A disc's place is a closed form of time, so frame t costs the same whichever frames came before it.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cosmos_data.errors import DataError
from cosmos_data.manifests.build import build_manifest
from cosmos_data.manifests.manifest import Manifest, Split
from cosmos_data.videos.written_codecs import ENCODINGS, PackCodec, encode_pictures

COLORS_RGB = {
    "red": (0.9, 0.2, 0.2),
    "green": (0.2, 0.8, 0.3),
    "blue": (0.25, 0.35, 0.95),
    "yellow": (0.95, 0.85, 0.2),
    "white": (0.95, 0.95, 0.95),
}
BACKGROUND_RGB = (0.1, 0.1, 0.12)
FIRST_HELDOUT_SEED = 1_000_000
"""Training clips have the seeds 0, 1, ...; held-out ones these."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldConfig:
    """Sizes of the world. Lengths in pixels, times in frames."""

    height_px: int = 32
    width_px: int = 32
    num_frames: int = 33
    fps: float = 24.0
    num_discs: int = 2
    min_radius_px: float = 4.0
    max_radius_px: float = 6.0
    edge_px: float = 2.0
    """Width of a disc's edge, over which it fades into what lies behind it."""
    min_speed_px: float = 0.7
    """Slowest disc, in pixels per frame."""
    max_speed_px: float = 1.4

    def __post_init__(self) -> None:
        if not 1 <= self.num_discs <= len(COLORS_RGB):
            raise DataError(
                f"num_discs={self.num_discs} must lie between 1 and the {len(COLORS_RGB)} colours there are"
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


@dataclass(frozen=True, slots=True)
class Disc:
    """One disc, as it starts."""

    color: str
    radius_px: float
    place_px: tuple[float, float]
    """Centre in frame 0, down and right of the upper left corner."""
    velocity_px: tuple[float, float]
    """Per frame, down and right."""

    def place_at(self, frame: float, config: WorldConfig) -> tuple[float, float]:
        """Centre after `frame` frames: straight flight, folded back at the walls."""
        down, right = (
            _folded(start + speed * frame, self.radius_px, side - self.radius_px)
            for start, speed, side in zip(
                self.place_px, self.velocity_px, (config.height_px, config.width_px), strict=True
            )
        )
        return down, right


def discs_of(seed: int, config: WorldConfig) -> tuple[Disc, ...]:
    """The discs of a seed; later ones pass in front of earlier ones, and no two have one colour."""
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


def caption_of(seed: int, config: WorldConfig) -> str:
    """What is seen, without where it goes: `a red disc and a blue disc`."""
    return " and ".join(f"a {disc.color} disc" for disc in discs_of(seed, config))


def render(seed: int, config: WorldConfig) -> Tensor:
    """uint8 [3, T, H, W] of a seed, with smooth edges a pixel wide."""
    rows = torch.arange(config.height_px, dtype=torch.float64)[:, None] + 0.5
    columns = torch.arange(config.width_px, dtype=torch.float64) + 0.5
    background_3HW = torch.tensor(BACKGROUND_RGB, dtype=torch.float64)[:, None, None]
    video = []
    for frame in range(config.num_frames):
        picture_3HW = background_3HW.expand(3, config.height_px, config.width_px)
        for disc in discs_of(seed, config):
            down, right = disc.place_at(frame, config)
            distance_HW = torch.hypot(rows - down, columns - right)
            coverage_HW = ((disc.radius_px - distance_HW) / config.edge_px + 0.5).clamp(0, 1)
            color_3HW = torch.tensor(COLORS_RGB[disc.color], dtype=torch.float64)[:, None, None]
            picture_3HW = torch.lerp(picture_3HW, color_3HW.expand_as(picture_3HW), coverage_HW)
        video.append((255 * picture_3HW).round().to(torch.uint8))
    return torch.stack(video, dim=1)


def write_world(
    folder: str | Path,
    config: WorldConfig,
    *,
    num_train: int,
    num_heldout: int,
    codec: PackCodec = "mjpeg",
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Write the folder above and return its manifest: one clip for each seed. The folder is complete or absent.

    progress: called with (videos written, videos in all).
    Raises `DataError` if the folder exists or there would be no training clip.
    """
    folder = Path(folder).absolute()
    if folder.exists():
        raise DataError(f"{folder} exists already; choose another folder, or remove it")
    if num_train < 1 or num_heldout < 0:
        raise DataError(f"num_train={num_train} must be at least 1 and num_heldout={num_heldout} at least 0")
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    seeds: dict[Split, range] = {
        "train": range(num_train),
        "heldout": range(FIRST_HELDOUT_SEED, FIRST_HELDOUT_SEED + num_heldout),
    }
    every = list[tuple[Split, int]]()
    for split, of_split in seeds.items():
        every += [(split, seed) for seed in of_split]
    for number, (split, seed) in enumerate(every, start=1):
        path = aside / split / f"{seed:06d}{ENCODINGS[codec].suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        pictures = render(seed, config).unbind(dim=1)
        encode_pictures(pictures, path, config.fps, config.height_px, config.width_px, codec)
        path.with_suffix(".txt").write_text(caption_of(seed, config), encoding="utf-8")
        if progress is not None:
            progress(number, len(every))
    clips = build_manifest(aside, config.num_frames, None, max_bad_share=0.0).manifest
    in_split = tuple(replace(clip, split="heldout") if clip.clip_id.startswith("heldout/") else clip for clip in clips)
    Manifest(in_split).write(aside / "manifest.arrow")
    aside.rename(folder)
    return Manifest.read(folder / "manifest.arrow")


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share


def _folded(value: float, low: float, high: float) -> float:
    """A straight line as it goes to and fro between two walls."""
    there_and_back = (value - low) % (2 * (high - low))
    return low + min(there_and_back, 2 * (high - low) - there_and_back)
