"""What a world model's run reads while it fills its latent cache itself: planned windows, encoded when first wanted.

One of the tp and cp ranks that see the same samples decodes and encodes, ahead of the step, and the others get the
latents from it. A window that an earlier step or another run has encoded is read; what is trained on has the same bits
either way, because every window is encoded alone.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat, tee
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor

from cosmos_data.config import DataConfig
from cosmos_data.decode import Decoder, choose_decoder
from cosmos_data.errors import ClipError
from cosmos_data.latents import padding_cells
from cosmos_data.loader import VideoBatch, VideoBatches
from cosmos_data.plan import Sample, SamplePlan, read_parts
from cosmos_data.text_cache import TextCache
from cosmos_data.window_cache import WindowCache
from cosmos_tok.config import TokenizerConfig
from cosmos_tok.model import CausalVideoTokenizer, to_unit_range
from cosmos_tok.store import load_tokenizer, tokenizer_digest
from cosmos_tok.text import text_encoder_folder
from cosmos_tok.text_cache import CachedTextEncoder
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import WorldARRun, WorldDiTRun, WorldRun
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.replica import broadcast, makes_batches
from cosmos_train.recipes.joint_windows import JointWindows, Picked, Window
from cosmos_train.recipes.tokenizer import QUARANTINE

KEPT = "windows.json"
"""In the folder of a run that fills its cache: what else could change under it, since nothing else keeps it."""


class EncodingDecoder:
    """A decoder (cosmos_data.decode.Decoder) whose pixels went through a tokenizer, now or when the cache got them."""

    def __init__(
        self, decoder: Decoder, tokenizer: CausalVideoTokenizer, cache: WindowCache, device: torch.device
    ) -> None:
        self._decoder, self._cache, self._device = decoder, cache, device
        self._tokenizer = tokenizer.eval().to(device)
        self._lock = Lock()
        self.num_encoded = 0

    def decode(self, samples: Sequence[Sample]) -> Tensor:
        """Latents [B, C, T, H, W] in the cache's type, or codes with C = 1, on the CPU."""
        read = [self._cache.read(sample) for sample in samples]
        found = {position: z_CTHW for position, z_CTHW in enumerate(read) if z_CTHW is not None}
        missing = [position for position in range(len(samples)) if position not in found]
        if missing:
            try:
                pixels_B3THW = self._decoder.decode([samples[position] for position in missing])
            except ClipError as error:
                raise ClipError(str(error), position=missing[error.position]) from error
            for position, window_3THW in zip(missing, pixels_B3THW, strict=True):
                found[position] = self._encode(window_3THW).to(self._cache.dtype).cpu()
                self._cache.write(samples[position], found[position])
        return torch.stack([found[position] for position in range(len(samples))])

    @torch.no_grad()
    def _encode(self, window_3THW: Tensor) -> Tensor:
        """Alone: kernels may round a batch differently from its parts. Several batches are made at a time."""
        with self._lock:
            self.num_encoded += 1
            z_BCTHW = self._tokenizer.encode(to_unit_range(window_3THW[None].to(self._device)))
            return z_BCTHW[0] if self._cache.dtype.is_floating_point else self._tokenizer.indices(z_BCTHW)


