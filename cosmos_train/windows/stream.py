"""What streams of windows have alike, whatever their windows come from.

C latent channels; T, H, W latent frames, rows, columns; S text tokens; E width of a text state.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from cosmos_data.caches.encoded import EncodedWindow
from cosmos_tok.whitening import LatentStatistics

Kind = Literal["image", "video"]
KINDS: tuple[Kind, Kind] = ("image", "video")
Shape = tuple[int, ...]
"""[C, T, H, W]"""


@dataclass(frozen=True, slots=True)
class WindowBatch:
    """The windows of a micro-batch, all of one kind and shape."""

    kind: Kind
    windows: list[EncodedWindow]
    numbers: Sequence[int]
    """A window's place among all windows of this kind's steps, by which its randomness is drawn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowFacts:
    """Says what is known of all windows of a stream before one is read."""

    where: str
    """What they come from, as messages name it."""
    shapes: Mapping[Shape, Fraction]
    """[C, T, H, W] of windows, and their share of all. The windows of a step have one shape."""
    num_pixel_frames: int
    """Frames of every window."""
    fps: float
    """Frames per second of one of them."""
    num_codes: int | None
    """Codes of the tokenizer, or as many as are known to be used; None: windows are latents and no codes."""
    text_width: int | None
    """E; None where the encoder alone knows it."""
    statistics: LatentStatistics | None
    """What latents are whitened with."""

    @property
    def num_frames(self) -> int:
        """Latent frames of every window."""
        return next(iter(self.shapes))[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where the windows of a run come from."""

    tokenizer_digest: str
    manifest_digest: str = ""
    """Empty: the run does not say."""
    fps: float
    """Frames per second of one of them."""
    latent_shape: Shape | None = None
    """[C, T, H, W] of those that the model is sampled at; None: as the data section and the tokenizer have it."""
    text_precision: str = ""
    """What the run itself encodes texts in; empty where it does not, or in fp32 without saying so."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """They decide besides which windows a run takes that encodes them itself, by key of the configuration."""


class WindowStream(Protocol):
    """The windows of one kind in the run's order, which has no end; their places are counted from 0."""

    digest: str
    """Names what places point into."""
    facts: WindowFacts
    origin: Origin
    """A run keeps this of them (cosmos_train.windows.kept)."""

    def windows(self, place_lists: Iterable[Sequence[int]]) -> Iterator[list[EncodedWindow]]:
        """Yield those at these places, a list after the other. It is called on every rank, with its own samples."""
        ...


def stack_latents(windows: Sequence[EncodedWindow]) -> Tensor:
    """[B, C, T, H, W], as the tokenizer gave them."""
    return torch.stack([window.z_CTHW for window in windows])


def stack_text(windows: Sequence[EncodedWindow], max_tokens: int) -> Tensor:
    """[B, S, E]: text states followed by zeros, as the model sees every prompt."""
    return torch.stack([F.pad(window.text_SE, (0, 0, 0, max_tokens - len(window.text_SE))) for window in windows])
