"""Windows of the sample plan, encoded when a run first wants them, and kept (latents.fill).

Every rank decodes and encodes its share ahead of the step: of the ranks that see the same samples (tp, cp and pp) each
makes one list of places after the other in turn, and hands it to the rest. A window that an earlier step or another run
has encoded is read; what is trained on has the same bits either way, because every window is encoded alone.
"""

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import tee
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor

from cosmos_data.caches.encoded import EncodedWindow, known_of
from cosmos_data.caches.window_cache import WindowCache
from cosmos_data.config import DataConfig
from cosmos_data.decoders.decode import VideoDecoder, choose_decoder
from cosmos_data.errors import ClipError
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.sample_plan.loader import QUARANTINE, VideoBatch, VideoBatches
from cosmos_data.sample_plan.plan import Sample, SamplePlan, read_parts
from cosmos_tok.config import Precision, TokenizerConfig
from cosmos_tok.store import load_tokenizer, tokenizer_digest
from cosmos_tok.whitening import LatentStatistics
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import WorldARRun, WorldDiTRun, WorldRun
from cosmos_train.parallel.device_copy import DeviceCopier
from cosmos_train.parallel.mesh import Mesh, from_main
from cosmos_train.parallel.replica import Replica
from cosmos_train.text.cache import cached_text_encoder, encoder_digest
from cosmos_train.text.encoder import text_encoder_folder
from cosmos_train.windows.encoder import WindowEncoder
from cosmos_train.windows.kept import Kept, kept_at_start, require_same_settings, require_tokenizer, statistics_digest
from cosmos_train.windows.latent_statistics import gather_by_number, merged_in_order
from cosmos_train.windows.stream import Kind, Origin, Shape, WindowFacts

log = logging.getLogger(__name__)


class EncodingDecoder:
    """A decoder (VideoDecoder) whose pixels went through a tokenizer, now or when the cache got them."""

    def __init__(self, decoder: VideoDecoder, encoder: WindowEncoder, cache: WindowCache) -> None:
        self._decoder, self._encoder, self._cache = decoder, encoder, cache
        self._counting = Lock()
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
                found[position] = self._encoder.encode_one(window_3THW)
                self._cache.write(samples[position], found[position])
            with self._counting:
                self.num_encoded += len(missing)
        return torch.stack([found[position] for position in range(len(samples))])


class WindowMaker:
    """Makes windows of a run on one rank: it has tokenizer, text encoder, and the folder that keeps what they give."""

    def __init__(
        self, run: WorldDiTRun | WorldARRun, clips: Sequence[Manifest], mesh: Mesh, *, precision: Precision
    ) -> None:
        """clips: those that windows can be of; precision: what texts are encoded in. Made on all ranks together."""
        self.run, self.replica, self.precision = run, Replica(mesh), precision
        folder, tokenizer_folder = Path(run.latents.folder), Path(run.latents.tokenizer)
        tokenizer, self.codec = load_tokenizer(tokenizer_folder)
        self.tokenizer_digest = from_main(mesh, lambda: tokenizer_digest(tokenizer_folder))
        encoder = WindowEncoder(tokenizer, mesh.device, as_codes=self.codec.kind == "discrete")
        self.dtype = encoder.dtype
        limit = None if run.latents.max_gib is None else int(run.latents.max_gib * 2**30)
        self._cache = WindowCache(folder, tokenizer_digest=self.tokenizer_digest, dtype=self.dtype, max_bytes=limit)
        self.encoder = EncodingDecoder(choose_decoder(run.data, clips, mesh.device), encoder, self._cache)
        self.text_width = run.model.text_width if _reads_text(run) else 0
        self._text, self._copier = None, DeviceCopier(mesh.device)
        if self.text_width:
            states, encoder_folder = run.text.cache or folder / "text", text_encoder_folder(run.text.encoder)
            digest = from_main(mesh, lambda: encoder_digest(encoder_folder))
            self._text = cached_text_encoder(run.text, states, mesh.device, precision=precision, digest=digest)

    def encode_text(self, captions: Sequence[str]) -> Tensor:
        """States [B, S, E], which are kept too; where the model reads no text E is 0."""
        if self._text is None:
            return torch.zeros(len(captions), self.run.text.max_tokens, 0)
        with self._copier.stream():  # beside the step's; weights that are loaded now are copied on it, too
            states_BSE = self._text.encode(captions).states_BSE.cpu()
        if states_BSE.shape[2] != self.text_width:
            raise ConfigError(
                f"model.text_width={self.text_width}, but text.encoder={self.run.text.encoder} gives states of "
                f"{states_BSE.shape[2]}; set that"
            )
        return states_BSE.float()

    def flush(self) -> None:
        """Write what was encoded and is not on the disk yet."""
        self._cache.flush()
        if self._text is not None:
            self._text.flush()


