"""The causal video tokenizer: Haar patches, a convolutional encoder and decoder, continuous or discrete latents.

    video [B, 3, 1 + r_t n, H, W] in [-1, 1]  --encode-->  z [B, C, 1 + n, H / r_s, W / r_s]  --decode-->  video

An image tokenizer is the one of rate 1 in time: it codes every frame by itself, and takes images too.

No output depends on a later frame: the latents of a clip's first frames are the first latents of the clip. Latents are
raw; `whitening` gives them zero mean and unit variance for a diffusion model. A discrete tokenizer returns codes, which
`indices` turns into integers for a language model.

Parameter names are those of the released files, e.g. `encoder.down.0.block.0.norm1.norm.weight`; their buffers
(`*.patcher3d.*`, `*.unpatcher3d.*`, `quantizer.*`) have no counterpart here, being computed. The architecture is
that of Cosmos, arXiv 2501.03575, section 4, in the dimensions of the released weights.

B batch, C latent channels, T frames or latent frames, H rows, W columns.
"""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from cosmos_tok import fsq
from cosmos_tok.config import NotFiniteError, TokenizerConfig, TokenizerError
from cosmos_tok.first_weights import start_as_wavelet_code
from cosmos_tok.network import Decoder, Encoder, primitives
from cosmos_tok.number_formats import num_not_finite
from cosmos_tok.stream import Stream, pieces

LAST_OF_BRANCHES = ("conv2.1.conv3d.weight", "proj_out.conv3d.weight", "conv2.weight", "proj_out.weight")
PIXELS_PER_PIECE = 2**21  # of what goes through the network at once without gradients on a CPU; a latent frame at least
LARGEST_PIXEL = 16.0  # far outside -1 .. 1, so that only values that were never scaled are above it


def to_unit_range(video: Tensor) -> Tensor:
    """uint8 0 .. 255 -> float32 -1 .. 1, any shape; TokenizerError for another dtype, which may be scaled already."""
    if video.dtype != torch.uint8:
        raise TokenizerError(f"a video of {video.dtype} cannot be scaled to -1 .. 1; use uint8 frames")
    return video.float().div_(127.5).sub_(1.0)


def to_uint8(video: Tensor) -> Tensor:
    """float -1 .. 1 -> uint8 0 .. 255, rounded to nearest; values outside are clamped. Any shape."""
    if not video.is_floating_point():
        raise TokenizerError(
            f"a video of {video.dtype} is not one in -1 .. 1; use what decode returns, or leave it as it is"
        )
    return video.float().add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def shown(video: Tensor, what: str) -> Tensor:
    """`to_uint8` of what is looked at or measured: NotFiniteError where a number is none, which would become black.

    what: the video in words, for the error.
    """
    if bad := num_not_finite(video):
        raise NotFiniteError(
            f"{what}: {bad:,} of {video.numel():,} decoded values are not finite (NaN or infinity), so its weights or "
            "latents are broken; take another tokenizer, or a checkpoint of an earlier step"
        )
    return to_uint8(video)


