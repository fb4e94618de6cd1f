"""What `cosmos-train sample` is asked for, checked before torch is imported."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cosmos_train.config.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Future:
    """One video: another seed, or another camera path or other actions."""

    name: str
    """Of its files."""
    seed: int
    camera: str | None = None
    actions: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleRequest:
    """One prompt and at most one input: each seed is another video of them, and so is each condition."""

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
    cameras: Sequence[str] = ()
    """Camera paths (cosmos_data.steering.camera_path), one for all videos or one for each."""
    actions: Sequence[str] = ()
    """Likewise actions (cosmos_data.steering.action_file)."""
    keys_path: Path | None = None
    """What the keys of a string of keys stand for."""
    embodiment: str | None = None
    """Whose actions they are, of a model that knows several."""
    draw_conditions: bool = False
    """Draw camera path and actions onto the videos."""
    adapters: Sequence[str] = ()
    """FILE or FILE=STRENGTH of adapters that are added to the model."""
    alpha: float | None = None
    """The alpha is taken for those that do not say it."""
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
        given = {len(self.cameras), len(self.actions)} - {0, 1}
        if len(given) > 1:
            raise ConfigError(
                f"{len(self.cameras)} --camera and {len(self.actions)} --actions do not belong together; give one for "
                "all videos, or as many of both"
            )
        if given and self.num_videos > 1:
            raise ConfigError(
                f"--num-videos {self.num_videos} asks for futures of several seeds, and several --camera or --actions "
                "are futures of one; leave --num-videos out"
            )
        has_any = bool(self.cameras or self.actions)
        for option, is_given, needed, is_there in (
            ("--keys", self.keys_path is not None, "--actions", bool(self.actions)),
            ("--embodiment", self.embodiment is not None, "--actions", bool(self.actions)),
            ("--alpha", self.alpha is not None, "--adapter", bool(self.adapters)),
            ("--draw-conditions", self.draw_conditions, "--camera or --actions", has_any),
        ):
            if is_given and not is_there:
                raise ConfigError(f"{option} is about {needed}, which is not given; leave it out")

    @property
    def futures(self) -> list[Future]:
        """Return the videos: one for each seed, or, of several conditions, one for each of them with the one seed."""
        cameras, actions = self.cameras or [None], self.actions or [None]
        count = max(len(cameras), len(actions))
        if count == 1:
            seeds = range(self.seed, self.seed + self.num_videos)
            return [Future(name=f"seed-{seed:04d}", seed=seed, camera=cameras[0], actions=actions[0]) for seed in seeds]
        return [
            Future(
                name=f"future-{number:02d}",
                seed=self.seed,
                camera=cameras[number % len(cameras)],
                actions=actions[number % len(actions)],
            )
            for number in range(count)
        ]
