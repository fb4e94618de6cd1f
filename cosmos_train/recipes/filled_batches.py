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

from cosmos_data.decode import Decoder, choose_decoder
from cosmos_data.errors import ClipError
from cosmos_data.latents import padding_cells
from cosmos_data.loader import VideoBatch, VideoBatches
from cosmos_data.plan import Sample, SamplePlan, read_parts
from cosmos_data.window_cache import WindowCache
from cosmos_tok.model import CausalVideoTokenizer, to_unit_range
from cosmos_tok.store import STATISTICS as TOKENIZER_STATISTICS
from cosmos_tok.store import load_tokenizer, tokenizer_digest
from cosmos_tok.text import text_encoder_folder
from cosmos_tok.text_cache import CachedTextEncoder
from cosmos_tok.whitening import load_statistics
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import WorldDiTRun
from cosmos_train.models.dit.flops import num_tokens
from cosmos_train.objectives.edm import draw_noise
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.replica import broadcast, makes_batches
from cosmos_train.recipes.tokenizer import QUARANTINE
from cosmos_train.recipes.world_batches import KINDS, STATISTICS, VIDEO, WorldBatch, check_condition_frames, make_batch


class EncodingDecoder:
    """A decoder (cosmos_data.decode.Decoder) whose pixels have gone through a tokenizer: float32 [B, C, T, H, W] on the
    CPU, of the cache where it has them."""

    def __init__(
        self, decoder: Decoder, tokenizer: CausalVideoTokenizer, cache: WindowCache, device: torch.device
    ) -> None:
        self._decoder, self._cache, self._device = decoder, cache, device
        self._tokenizer = tokenizer.eval().to(device)
        self._lock = Lock()
        self.num_encoded = 0

    def decode(self, samples: Sequence[Sample]) -> Tensor:
        read = [self._cache.read(sample) for sample in samples]
        found = {position: z_CTHW for position, z_CTHW in enumerate(read) if z_CTHW is not None}
        missing = [position for position in range(len(samples)) if position not in found]
        if missing:
            try:
                pixels_B3THW = self._decoder.decode([samples[position] for position in missing])
            except ClipError as error:
                raise ClipError(str(error), position=missing[error.position]) from error
            for position, window_3THW in zip(missing, pixels_B3THW, strict=True):
                found[position] = self._encode(window_3THW)
                self._cache.write(samples[position], found[position])
        return torch.stack([found[position] for position in range(len(samples))])

    @torch.no_grad()
    def _encode(self, window_3THW: Tensor) -> Tensor:
        """Alone: kernels may round a batch differently from its parts. Several batches are made at a time."""
        with self._lock:
            self.num_encoded += 1
            return self._tokenizer.encode(to_unit_range(window_3THW[None].to(self._device)))[0].float().cpu()


