"""How a tokenizer is evaluated: what the YAML files of configs/evaluate fill."""

from dataclasses import dataclass
from typing import Literal

from cosmos_tok.config import PaddingPolicy, SsimWindow
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.ranges import Count, Positive, check_ranges


@dataclass(frozen=True, kw_only=True, slots=True)
class ProtocolConfig:
    """What of each clip is coded, how, and what is computed of it. The defaults take all of any clip as it is."""

    short_side_px: Count | None = None
    """Shrink larger pictures until their shorter side has so many pixels; null leaves all as they are."""
    first_frames: Count | None = None
    """Take so many frames from each clip's start; null takes all."""
    first_sec: Positive | None = None
    """Take so many seconds where these are more than first_frames."""
    window_frames: Count | None = None
    """Code so many frames together and every window by itself; null codes a clip as a whole."""
    padding: PaddingPolicy = "edge"
    """What surrounds windows that the tokenizer does not take as they are: edge, black or official."""
    ssim_window: SsimWindow = "gaussian"
    """gaussian: 11 x 11 of deviation 1.5. uniform: 7 x 7, as scikit-image computes it by default."""
    feature_frames: Count = 300
    """Frames of each clip that the network of the Fréchet video distance sees at most."""
    split: Literal["heldout", "train", "all"] = "heldout"
    """Which of a manifest's clips; a folder's are all taken."""
    max_clips: Count | None = None
    """Take so many clips at most, evenly spread; null takes all."""
    pictures_fps: Positive = 24.0
    """Frames per second of clips that are folders of pictures."""

    def __post_init__(self) -> None:
        check_ranges(self, "")
        if self.first_sec is not None and self.first_frames is None:
            raise ConfigError(
                f"first_sec={self.first_sec} without first_frames: it is what is taken where that is more than these "
                "frames; set both, or neither"
            )

    def num_frames(self, num_frames: int, fps: float) -> int:
        """Frames that are taken of a clip of so many."""
        if self.first_frames is None:
            return num_frames
        of_time = 0 if self.first_sec is None else -int(-self.first_sec * fps // 1)
        return min(num_frames, max(self.first_frames, of_time))