class FilledWindows:
    """The planned windows of a run, of one kind (see stream.WindowStream)."""

    def __init__(self, maker: WindowMaker, plan: SamplePlan, mesh: Mesh, *, kind: Kind, begun: Kept | None) -> None:
        """plan: of samples of that kind alone; begun: what the run goes on with, where it does."""
        run = maker.run
        self.plan, self.maker, self._mesh, self._begun = plan, maker, mesh, begun
        self._kind: Kind = kind
        text = f"{run.text.encoder} max_tokens={run.text.max_tokens}" if maker.text_width else ""
        self.digest = hashlib.sha256(json.dumps([plan.digest, maker.tokenizer_digest, text]).encode()).hexdigest()
        self.origin = Origin(
            tokenizer_digest=maker.tokenizer_digest,
            manifest_digest=Manifest.read(run.data.manifest, verify=False).digest,
            fps=plan.sample(0).fps,
            latent_shape=latent_shape(run.data, maker.codec),
            text_precision=maker.precision,
            settings=window_settings(run),
        )
        num_frames = 1 if kind == "image" else run.data.num_frames
        data, codec = replace(run.data, num_frames=num_frames), maker.codec
        is_codes = codec.kind == "discrete"
        self.facts = WindowFacts(
            where=f"latents.tokenizer={run.latents.tokenizer}",
            shapes={latent_shape(data, codec, size_px): share for size_px, share in plan.size_shares.items()},
            num_pixel_frames=num_frames,
            fps=self.origin.fps,
            num_codes=codec.codebook_size if is_codes else None,
            text_width=None,
            statistics=None,
        )

    def take_statistics(self) -> None:
        """Find what latents are whitened with, on all ranks together: what the run began with, or else the statistics
        of its first windows, which are then encoded already when they are trained on."""
        if self.facts.num_codes is not None:
            return
        kept = None if self._begun is None else self._begun.statistics.get(self._kind)
        statistics = kept or self._statistics_of_first()
        self.facts = replace(self.facts, statistics=statistics)
        self.digest = hashlib.sha256(f"{self.digest}/{statistics_digest(statistics)}".encode()).hexdigest()

    @property
    def mean_bytes(self) -> float:
        """Return the bytes of a window's latents, the mean over all shapes."""
        elements = sum(math.prod(shape) * share for shape, share in self.facts.shapes.items())
        return float(elements) * self.maker.dtype.itemsize

    def windows(self, place_lists: Iterable[Sequence[int]]) -> Iterator[list[EncodedWindow]]:
        """See WindowStream."""
        rank, size = self.maker.replica.rank, self.maker.replica.size
        ahead, now = tee(place_lists)
        mine = (places for turn, places in enumerate(ahead) if turn % size == rank)
        made = iter(self.videos(mine))
        try:
            for turn, places in enumerate(now):
                maker_rank = turn % size
                yield self._handed_over(places, next(made) if maker_rank == rank else None, maker_rank)
        finally:
            self.maker.flush()

    def videos(self, place_lists: Iterable[Sequence[int]]) -> VideoBatches:
        """Latents in the place of pixels, made here. Clips that can not be decoded are replaced and named in the run's
        folder."""
        quarantine = Path(self.maker.run.run_dir) / QUARANTINE
        return VideoBatches(self.plan, self.maker.encoder, place_lists, quarantine=quarantine)

    def _handed_over(self, places: Sequence[int], made: VideoBatch | None, maker_rank: int) -> list[EncodedWindow]:
        """made: the batch, on the rank that has made it."""
        maker, batch = self.maker, len(places)
        if made is None:
            z_BCTHW = torch.zeros(batch, *self._shape(places[0]), dtype=maker.dtype)
            text_BSE = torch.zeros(batch, maker.run.text.max_tokens, maker.text_width)
            attempts_B = torch.zeros(batch, dtype=torch.int64)
        else:
            z_BCTHW = made.pixels_B3THW
            text_BSE = maker.encode_text([sample.caption for sample in made.samples])
            attempts_B = torch.tensor([sample.attempt for sample in made.samples])
        maker.replica.hand_over([z_BCTHW, text_BSE, attempts_B], maker_rank)
        samples = [self.plan.sample(*pair) for pair in zip(places, attempts_B.tolist(), strict=True)]
        return [
            EncodedWindow.of(
                known_of(sample), z_CTHW=z_CTHW, text_SE=text_SE, size_px=(sample.height_px, sample.width_px)
            )
            for sample, z_CTHW, text_SE in zip(samples, z_BCTHW, text_BSE, strict=True)
        ]

    def _shape(self, place: int) -> Shape:
        sample = self.plan.sample(place)
        data = replace(self.maker.run.data, num_frames=sample.num_frames)
        return latent_shape(data, self.maker.codec, (sample.height_px, sample.width_px))

    def _statistics_of_first(self) -> LatentStatistics:
        number, world = self.maker.run.latents.statistics_windows, self._mesh.world
        log.info("whitening statistics of the run's first %d windows (%s)", number, self._kind)
        mine = range(world.rank(), number, world.size())
        latents = (batch.pixels_B3THW for batch in self.videos([place] for place in mine))
        gathered = gather_by_number(mine, latents)
        self.maker.flush()
        return merged_in_order(gathered, world).statistics(
            {"manifest_digest": self.origin.manifest_digest, "num_windows": str(number)}
        )


