"""This module measures what is left of videos that a tokenizer encoded and decoded again.

PSNR, SSIM, compression and, of a discrete tokenizer, the use of its codes, by clip and over all clips; over all clips
also the Fréchet video distance between the clips and their reconstructions (rFVD), where a feature network is given.
Clips go through piece by piece, so they may be of any length.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cosmos_data.decoders.transform import cut_and_scale
from cosmos_data.errors import DataError
from cosmos_data.location import file_sha256
from cosmos_data.manifests.clip import Clip
from cosmos_data.readers.given_clips import GivenClip, find_clips, read_pixels, scaled_size
from cosmos_data.sample_plan.plan import central_box
from cosmos_tok.metrics import clip_psnr, code_use, mean_square_error, ssim
from cosmos_tok.model import CausalVideoTokenizer, shown
from cosmos_tok.number_formats import require_finite
from cosmos_tok.store import load_tokenizer, tokenizer_digest
from cosmos_train.config.load import load_protocol
from cosmos_train.config.protocol import ProtocolConfig
from cosmos_train.encoding.files import padded_chunks, padding_of
from cosmos_train.evaluate.fvd import VideoFeatures, feature_frames, frechet_distance
from cosmos_train.train.telling.progress import progress

BITS_OF_A_PIXEL = 3 * 8
BITS_OF_A_LATENT = 16
"""A value of a continuous latent is counted as bfloat16, in which the released tokenizers run; our choice."""
NUM_SHOWN = 3
"""So many of the worst clips and of the best ones are shown."""
NUM_FRAMES_SHOWN, SHOWN_SEC = 6, 1.0
"""Frames of a clip that are shown, from its first second."""
MAX_SIDE_PX = 640
"""A shown picture's longer side is at most this long."""
ERROR_GAIN = 8
"""Differences are drawn so many times as large."""


@dataclass(frozen=True, eq=False)
class ShownFrame:
    """Pictures uint8 [H, W, 3] of one frame."""

    original: np.ndarray
    reconstruction: np.ndarray
    difference: np.ndarray
    """Absolute, ERROR_GAIN times as large as it is."""


@dataclass(frozen=True, eq=False)
class ShownClip:
    """A clip's scores and some of its frames."""

    name: str
    psnr_db: float
    ssim: float
    fps: float
    frames: list[ShownFrame]


