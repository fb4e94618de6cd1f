"""Configuration of the tokenizer: frozen dataclasses, checked when made; imports no torch.

The string under a field is its documentation and is read from the source, not at run time. The defaults are those of
the released CV8x8x8-720p tokenizer. Lengths are in frames, sizes in pixels; levels count from the pixel side, from 0.
"""

import math
from dataclasses import dataclass
from typing import Literal

HAAR = 0.7071067811865476  # both numbers of the orthonormal Haar filters
IMAGE_NORM_GROUPS = 32  # an image tokenizer's norms have so many groups; a video tokenizer's have one, per frame
Precision = Literal["fp32", "bf16"]
PaddingPolicy = Literal["edge", "black", "official"]  # see `padding`
SsimWindow = Literal["gaussian", "uniform"]  # see `metrics`


class TokenizerError(ValueError):
    """An input, a configuration or a file that a tokenizer cannot take, with the reason and the remedy."""

    input_is_wrong = True


class NotFiniteError(TokenizerError):
    """Weights or results with NaN or infinity in them: whatever made them has failed, and so has what reads them."""

    input_is_wrong = False


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerConfig:
    media: Literal["video", "image"] = "video"
    """`video` codes 1 + temporal_rate * n frames causally; `image` codes every frame by itself, with 2-D layers."""

    kind: Literal["continuous", "discrete"] = "continuous"
    """`continuous` gives real-valued latents; `discrete` rounds each of them to a finite scalar quantisation code."""

    temporal_rate: int = 8
    """Frames per latent frame after the first, which is coded alone: T frames give 1 + (T - 1) / temporal_rate.

    1 for images."""

    spatial_rate: int = 8
    """Pixels per latent row and per latent column."""

    patch: int = 4
    """Side of the Haar wavelet patch in time, height and width; the network reduces what is left of the rates."""

    channels: int = 128
    """Width of the network: level i has channels * channel_multipliers[i]."""

    channel_multipliers: tuple[int, ...] = (2, 4, 4)
    """Width of each level in units of `channels`; between two levels there is a place to reduce the resolution."""

    num_res_blocks: int = 2
    """Residual blocks per encoder level; a decoder level has one more."""

    z_channels: int = 16
    """Channels between the encoder and the 1x1x1 convolution in front of the latents, and the same in the decoder."""

    latent_channels: int = 16
    """Channels of what `encode` returns; of a discrete tokenizer, the number of `fsq_levels`."""

    fsq_levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5)
    """Values that each code channel can take; read by discrete tokenizers only."""

    extra_resampling: bool = False
    """Create all three convolutions at every resampling place, used or not: only to load files of the 0.1 release."""

    legacy_upsampling: bool = False
    """Double time at the decoder's innermost places, as `legacy_mode` of the official code does: only to load files."""

    encoder_attention: tuple[int, ...] = ()
    """Encoder levels with attention after each residual block; no released tokenizer has one outside the middle."""

    decoder_attention: tuple[int, ...] = ()
    """The same of the decoder, whose levels count from the pixel side too."""

    wavelet: float = HAAR
    """Both numbers of the Haar filters. Files whose buffers went through bfloat16 carry 0.70703125, which scales."""

    def __post_init__(self) -> None:
        if self.media not in ("video", "image"):
            raise TokenizerError(f"tokenizer.media={self.media} is not a medium; use video or image")
        if self.kind not in ("continuous", "discrete"):
            raise TokenizerError(f"tokenizer.kind={self.kind} is not a kind of tokenizer; use continuous or discrete")
        _require_positive("channels", self.channels)
        _require_positive("num_res_blocks", self.num_res_blocks)
        _require_positive("z_channels", self.z_channels)
        _require_positive("latent_channels", self.latent_channels)
        _require_positive("channel_multipliers", *self.channel_multipliers)
        _require_power_of_two("patch", self.patch)
        _require_power_of_two("temporal_rate", self.temporal_rate)
        _require_power_of_two("spatial_rate", self.spatial_rate)
        if self.media == "image":
            self._check_image()
        self._check_resampling()
        for key, levels in (
            ("encoder_attention", self.encoder_attention),
            ("decoder_attention", self.decoder_attention),
        ):
            if not set(levels) <= set(range(len(self.channel_multipliers))):
                raise TokenizerError(
                    f"tokenizer.{key}={levels} names a level that is not there; "
                    f"use numbers from 0 to {len(self.channel_multipliers) - 1}"
                )
        if not 0.5 < self.wavelet < 1.0:
            raise TokenizerError(f"tokenizer.wavelet={self.wavelet} is no rounding of {HAAR}; leave it out")
        if self.kind == "discrete":
            self._check_codes()
        elif self.fsq_levels:
            _require_positive("fsq_levels", *self.fsq_levels)

    def _check_image(self) -> None:
        if self.temporal_rate != 1:
            raise TokenizerError(f"tokenizer.temporal_rate={self.temporal_rate}, but media=image has no time; use 1")
        if self.extra_resampling or self.legacy_upsampling:
            raise TokenizerError(
                "tokenizer.extra_resampling and tokenizer.legacy_upsampling belong to video; media=image takes neither"
            )
        if any(width % IMAGE_NORM_GROUPS for width in (self.channels, *self.widths)):
            raise TokenizerError(
                f"tokenizer.channels={self.channels} with multipliers {self.channel_multipliers} gives the widths "
                f"{(self.channels, *self.widths)}, but the norms of media=image have {IMAGE_NORM_GROUPS} groups; "
                f"use multiples of {IMAGE_NORM_GROUPS}"
            )

    def _check_resampling(self) -> None:
        rate = self.spatial_rate if self.media == "image" else min(self.temporal_rate, self.spatial_rate)
        if rate < self.patch:
            raise TokenizerError(
                f"tokenizer.patch={self.patch} is larger than the smallest rate {rate}, and the patch alone reduces by "
                f"that much; use a patch of at most {rate}"
            )
        needed = self._num_resamplings()
        for part, plan in (("encoder", self.downsampling), ("decoder", self.upsampling)):
            found = sum(spatial for spatial, _ in plan), sum(temporal for _, temporal in plan)
            if found != needed:
                raise TokenizerError(
                    f"tokenizer.temporal_rate={self.temporal_rate} and spatial_rate={self.spatial_rate} with "
                    f"patch={self.patch} need {needed[0]} resamplings in space and {needed[1]} in time, but the {part} "
                    f"with {len(self.channel_multipliers)} levels has {found[0]} and {found[1]}; use rates and patch "
                    f"of a released tokenizer: 8x8x8 or 8x16x16 with patch 4, 4x8x8 with patch 2 or 4"
                )

    def _check_codes(self) -> None:
        if not self.fsq_levels or min(self.fsq_levels) < 2:
            raise TokenizerError(
                f"tokenizer.fsq_levels={self.fsq_levels} has a channel with fewer than 2 values; "
                f"use at least one channel and 2 or more values in each, e.g. 8,8,8,5,5,5"
            )
        if self.latent_channels != len(self.fsq_levels):
            raise TokenizerError(
                f"tokenizer.latent_channels={self.latent_channels} differs from the {len(self.fsq_levels)} channels of "
                f"tokenizer.fsq_levels={self.fsq_levels}; set latent_channels to {len(self.fsq_levels)}"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.channels * multiplier for multiplier in self.channel_multipliers)

    @property
    def num_places(self) -> int:
        """Places where the resolution may change: between two levels, and for images after the last one too."""
        return len(self.channel_multipliers) - (self.media == "video")

    @property
    def downsampling(self) -> tuple[tuple[bool, bool], ...]:
        """(spatial, temporal) after encoder level i, for every place: the outermost ones come first."""
        num_spatial, num_temporal = self._num_resamplings()
        return tuple((i < num_spatial, i < num_temporal) for i in range(self.num_places))

    @property
    def upsampling(self) -> tuple[tuple[bool, bool], ...]:
        """(spatial, temporal) after the r-th decoder level that is run, r = 0 being the innermost.

        Not the mirror image of `downsampling`: time is never doubled at r = 0, which the released weights rely on,
        unless `legacy_upsampling` says so.
        """
        num_spatial, num_temporal = self._num_resamplings()
        plan = []
        for r in range(self.num_places):
            temporal = r < num_temporal if self.legacy_upsampling else 0 < r <= num_temporal
            plan.append((temporal or (r < num_spatial and num_spatial > num_temporal), temporal))
        return tuple(plan)

    def _num_resamplings(self) -> tuple[int, int]:
        num_spatial = int(math.log2(self.spatial_rate // self.patch))
        return num_spatial, 0 if self.media == "image" else int(math.log2(self.temporal_rate // self.patch))

    @property
    def wavelet_gain(self) -> float:
        """What filters of `wavelet` multiply the patches by, and again the video made of them; 1 for exact filters."""
        axes, levels = (2 if self.media == "image" else 3), int(math.log2(self.patch))
        return 1.0 if self.wavelet == HAAR else (self.wavelet / HAAR) ** (axes * levels)

    @property
    def codebook_size(self) -> int:
        """Number of different codes of a discrete tokenizer."""
        if self.kind != "discrete":
            raise TokenizerError(f"tokenizer.kind={self.kind} has no codebook; use a discrete tokenizer")
        return math.prod(self.fsq_levels)

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames of a clip of `num_frames` frames; ValueError unless num_frames = 1 + temporal_rate * n."""
        groups, rest = divmod(num_frames - 1, self.temporal_rate)
        if num_frames < 1 or rest:
            lower = max(1, num_frames - rest)
            raise TokenizerError(
                f"num_frames={num_frames} is not 1 + {self.temporal_rate} * n; "
                f"use {lower if num_frames < 1 else f'{lower} or {lower + self.temporal_rate}'}"
            )
        return 1 + groups

    def pixel_frames(self, latent_frames: int) -> int:
        """Frames of a clip with `latent_frames` latent frames, the inverse of `latent_frames`."""
        if latent_frames < 1:
            raise TokenizerError(f"latent_frames={latent_frames} is not positive; use at least 1")
        return 1 + (latent_frames - 1) * self.temporal_rate

    def latent_size(self, height_px: int, width_px: int) -> tuple[int, int]:
        """Latent rows and columns of a frame; ValueError unless both sides are multiples of spatial_rate."""
        rate = self.spatial_rate
        for key, value in (("height_px", height_px), ("width_px", width_px)):
            if value < 1 or value % rate:
                lower = value - value % rate
                raise TokenizerError(
                    f"{key}={value} is not a positive multiple of tokenizer.spatial_rate={rate}; "
                    f"use {f'{lower} or {lower + rate}' if lower > 0 else rate}"
                )
        return height_px // rate, width_px // rate


def _require_positive(key: str, *values: int) -> None:
    if not values or min(values) < 1:
        raise TokenizerError(f"tokenizer.{key}={','.join(map(str, values))} is not positive; use at least 1")


def _require_power_of_two(key: str, value: int) -> None:
    if value < 1 or value & (value - 1):
        lower = 2 ** (value.bit_length() - 1) if value > 0 else 1
        raise TokenizerError(f"tokenizer.{key}={value} is not a power of two; use {lower} or {2 * lower}")