def open_filled(
    run: WorldDiTRun | WorldARRun, mesh: Mesh, check: Callable[[WindowFacts], None]
) -> dict[Kind, FilledWindows]:
    """The streams of a run that encodes its windows itself, ready to be trained on. Called on all ranks.

    check: raises ConfigError where windows do not fit the model, which is known before one is encoded.
    """
    streams = plan_filled(run, mesh)
    for stream in streams.values():
        check(stream.facts)
    for stream in streams.values():
        stream.take_statistics()
    return streams


def plan_filled(run: WorldDiTRun | WorldARRun, mesh: Mesh) -> dict[Kind, FilledWindows]:
    """The same without statistics: of videos, and of images where the run has a share of them.

    Raises:
        ConfigError: the run began with another tokenizer, with texts in another precision, or with other windows.
    """
    parts, size = read_parts(run.data, "train", verify=mesh.is_main), run.train.global_batch_size
    plans: dict[Kind, SamplePlan] = {"video": SamplePlan(parts, run.seed, run.data, group_size=size)}
    if run.image_share:
        images = size * run.images_per_video
        plans["image"] = SamplePlan(parts, run.seed, run.data, image_share=1.0, group_size=images)
    begun = from_main(mesh, lambda: kept_at_start(run))
    precision = _text_precision(run, mesh.device.type, begun)
    maker = WindowMaker(run, plans["video"].parts, mesh, precision=precision)
    if begun is not None:
        require_tokenizer(run, begun.origin, maker.tokenizer_digest)
        require_same_settings(begun, window_settings(run))
    return {kind: FilledWindows(maker, plan, mesh, kind=kind, begun=begun) for kind, plan in plans.items()}


def window_settings(run: WorldRun) -> dict[str, str]:
    """Return what decides, beside manifests, seed and tokenizer, which windows a run takes, by configuration key."""
    keys = ("num_frames", "height_px", "width_px", "buckets", "frame_stride", "target_fps", "resize", "flip")
    found = {f"data.{key}": str(getattr(run.data, key)) for key in keys}
    return found | ({"images_per_video": str(run.images_per_video)} if run.image_share else {})


def _text_precision(run: WorldRun, device_type: str, begun: Kept | None) -> Precision:
    """Return what texts are encoded in: as the run began, so that it goes on alike on another kind of device, too."""
    asked = run.text.precision_on(device_type)
    if begun is None:
        return asked
    kept: Precision = "bf16" if begun.origin.text_precision == "bf16" else "fp32"
    if run.text.precision != "auto" and asked != kept:
        raise ConfigError(
            f"text.precision={asked}, but {begun.folder} began with {kept}; set that, or start another run from its "
            "weights (checkpoint.init_from)"
        )
    return kept


def latent_shape(
    data: DataConfig, codec: TokenizerConfig, size_px: tuple[int, int] | None = None
) -> tuple[int, int, int, int]:
    """[C, T, H, W] of the data section's windows; of codes C is 1. size_px: height and width, where there are several
    sizes."""
    channels = codec.latent_channels if codec.kind == "continuous" else 1
    size_px = size_px or (data.height_px, data.width_px)
    return (channels, codec.latent_frames(data.num_frames), *codec.latent_size(*size_px))


def _reads_text(run: WorldDiTRun | WorldARRun) -> bool:
    return isinstance(run, WorldDiTRun) or run.model.reads_text
