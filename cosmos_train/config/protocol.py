"""How a tokenizer is evaluated: what the YAML files of configs/evaluate fill."""

from dataclasses import dataclass
from typing import Literal

from cosmos_tok.config import PaddingPolicy, SsimWindow


@dataclass(frozen=True, kw_only=True, slots=True)
class ProtocolConfig:
    """What of each clip is coded, how, and what is computed of it. The defaults take all of any clip as it is."""

    short_side_px: int | None = None
    """Shrink larger pictures until their shorter side has so many pixels; null leaves all as they are."""
    first_frames: int | None = None
    """Take so many frames from each clip's start; null takes all."""
    first_sec: float | None = None
    """Take so many seconds where these are more than first_frames."""
    window_frames: int | None = None
    """Code so many frames together and every window by itself; null codes a clip as a whole."""
    padding: PaddingPolicy = "edge"
    """What surrounds windows that the tokenizer does not take as they are: edge, black or official."""
    ssim_window: SsimWindow = "gaussian"
    """gaussian: 11 x 11 of deviation 1.5. uniform: 7 x 7, as scikit-image computes it by default."""
    feature_frames: int = 300
    """Frames of each clip that the network of the Fréchet video distance sees at most."""
    split: Literal["heldout", "train", "all"] = "heldout"
    """Which of a manifest's clips; a folder's are all taken."""
    max_clips: int | None = None
    """Take so many clips at most, evenly spread; null takes all."""
    pictures_fps: float = 24.0
    """Frames per second of clips that are folders of pictures."""

    def __post_init__(self) -> None:
        counts = {
            "short_side_px": self.short_side_px,
            "first_frames": self.first_frames,
            "window_frames": self.window_frames,
            "feature_frames": self.feature_frames,
            "max_clips": self.max_clips,
        }
        for key, count in counts.items():
            if count is not None and count < 1:
                raise ValueError(f"{key}={count} is not a positive count; use 1 or more")
        if self.pictures_fps <= 0:
            raise ValueError(f"pictures_fps={self.pictures_fps} must be greater than 0")
        if self.first_sec is not None and (self.first_frames is None or self.first_sec <= 0):
            raise ValueError(
                f"first_sec={self.first_sec} with first_frames={self.first_frames}: it is a positive number of seconds "
                "beside first_frames; set both, or neither"
            )

    def num_frames(self, num_frames: int, fps: float) -> int:
        """Frames that are taken of a clip of so many."""
        if self.first_frames is None:
            return num_frames
        of_time = 0 if self.first_sec is None else -int(-self.first_sec * fps // 1)
        return min(num_frames, max(self.first_frames, of_time))