class FilledWindows:
    """The planned windows of a run, on all tp and cp ranks alike. Used as JointWindows is; there are no images."""

    def __init__(self, run: WorldDiTRun | WorldARRun, mesh: Mesh) -> None:
        self.run, self.mesh = run, mesh
        reads_text = isinstance(run, WorldDiTRun) or run.model.cross_attention
        self._text_width = run.model.text_width if reads_text else 0
        tokenizer_folder = Path(run.latents.tokenizer)
        tokenizer, self.codec = load_tokenizer(tokenizer_folder)
        self.shape_CTHW = latent_shape(run.data, self.codec)
        self.dtype = torch.float32 if self.codec.kind == "continuous" else torch.int32
        self.plan = SamplePlan(read_parts(run.data, "train", verify=mesh.is_main), run.seed, run.data)
        self.tokenizer_digest = tokenizer_digest(tokenizer_folder)
        text = f"{run.text.encoder} max_tokens={run.text.max_tokens}" if reads_text else ""
        self.digest = hashlib.sha256(json.dumps([self.plan.digest, self.tokenizer_digest, text]).encode()).hexdigest()
        require_kept(run, self.tokenizer_digest)
        if makes_batches(mesh):
            self._make_encoders(tokenizer)

    def _make_encoders(self, tokenizer: CausalVideoTokenizer) -> None:
        run, device, folder = self.run, self.mesh.device, Path(self.run.latents.folder)
        limit = None if run.latents.max_gib is None else int(run.latents.max_gib * 2**30)
        cache = WindowCache(folder, tokenizer_digest=self.tokenizer_digest, dtype=self.dtype, max_bytes=limit)
        self._cache = cache
        self.encoder = EncodingDecoder(choose_decoder(run.data, self.plan.parts, device), tokenizer, cache, device)
        self._text = None
        if self._text_width:
            states = Path(run.text.cache or folder / "text")
            encoder_folder = text_encoder_folder(run.text.encoder)
            precision = run.text.precision_on(device.type)
            self._text = CachedTextEncoder(encoder_folder, run.text.max_tokens, TextCache(states), device, precision)

    @property
    def latent_shapes(self) -> tuple[tuple[int, ...], None]:
        """[C, T, H, W] of videos; of images there are none."""
        return self.shape_CTHW, None

    def picks(self, micro_batches: Iterable[Sequence[int]]) -> Iterator[Picked]:
        """Made ahead of the step by one rank, and handed to the others when the step wants them."""
        if self.mesh.is_main:
            self._keep()
        ahead, now = tee(micro_batches)
        made = iter(self.videos(ahead)) if makes_batches(self.mesh) else repeat(None)
        try:
            for indices, videos in zip(now, made, strict=False):
                yield self._pick(indices, videos)
        finally:
            if makes_batches(self.mesh):
                self.flush()

    def flush(self) -> None:
        """Write what was encoded and is not on the disk yet."""
        self._cache.flush()
        if self._text is not None:
            self._text.flush()

    def videos(self, index_lists: Iterable[Sequence[int]]) -> VideoBatches:
        """Latents in the place of pixels. Clips that can not be decoded are replaced and named in the run's folder."""
        quarantine = Path(self.run.run_dir) / QUARANTINE
        return VideoBatches(self.plan, self.encoder, index_lists, quarantine=quarantine)

    def encode_text(self, captions: Sequence[str]) -> Tensor | None:
        """States [B, S, E], which are kept too; None where the model reads no text."""
        if self._text is None:
            return None
        states_BSE = self._text.encode(captions).states_BSE
        if states_BSE.shape[2] != self._text_width:
            raise ConfigError(
                f"model.text_width={self._text_width}, but text.encoder={self.run.text.encoder} gives states of "
                f"{states_BSE.shape[2]}; set that"
            )
        return states_BSE

    def _pick(self, indices: Sequence[int], made: VideoBatch | None) -> Picked:
        run, device, batch = self.run, self.mesh.device, len(indices)
        z_BCTHW = torch.zeros(batch, *self.shape_CTHW, device=device, dtype=self.dtype)
        text_BSE = torch.zeros(batch, run.text.max_tokens, self._text_width, device=device)
        attempts_B = torch.zeros(batch, dtype=torch.int64, device=device)
        if made is not None:
            z_BCTHW.copy_(made.pixels_B3THW)
            attempts_B.copy_(torch.tensor([sample.attempt for sample in made.samples]))
            states_BSE = self.encode_text([sample.caption for sample in made.samples])
            text_BSE = text_BSE if states_BSE is None else text_BSE.copy_(states_BSE)
        broadcast([tensor for tensor in (z_BCTHW, text_BSE, attempts_B) if tensor.numel()], self.mesh)
        samples = [self.plan.sample(*pair) for pair in zip(indices, attempts_B.tolist(), strict=True)]
        windows = [
            Window(z_CTHW=z_CTHW, text_SE=text_SE, fps=sample.fps, padding_1HW=self._padding(sample))
            for z_CTHW, text_SE, sample in zip(z_BCTHW, text_BSE, samples, strict=True)
        ]
        return Picked("video", windows, indices)

    def _padding(self, sample: Sample) -> Tensor:
        inner = sample.inner
        place = None if inner is None else (inner.top_px, inner.left_px, inner.height_px, inner.width_px)
        return padding_cells(place, self.shape_CTHW[2:], (sample.height_px, sample.width_px))

    def _keep(self) -> None:
        """Of a run that begins; one that goes on has it already."""
        path = Path(self.run.run_dir) / KEPT
        if not path.is_file():
            kept = {"tokenizer_digest": self.tokenizer_digest, "fps": self.plan.sample(0).fps}
            path.write_text(json.dumps(kept), encoding="utf-8")


def latent_shape(data: DataConfig, codec: TokenizerConfig) -> tuple[int, int, int, int]:
    """[C, T, H, W] of the data section's windows; of codes C is 1."""
    channels = codec.latent_channels if codec.kind == "continuous" else 1
    return (channels, codec.latent_frames(data.num_frames), *codec.latent_size(data.height_px, data.width_px))


def require_kept(run: WorldRun, tokenizer_digest: str) -> None:
    """Raises ConfigError where the run began with another tokenizer."""
    path = Path(run.run_dir) / KEPT
    if not path.is_file():
        return
    began_with = json.loads(path.read_text(encoding="utf-8"))["tokenizer_digest"]
    if began_with != tokenizer_digest:
        raise ConfigError(
            f"latents.tokenizer={run.latents.tokenizer} has digest {tokenizer_digest[:12]}, and the run in "
            f"{run.run_dir} began with {began_with[:12]}; name that tokenizer, or start in a new run_dir"
        )


def kept_fps(run: WorldRun, tokenizer_digest: str) -> float:
    """Frames per second of the first window of a run that has filled its cache.

    Raises ConfigError where it has not, or began with another tokenizer.
    """
    path = Path(run.run_dir) / KEPT
    if not path.is_file():
        raise ConfigError(f"{path} is missing, which a run with latents.fill=true keeps; start that run once more")
    require_kept(run, tokenizer_digest)
    return float(json.loads(path.read_text(encoding="utf-8"))["fps"])


def open_windows(run: WorldDiTRun | WorldARRun, mesh: Mesh) -> JointWindows | FilledWindows:
    """What the run reads, by latents.fill."""
    return FilledWindows(run, mesh) if run.latents.fill else JointWindows(run)