class FilledBatches:
    """Micro-batches of planned windows, on all tp and cp ranks alike."""

    def __init__(self, run: WorldDiTRun, mesh: Mesh) -> None:
        self.run, self.mesh = run, mesh
        folder, tokenizer_folder = Path(run.latents.folder), Path(run.latents.tokenizer)
        tokenizer, codec = load_tokenizer(tokenizer_folder)
        if codec.kind != "continuous" or codec.latent_channels != run.model.latent_channels:
            raise ConfigError(
                f"model.latent_channels={run.model.latent_channels}, but latents.tokenizer={tokenizer_folder} is "
                f"{codec.kind} and has {codec.latent_channels}; use a continuous tokenizer, and its number"
            )
        frames = codec.latent_frames(run.data.num_frames)
        self.shape_CTHW = (codec.latent_channels, frames, *codec.latent_size(run.data.height_px, run.data.width_px))
        check_condition_frames(run, frames)
        num_tokens(run.model, self.shape_CTHW[1:])
        self.plan = SamplePlan(read_parts(run.data, "train"), run.seed, run.data)
        own = folder / STATISTICS
        whitening = own if own.is_file() else tokenizer_folder / TOKENIZER_STATISTICS
        self.statistics = load_statistics(whitening)
        whitened = hashlib.sha256(whitening.read_bytes()).hexdigest()  # others would change the scale of a resumed run
        digest = tokenizer_digest(tokenizer_folder)
        text = f"{run.text.encoder} max_tokens={run.text.max_tokens}"
        self.digest = hashlib.sha256(json.dumps([self.plan.digest, digest, text, whitened]).encode()).hexdigest()
        if makes_batches(mesh):
            limit = None if run.latents.max_gib is None else int(run.latents.max_gib * 2**30)
            cache = WindowCache(folder, tokenizer_digest=digest, dtype=torch.float32, max_bytes=limit)
            decoder = choose_decoder(run.data, self.plan.clips, mesh.device)
            self.encoder = EncodingDecoder(decoder, tokenizer, cache, mesh.device)
            states = Path(run.text.cache or folder / "text")
            encoder_folder = text_encoder_folder(run.text.encoder)
            self.text = CachedTextEncoder(encoder_folder, run.text.max_tokens, states, mesh.device)

    @property
    def latent_shapes(self) -> tuple[tuple[int, ...], None]:
        """[C, T, H, W] of videos; of images there are none."""
        return self.shape_CTHW, None

    def batches(self, micro_batches: Iterable[Sequence[int]]) -> Iterator[WorldBatch]:
        """Made ahead of the step by one rank, and handed to the others when the step wants them."""
        ahead, now = tee(micro_batches)
        made = iter(self.videos(ahead)) if makes_batches(self.mesh) else repeat(None)
        for indices, videos in zip(now, made, strict=False):
            yield self._batch(indices, videos)

    def videos(self, index_lists: Iterable[Sequence[int]]) -> VideoBatches:
        """Latents in the place of pixels. Clips that can not be decoded are replaced and named in the run's folder."""
        quarantine = Path(self.run.run_dir) / QUARANTINE
        return VideoBatches(self.plan, self.encoder, index_lists, quarantine=quarantine)

    def _batch(self, indices: Sequence[int], made: VideoBatch | None) -> WorldBatch:
        run, device = self.run, self.mesh.device
        z_BCTHW = torch.zeros(len(indices), *self.shape_CTHW, device=device)
        text_BSE = torch.zeros(len(indices), run.text.max_tokens, run.model.text_width, device=device)
        attempts_B = torch.zeros(len(indices), dtype=torch.int64, device=device)
        if made is not None:
            states_BSE = self.text.encode([sample.caption for sample in made.samples]).states_BSE
            if states_BSE.shape[2] != run.model.text_width:
                raise ConfigError(
                    f"model.text_width={run.model.text_width}, but text.encoder={run.text.encoder} gives states of "
                    f"{states_BSE.shape[2]}; set that"
                )
            z_BCTHW.copy_(made.pixels_B3THW)
            text_BSE.copy_(states_BSE)
            attempts_B.copy_(torch.tensor([sample.attempt for sample in made.samples]))
        broadcast((z_BCTHW, text_BSE, attempts_B), self.mesh)
        samples = [self.plan.sample(*pair) for pair in zip(indices, attempts_B.tolist(), strict=True)]
        draw = draw_noise(run.objective, seed=run.seed, indices=indices, shape_CTHW=self.shape_CTHW)
        padding_B1HW = torch.stack([self._padding(sample) for sample in samples])
        return make_batch(
            KINDS[VIDEO],
            self.statistics.whiten(z_BCTHW) * run.objective.sigma_data,
            text_BSE,
            [sample.fps for sample in samples],
            padding_B1HW.to(device),
            draw.to(device),
        )

    def _padding(self, sample: Sample) -> Tensor:
        inner = sample.inner
        place = None if inner is None else (inner.top_px, inner.left_px, inner.height_px, inner.width_px)
        return padding_cells(place, self.shape_CTHW[2:], (sample.height_px, sample.width_px))