class CausalVideoTokenizer(nn.Module):
    """Encoder and decoder with the 1 x 1 x 1 maps, and for a discrete tokenizer the rounding, between them.

    Inputs are cast to the dtype of the weights; outputs have that dtype and are contiguous.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        of = primitives(config)
        self.quant_conv = of.point(config.z_channels, config.latent_channels)
        self.post_quant_conv = of.point(config.latent_channels, config.z_channels)
        self.decoder = Decoder(config)

    @torch.no_grad()
    def init_weights(self) -> None:
        """First weights for training: variance-preserving convolutions, branches of residual blocks that add nothing.

        A video tokenizer starts as a wavelet code, see `first_weights`: the demo's footage comes back at 21 dB PSNR
        before the first step, instead of 6.
        """
        for name, param in self.named_parameters():
            if name.endswith((".bias", *LAST_OF_BRANCHES)):
                nn.init.zeros_(param)
            elif param.ndim > 1:
                nn.init.normal_(param, std=param[0].numel() ** -0.5)
        if self.config.media == "video":
            start_as_wavelet_code(self.encoder, self.decoder, (self.quant_conv, self.post_quant_conv))

    def forward(self, video_B3THW: Tensor) -> Tensor:
        """The reconstruction, of the video's shape."""
        return self.decode(self.encode(video_B3THW))

    def encode(self, video_B3THW: Tensor) -> Tensor:
        """Latents [B, C, T', H', W'], or codes of a discrete tokenizer, of a video in [-1, 1].

        An image tokenizer codes every frame by itself, and takes images [B, 3, H, W] to latents [B, C, H', W'] too.
        TokenizerError unless the video has 3 channels, 1 + temporal_rate * n frames and sides divisible by
        spatial_rate; on a CPU also for pixels that are not finite or were never scaled to [-1, 1].
        """
        if self.config.media == "image" and video_B3THW.ndim == 4:
            return self.encode(video_B3THW.unsqueeze(2)).squeeze(2)
        self._require_video(video_B3THW)
        self.config.latent_frames(video_B3THW.shape[2])
        if _goes_in_pieces(video_B3THW):
            return torch.cat([*self._encode_pieces([video_B3THW], num_frames=video_B3THW.shape[2])], dim=2)
        _require_unit_range(video_B3THW)
        return self._encode(video_B3THW, None)

    @torch.no_grad()
    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """What `encode` returns, some latent frames at a time, of a video that comes in chunks [B, 3, t, H, W], t > 0.

        Chunks have any length and need no end at a latent frame's; no more of them is held than one latent frame. No
        gradients. What is kept of all earlier frames does not grow with them, but for one thing: each temporal
        attention keeps its input, a vector per latent pixel as wide as the network's middle, because it attends to
        all frames so far. That is 4 * 512 * H / 8 * W / 8 bytes a latent frame of the released 8x8x8 in float32,
        29 MB at 704 x 1280, and as much in `decode_stream`.

        TokenizerError for what `encode` refuses, for a chunk whose B, H or W is not that of the first, and, at the
        end, if frames are left that make no latent frame.
        """
        yield from self._encode_pieces(chunks)

    def decode(self, z_BCTHW: Tensor) -> Tensor:
        """Video [B, 3, T, H, W], about -1 .. 1 and not clamped, of latents or codes as `encode` returns them."""
        if self.config.media == "image" and z_BCTHW.ndim == 4:
            return self.decode(z_BCTHW.unsqueeze(2)).squeeze(2)
        self._require_latents(z_BCTHW)
        if _goes_in_pieces(z_BCTHW):
            return torch.cat([*self._decode_pieces([z_BCTHW], num_frames=z_BCTHW.shape[2])], dim=2)
        return self._decode(z_BCTHW, None)

    @torch.no_grad()
    def decode_stream(self, latents: Iterable[Tensor]) -> Iterator[Tensor]:
        """What `decode` returns, some frames at a time, of latents or codes [B, C, t, H', W'], t > 0; no gradients.

        Memory is that of `encode_stream`. TokenizerError for what `decode` refuses, and if B, H' or W' change.
        """
        yield from self._decode_pieces(latents)

    def _encode_pieces(self, chunks: Iterable[Tensor], *, num_frames: int | None = None) -> Iterator[Tensor]:
        """num_frames: of the whole video, where that is known: its last piece then leaves nothing behind."""
        stream = self._stream(winograd=self.config.kind == "continuous")  # rounding a code asks for the last digits
        rate, seen = self.config.temporal_rate, 0
        checked = map(self._checked_video, chunks)
        for piece_B3THW in pieces(checked, group=rate, pixels=PIXELS_PER_PIECE, count=self.config.latent_frames):
            seen += piece_B3THW.shape[2]
            stream.ends = seen == num_frames
            yield self._encode(piece_B3THW, stream)
            stream.begun = True

    def _decode_pieces(self, latents: Iterable[Tensor], *, num_frames: int | None = None) -> Iterator[Tensor]:
        """num_frames: of all latents, as in _encode_pieces."""
        stream, seen = self._stream(winograd=True), 0
        pixels = PIXELS_PER_PIECE // (self.config.temporal_rate * self.config.spatial_rate**2)
        checked = map(self._require_latents, latents)
        for piece_BCTHW in pieces(checked, group=1, pixels=pixels, count=self.config.pixel_frames):
            seen += piece_BCTHW.shape[2]
            stream.ends = seen == num_frames
            yield self._decode(piece_BCTHW, stream)
            stream.begun = True

    def _encode(self, video_B3THW: Tensor, stream: Stream | None) -> Tensor:
        z_BCTHW = self.quant_conv(self.encoder(video_B3THW.to(self.dtype), stream))
        if self.config.kind == "discrete":
            z_BCTHW = fsq.quantize(z_BCTHW, self.config.fsq_levels)
        return z_BCTHW.contiguous()

    def _decode(self, z_BCTHW: Tensor, stream: Stream | None) -> Tensor:
        return self.decoder(self.post_quant_conv(z_BCTHW.to(self.dtype)), stream).contiguous()

    def _stream(self, *, winograd: bool) -> Stream:
        weight = next(self.parameters())
        fast = weight.device.type == "cpu" and weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        return Stream(fast=fast, winograd=winograd)

    def indices(self, codes_BCTHW: Tensor) -> Tensor:
        """Integers [B, T, H, W] int64 in 0 .. codebook_size - 1 of the codes from a discrete tokenizer's encode.

        [B, H, W] of an image's codes [B, C, H, W]; `codes` undoes either.
        """
        self._require_discrete("indices")
        if codes_BCTHW.ndim == 4:
            return self.indices(codes_BCTHW.unsqueeze(2)).squeeze(1)
        return fsq.codes_to_indices(codes_BCTHW, self.config.fsq_levels)

    def codes(self, indices_BTHW: Tensor) -> Tensor:
        """Codes [B, C, T, H, W] to decode, of the indices of a discrete tokenizer."""
        self._require_discrete("codes")
        if indices_BTHW.is_floating_point():
            raise TokenizerError(f"indices of {indices_BTHW.dtype} are no indices; codes can be decoded as they are")
        if indices_BTHW.ndim == 3:
            return self.codes(indices_BTHW.unsqueeze(1)).squeeze(2)
        return fsq.indices_to_codes(indices_BTHW, self.config.fsq_levels).to(self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def _checked_video(self, video_B3THW: Tensor) -> Tensor:
        self._require_video(video_B3THW)
        _require_unit_range(video_B3THW)
        return video_B3THW

    def _require_video(self, video_B3THW: Tensor) -> None:
        if video_B3THW.ndim != 5 or video_B3THW.shape[1] != 3 or not video_B3THW.is_floating_point():
            raise TokenizerError(
                f"video of {video_B3THW.dtype} and shape {list(video_B3THW.shape)} is not a floating-point "
                f"[B, 3, T, H, W]; use to_unit_range on uint8 frames"
            )
        self.config.latent_size(video_B3THW.shape[3], video_B3THW.shape[4])

    def _require_latents(self, z_BCTHW: Tensor) -> Tensor:
        if z_BCTHW.ndim != 5 or z_BCTHW.shape[1] != self.config.latent_channels or not z_BCTHW.is_floating_point():
            raise TokenizerError(
                f"latents of {z_BCTHW.dtype} and shape {list(z_BCTHW.shape)} are not a floating-point "
                f"[B, {self.config.latent_channels}, T, H, W]; use what encode returns, or codes() on indices"
            )
        return z_BCTHW

    def _require_discrete(self, method: str) -> None:
        if self.config.kind != "discrete":
            raise TokenizerError(f"tokenizer.kind={self.config.kind} has no {method}; use a discrete tokenizer")


def _goes_in_pieces(x_BCTHW: Tensor) -> bool:
    """On a CPU without gradients: less memory at a time, which caches like, and the kernels of inference."""
    return x_BCTHW.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _require_unit_range(video_B3THW: Tensor) -> None:
    """On a CPU: one pass over the pixels is nothing beside the convolutions. A GPU's host would wait for it."""
    if video_B3THW.device.type != "cpu" or torch.compiler.is_compiling():
        return
    low, high = (value.item() for value in video_B3THW.detach().aminmax())
    if not (low >= -LARGEST_PIXEL and high <= LARGEST_PIXEL):  # NaN fails both
        said = "not finite" if not (math.isfinite(low) and math.isfinite(high)) else f"from {low:g} to {high:g}"
        raise TokenizerError(
            f"video has pixels that are {said}, but a tokenizer takes -1 .. 1; use to_unit_range on uint8 frames, "
            f"and look for the frame that is not finite where there is one"
        )