def evaluate_tokenizer(
    folder: Path, videos: Path, overrides: Sequence[str], *, protocol: str | None, fvd_network: Path | None
) -> tuple[dict[str, Any], list[ShownClip]]:
    """Judge a tokenizer; return what evaluation.json holds, and the clips that came out worst and best.

    Raises ConfigError, DataError or TokenizerError where the input is wrong.
    """
    config = load_protocol(protocol, overrides)
    sources = _choose(find_clips(videos, pictures_fps=config.pictures_fps, split=config.split), config.max_clips)
    digest = tokenizer_digest(folder)
    model, _ = load_tokenizer(folder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = None if fvd_network is None else VideoFeatures(fvd_network, device)
    if network is not None and len(sources) < 2:
        raise DataError(f"{videos} holds one clip, and rFVD compares sets of clips; give more, or no --fvd-network")
    evaluation = Evaluation(model.to(device), config, network)
    for number, source in enumerate(sources, start=1):
        evaluation.add(source, f"evaluate {number}/{len(sources)} {source.name}")
    result: dict[str, Any] = {
        "tokenizer": str(folder),
        "tokenizer_digest": digest,
        "architecture": asdict(model.config),
        "videos": str(videos),
        "protocol": {"name": protocol, **asdict(config)},
        "overall": evaluation.overall(),
        "clips": evaluation.rows,
    }
    if fvd_network is not None:
        result["fvd_network"] = {"file": fvd_network.name, "sha256": file_sha256(fvd_network)}
    return result, evaluation.shown


@dataclass
class Evaluation:
    """Clip after clip; `overall` is of those so far."""

    model: CausalVideoTokenizer
    config: ProtocolConfig
    network: VideoFeatures | None
    rows: list[dict[str, Any]] = field(default_factory=list)
    """A clip's results each."""
    shown: list[ShownClip] = field(default_factory=list)
    """The worst clips and the best ones by PSNR, in this order."""
    code_counts: Tensor | None = None
    features: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Of each clip and of its reconstruction."""

    @torch.inference_mode()
    def add(self, source: GivenClip, title: str) -> None:
        """Encode, decode and compare one clip."""
        clip = source.describe()
        num_frames = self.config.num_frames(clip.num_frames, clip.fps)
        height_px, width_px = scaled_size(clip, self.config.short_side_px)
        comparison = Comparison(self.config, num_frames, clip.fps, with_features=self.network is not None)
        counts = CodeCounts(self.model)
        frames = read_pixels(clip, num_frames=num_frames, height_px=height_px, width_px=width_px)
        with progress(title, "frames") as advance:
            for original, restored in self._reconstructed(clip, frames, (num_frames, height_px, width_px), counts):
                comparison.add(original, restored)
                advance(comparison.num_frames, num_frames)
        row = {
            "name": source.name,
            "digest": source.digest(),
            "num_frames": num_frames,
            "height_px": height_px,
            "width_px": width_px,
            "fps": clip.fps,
            **comparison.scores(),
            **counts.compression(num_frames * height_px * width_px),
            **counts.use(),
        }
        self.rows.append(row)
        self.shown.append(ShownClip(source.name, row["psnr_db"], row["ssim"], comparison.shown_fps, comparison.shown))
        self.shown.sort(key=lambda one: one.psnr_db)
        del self.shown[NUM_SHOWN:-NUM_SHOWN]
        if self.network is not None:
            self.features.append((self.network(comparison.seen[0]), self.network(comparison.seen[1])))
        if counts.counts is not None:
            self.code_counts = counts.counts if self.code_counts is None else self.code_counts + counts.counts

    def overall(self) -> dict[str, Any]:
        """Means over the clips, as the published figures are; rates and the use of codes over everything."""
        num_pixels = [row["num_frames"] * row["height_px"] * row["width_px"] for row in self.rows]
        result = {
            "num_clips": len(self.rows),
            "num_frames": sum(row["num_frames"] for row in self.rows),
            "psnr_db": sum(row["psnr_db"] for row in self.rows) / len(self.rows),
            "ssim": sum(row["ssim"] for row in self.rows) / len(self.rows),
        }
        for name in ("pixels_per_latent", "compression"):
            # A rate of everything together: pixels over what they were turned into.
            parts = (pixels / row[name] for pixels, row in zip(num_pixels, self.rows, strict=True))
            result[name] = sum(num_pixels) / sum(parts)
        if self.code_counts is not None:
            result |= _code_use(self.code_counts)
        if self.features:
            originals, restored = (torch.stack(features) for features in zip(*self.features, strict=True))
            result["rfvd"] = frechet_distance(originals, restored)
        return result

    def _reconstructed(
        self, clip: Clip, frames: Iterator[Tensor], size_THW: tuple[int, int, int], counts: "CodeCounts"
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Consecutive pieces of a clip and of its reconstruction: uint8 [1, 3, t, H, W] on the model's device."""
        device = next(self.model.parameters()).device
        num_frames, *size_HW = size_THW
        window_frames = self.config.window_frames or num_frames
        for first in range(0, num_frames, window_frames):
            length = min(window_frames, num_frames - first)
            padding = padding_of(clip, (length, size_HW[0], size_HW[1]), self.model.config, self.config.padding)
            waiting: deque[Tensor] = deque()
            chunks = padded_chunks(_kept(islice(frames, length), waiting), padding, device)
            latents = counts.counted(self.model.encode_stream(chunks))
            for restored in padding.box.crop_pieces(self.model.decode_stream(latents)):
                original = torch.cat([waiting.popleft() for _ in range(restored.shape[2])], dim=1)
                yield original[None].to(device), shown(restored, f"{clip.clip_id}, encoded and decoded")


class Comparison:
    """What one clip has in common with its reconstruction, gathered piece by piece."""

    def __init__(self, config: ProtocolConfig, num_frames: int, fps: float, *, with_features: bool) -> None:
        self.config, self.with_features = config, with_features
        self.num_frames = 0
        self.square_errors: list[Tensor] = []
        self.similarities: list[Tensor] = []
        self._seen: list[tuple[Tensor, Tensor]] = []
        self.stride = max(1, min(num_frames, round(SHOWN_SEC * fps)) // NUM_FRAMES_SHOWN)
        self.shown_fps = fps / self.stride
        self.shown: list[ShownFrame] = []

    def add(self, original_13THW: Tensor, restored_13THW: Tensor) -> None:
        """The next frames of both."""
        self.square_errors += mean_square_error(original_13THW, restored_13THW)[0]
        self.similarities += ssim(original_13THW, restored_13THW, self.config.ssim_window).per_frame_BT[0]
        for original, restored in zip(original_13THW[0].unbind(1), restored_13THW[0].unbind(1), strict=True):
            if self.num_frames % self.stride == 0 and len(self.shown) < NUM_FRAMES_SHOWN:
                self.shown.append(_shown(original, restored))
            if self.with_features and self.num_frames < self.config.feature_frames:
                self._seen.append((feature_frames(original[:, None]), feature_frames(restored[:, None])))
            self.num_frames += 1

    @property
    def seen(self) -> tuple[Tensor, Tensor]:
        """What the feature network sees of the clip and of its reconstruction: [3, T, 224, 224]."""
        originals, restored = zip(*self._seen, strict=True)
        return torch.cat(originals, dim=1), torch.cat(restored, dim=1)

    def scores(self) -> dict[str, float]:
        """PSNR of the clip as a whole, SSIM as the mean over its frames."""
        mean_error = torch.stack(self.square_errors).mean().item()
        return {"psnr_db": clip_psnr(mean_error), "ssim": torch.stack(self.similarities).mean().item()}


class CodeCounts:
    """How many latents a clip was turned into and, of a discrete tokenizer, how often each code occurs."""

    def __init__(self, model: CausalVideoTokenizer) -> None:
        self.model = model
        self.num_latents = 0
        """Places in time, height and width, those of padding counted."""
        self.counts = torch.zeros(model.config.codebook_size, dtype=torch.int64) if self._is_discrete else None

    def counted(self, latents: Iterator[Tensor]) -> Iterator[Tensor]:
        """The same latents [1, C, t', H', W'], counted on their way to the decoder."""
        for z_BCTHW in latents:
            self.num_latents += math.prod(z_BCTHW.shape[2:])
            if self.counts is not None:
                require_finite("its codes", z_BCTHW, "a clip, encoded")  # NaN would be some code
                indices = self.model.indices(z_BCTHW).flatten().cpu()
                self.counts += torch.bincount(indices, minlength=len(self.counts))
            yield z_BCTHW

    def compression(self, num_pixels: int) -> dict[str, float]:
        """Pixels for each latent, and bits of RGB pixels for each bit of latents or codes."""
        config = self.model.config
        bits = math.log2(config.codebook_size) if self._is_discrete else config.latent_channels * BITS_OF_A_LATENT
        per_latent = num_pixels / self.num_latents
        return {"pixels_per_latent": per_latent, "compression": per_latent * BITS_OF_A_PIXEL / bits}

    def use(self) -> dict[str, float]:
        """Of the codebook; nothing of a continuous tokenizer."""
        return {} if self.counts is None else _code_use(self.counts)

    @property
    def _is_discrete(self) -> bool:
        return self.model.config.kind == "discrete"


def _choose(sources: list[GivenClip], max_clips: int | None) -> list[GivenClip]:
    if max_clips is None or len(sources) <= max_clips:
        return sources
    return [sources[place * len(sources) // max_clips] for place in range(max_clips)]


def _kept(frames: Iterator[Tensor], waiting: deque[Tensor]) -> Iterator[Tensor]:
    """Frames on their way to the encoder, which wait for their reconstruction."""
    for frame in frames:
        waiting.append(frame)
        yield frame


def _shown(original_3HW: Tensor, restored_3HW: Tensor) -> ShownFrame:
    difference = (original_3HW.short() - restored_3HW.short()).abs() * ERROR_GAIN
    return ShownFrame(*map(_picture, (original_3HW, restored_3HW, difference.clamp(max=255).to(torch.uint8))))


def _picture(frame_3HW: Tensor) -> np.ndarray:
    """uint8 [H, W, 3], no larger than a page shows it: many are kept."""
    _, height, width = frame_3HW.shape
    scale = min(1.0, MAX_SIDE_PX / max(height, width))
    box = central_box(height, width, height, width)
    frame_1HWC = frame_3HW.permute(1, 2, 0)[None].cpu()
    picture_31HW = cut_and_scale(frame_1HWC, box, round(height * scale), round(width * scale), flip=False)
    return picture_31HW[:, 0].permute(1, 2, 0).numpy()


def _code_use(counts: Tensor) -> dict[str, float]:
    return {name: value.item() for name, value in code_use(counts, len(counts)).items()}
