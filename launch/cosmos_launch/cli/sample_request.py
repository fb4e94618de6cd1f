"""What `cosmos-train sample` is asked for, checked before torch is imported."""

import math
from dataclasses import dataclass
from pathlib import Path

from cosmos_train.config.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleRequest:
    """One prompt and at most one input: each seed is another video of them."""

    prompt: str = ""
    input_path: Path | None = None
    """Video or image whose first frames are the condition."""
    crop_input: bool = False
    """Cut the middle out of an input of another size and scale it, as training windows are; else that is an error."""
    seed: int = 0
    """Seed of the first video; the others have the following ones."""
    num_videos: int = 1
    num_frames: int | None = None
    """Pixel frames of each video; the length that the model was trained at where it is not said."""
    fps: float | None = None
    """Frames per second; the training data's where it is not said."""
    num_ranks: int = 1
    """Processes to start here."""

    def __post_init__(self) -> None:
        for option, value in (
            ("--num-videos", self.num_videos),
            ("--num-frames", self.num_frames),
            ("--nproc", self.num_ranks),
        ):
            if value is not None and value < 1:
                raise ConfigError(f"{option} {value} must be at least 1")
        if self.seed < 0:
            raise ConfigError(f"--seed {self.seed} must be 0 or more")
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise ConfigError(f"--fps {self.fps} must be greater than 0")
        if self.crop_input and self.input_path is None:
            raise ConfigError("--crop is about the frames of --input, which is not given; leave it out")
