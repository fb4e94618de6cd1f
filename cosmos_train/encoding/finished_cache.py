"""`cosmos-train tokenize RUN.yaml`: fill the latent cache that a world model's run names.

Which windows each shard of the cache holds is a function of the manifest and the settings
(cosmos_data.caches.shard_plan), and so is a shard's name. Every process makes whole shards, its share of them, and
takes those that are there as they are: so a command that was stopped or killed goes on where it was, and several may
fill one folder. Whitening statistics, of the training split alone, are gathered by shards and summed in the order of
the shards; an autoregressive model's cache holds codes, which need none. The index comes last: the cache is complete or
absent.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cosmos_data.caches import latent_shards, text_shards
from cosmos_data.caches.encoded import KnownWindow, known_of
from cosmos_data.caches.latent_shards import LatentShard, WindowRow, latent_path, open_latent_shard, windows_per_shard
from cosmos_data.caches.latents import LatentMetadata, LatentStore, ShardEntry, entry_of, is_finished, write_index
from cosmos_data.caches.shard_file import key_of
from cosmos_data.caches.shard_plan import PlannedShard, choose_windows, plan_shards, shard_key
from cosmos_data.caches.text_shards import TextShard, open_text_shard, text_key, text_path, write_text_shard
from cosmos_data.config import DataConfig
from cosmos_data.decoders.decode import VideoDecoder, choose_decoder
from cosmos_data.errors import ClipError, DataError
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.sample_plan.plan import Sample, read_quarantine
from cosmos_data.sample_plan.window_conditions import conditions_said
from cosmos_data.whole_file import remove_abandoned
from cosmos_tok.store import load_tokenizer, tokenizer_digest
from cosmos_tok.whitening import LatentStatisticsAccumulator, save_statistics
from cosmos_train.config.schema import WorldARRun, WorldDiTRun
from cosmos_train.encoding.captions import TEXTS_AT_ONCE, tell_cut
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.device_copy import Sent
from cosmos_train.parallel.mesh import Mesh, from_main
from cosmos_train.recipes.world_ar import check_codec
from cosmos_train.text.cache import encoder_digest, load_text_encoder
from cosmos_train.text.encoder import DTYPES, TextEncoder, text_encoder_folder
from cosmos_train.train.signals import DONE, STOPPED, StopSignals
from cosmos_train.train.telling.progress import progress
from cosmos_train.windows.ahead import Ahead, as_it_is, map_ahead
from cosmos_train.windows.encoder import WINDOWS_AT_ONCE, WindowEncoder
from cosmos_train.windows.filled import latent_shape
from cosmos_train.windows.kept import STATISTICS

LONGEST_WAIT_MIN = 7 * 24 * 60.0
"""Of the first process that has made its shards, for the last one."""

MIB = 2**20


def encode_clips(run: WorldDiTRun | WorldARRun, stop: StopSignals) -> int:
    """This process's share, and on the first rank the index. Returns the exit code, 75 where it was asked to `stop`.

    Raises:
        DataError, TokenizerError, ValueError: the input is wrong.
        StorageError: the disk is full, or gone.
    """
    return in_groups(run, lambda mesh: encode_share(run, mesh, stop))


def in_groups(run: WorldDiTRun | WorldARRun, encode: Callable[[Mesh], int]) -> int:
    """What `encode` returns, called when this process and the others of `tokenize` have met."""
    mesh = init.start(
        ParallelConfig(), seed=run.seed, timeout_min=LONGEST_WAIT_MIN, rendezvous_sec=run.train.rendezvous_sec
    )
    is_alone = mesh.world.size() == 1
    try:
        exit_code = encode(mesh)
    except Exception:
        if is_alone:  # of several, others would fail of that before this one has told its reason
            init.stop()
        raise
    init.stop()
    return exit_code


def encode_share(run: WorldDiTRun | WorldARRun, mesh: Mesh, stop: StopSignals) -> int:
    """The same, of processes that have met. They stop together: whoever is asked waits until all are."""
    folder, started = Path(run.latents.folder), time.perf_counter()
    manifest = Manifest.read(run.data.manifest, verify=mesh.is_main)
    metadata = LatentMetadata(
        tokenizer_digest=from_main(mesh, lambda: tokenizer_digest(Path(run.latents.tokenizer))),
        text_encoder=run.text.identity_on(mesh.device.type),
        manifest_digest=manifest.digest,
        window_frames=run.data.num_frames,
        frame_stride=run.data.frame_stride,
        height_px=run.data.height_px,
        width_px=run.data.width_px,
        windows=_windows_asked(run),
        conditions=conditions_said(manifest),
    )
    if from_main(mesh, lambda: is_finished(folder)):
        LatentStore(folder).require(**asdict(metadata))
        if mesh.is_main:
            print(f"{folder} is complete already")
        return DONE
    tokenizer, codec = load_tokenizer(Path(run.latents.tokenizer))
    is_codes = isinstance(run, WorldARRun)
    if is_codes:
        check_codec(run, codec)
    latents = run.latents
    windows = choose_windows(
        manifest, run.data, hop_frames=latents.hop_frames, planned_per_clip=latents.planned_per_clip, seed=run.seed
    )
    if not any(group.split == "train" for group in windows) and not is_codes:
        raise DataError(f"data.manifest={run.data.manifest} has no training clips to take statistics of; build another")
    with WindowEncoder(tokenizer, mesh.device, as_codes=is_codes) as encoder:
        per_shard = {
            px: windows_per_shard(latent_shape(run.data.of_size(*px), codec), encoder.dtype, latents.shard_mib * MIB)
            for px in run.data.sizes_px
        }
        shards = plan_shards(windows, per_shard)
        decoder = choose_decoder(run.data, [manifest], mesh.device)
        maker = _ShardMaker(run, folder, metadata, encoder, decoder, mesh, stop)
        made = _of_all_ranks(maker.make_all(shards[mesh.world.rank() :: mesh.world.size()]), mesh)
    if made is None:
        if mesh.is_main:
            print(f"{folder}: stopped; the shards that are finished stay, and the same command goes on")
    elif mesh.is_main:
        _finish(folder, metadata, made)
        _tell(folder, sum(len(group.windows) for group in windows), run.data.num_frames, time.perf_counter() - started)
    dist.barrier(group=mesh.world)
    return STOPPED if made is None else DONE


@dataclass(kw_only=True, slots=True)
class _Shard:
    """A planned shard, as far as it is made."""

    planned: PlannedShard
    key: str
    text: TextShard
    found: LatentShard | None = None
    """Where it was there already."""
    samples: list[Sample] = field(default_factory=list)
    """Its windows, of one that is to be made."""
    known: list[KnownWindow] = field(default_factory=list)
    """What is known of each."""
    parts: list[Tensor] = field(default_factory=list)
    """Latents [B, C, T, H, W] of its first windows."""
    num_made: int = 0
    """Windows that they have."""
    statistics: LatentStatisticsAccumulator | None = None

    def add(self, z_BCTHW: Tensor) -> None:
        """Keep the latents of the next windows, and count them in where statistics are taken."""
        self.parts.append(z_BCTHW)
        self.num_made += len(z_BCTHW)
        if self.planned.split == "train" and z_BCTHW.is_floating_point():
            self.statistics = self.statistics or LatentStatisticsAccumulator(*z_BCTHW.shape[1:3])
            self.statistics.update(z_BCTHW)

    @property
    def is_whole(self) -> bool:
        """Whether no window is missing."""
        return self.found is not None or self.num_made == len(self.samples)


class _ShardMaker:
    """One process's."""

    def __init__(
        self,
        run: WorldDiTRun | WorldARRun,
        folder: Path,
        metadata: LatentMetadata,
        encoder: WindowEncoder,
        decoder: VideoDecoder,
        mesh: Mesh,
        stop: StopSignals,
    ) -> None:
        self._run, self._folder, self._metadata, self._mesh = run, folder, metadata, mesh
        self._encoder, self._decoder, self._stop = encoder, decoder, stop
        self._text_digest = None
        if run.text.cache is not None:
            text_folder = text_encoder_folder(run.text.encoder)
            self._text_digest = from_main(mesh, lambda: encoder_digest(text_folder))
        for name in (latent_shards.FOLDER, text_shards.FOLDER):
            remove_abandoned(folder / name)

    @cached_property
    def _text_encoder(self) -> TextEncoder:
        """Loaded where a text shard is wanted that is not there."""
        return load_text_encoder(self._run.text, self._mesh.device, digest=self._text_digest)

    def make_all(self, shards: list[PlannedShard]) -> list[tuple[ShardEntry, Any]] | None:
        """(line of the index, statistics) of each; None where this process was asked to stop, which it does at once."""
        total = sum(len(shard.numbers) for shard in shards)
        with progress(progress_title(self._mesh), "windows", is_told=self._mesh.is_main) as advance:
            return self._make(shards, lambda done: advance(done, total))

    def _make(self, shards: list[PlannedShard], tell: Callable[[int], None]) -> list[tuple[ShardEntry, Any]] | None:
        """While a shard is written, the next one's first two batches are encoded and further ones decoded, and no more:
        so a kill loses a shard and these."""
        made, done = [], 0
        with (
            closing(map_ahead(self._decode, self._batches(shards), batches_ahead(self._run.data))) as decoded,
            closing(Ahead(map(self._encode, decoded), as_it_is)) as encoded,
        ):
            for shard, z_BCTHW in encoded:
                if z_BCTHW is not None:
                    shard.add(z_BCTHW)
                done += len(shard.planned.numbers if z_BCTHW is None else z_BCTHW)
                tell(done)
                if self._stop.is_asked:
                    return None
                if shard.is_whole:
                    latents = self._write(shard) if shard.found is None else shard.found
                    made.append((entry_of(self._folder, latents, shard.text), latents.statistics))
        return made

    def _batches(self, shards: Iterable[PlannedShard]) -> Iterator[tuple[_Shard, list[Sample]]]:
        """What is to be decoded of each shard, in order; of one that is there, nothing."""
        for shard in map(self._begin, shards):
            if shard.found is not None:
                yield shard, []
                continue
            for start in range(0, len(shard.samples), WINDOWS_AT_ONCE):
                yield shard, shard.samples[start : start + WINDOWS_AT_ONCE]

    def _begin(self, planned: PlannedShard) -> _Shard:
        """A shard that another start, or another process, has made, or one that is to be made."""
        key = shard_key(planned, plan=asdict(self._metadata), dtype=self._encoder.dtype)
        if latent_path(self._folder, key).exists():
            found = open_latent_shard(self._folder, key, self._metadata.tokenizer_digest)
            if text_path(self._folder, found.text).exists():
                return _Shard(planned=planned, key=key, text=open_text_shard(self._folder, found.text), found=found)
        samples = planned.samples()
        known = [known_of(sample) for sample in samples]  # impossible conditions are found before anything is encoded
        text = self._text([window.caption for window in known])
        return _Shard(planned=planned, key=key, text=text, samples=samples, known=known)

    def _decode(self, of: tuple[_Shard, list[Sample]]) -> tuple[_Shard, Sent | None]:
        shard, samples = of
        try:
            return shard, self._encoder.send(self._decoder.decode(samples)) if samples else None
        except ClipError as error:
            raise DataError(f"{error}; repair that video, or build the manifest without it") from error

    def _encode(self, of: tuple[_Shard, Sent | None]) -> tuple[_Shard, Tensor | None]:
        shard, pixels = of
        return shard, None if pixels is None else self._encoder.encode(pixels)

    def _size_to_say(self, shard: PlannedShard) -> tuple[int, int] | None:
        """What a shard says of its windows' size: nothing where that is the one in the cache's metadata."""
        return None if shard.size_px == (self._metadata.height_px, self._metadata.width_px) else shard.size_px

    def _text(self, captions: list[str]) -> TextShard:
        captions = list(dict.fromkeys(captions))
        key = text_key(self._metadata.text_encoder, captions)
        if text_path(self._folder, key).exists():
            return open_text_shard(self._folder, key)
        states, dtype = {}, DTYPES[self._run.text.precision_on(self._mesh.device.type)]
        for start in range(0, len(captions), TEXTS_AT_ONCE):
            some = captions[start : start + TEXTS_AT_ONCE]
            encoded = self._text_encoder.encode(some)
            tell_cut(some, encoded, self._run.text.max_tokens)
            for caption, states_SE, length in zip(some, encoded.states_BSE, encoded.length_B.tolist(), strict=True):
                own_SE = states_SE[:length].to("cpu", dtype)  # in which they were computed
                states[caption] = own_SE.clone()  # and not a view, which would keep the padding too
        self._text_encoder.flush()
        return write_text_shard(self._folder, self._metadata.text_encoder, states)

    def _write(self, shard: _Shard) -> LatentShard:
        row_of = {shard.text.caption(row): row for row in range(len(shard.text.file))}
        return latent_shards.write_latent_shard(
            self._folder,
            shard.key,
            [WindowRow.of(known, row_of[known.caption]) for known in shard.known],
            torch.cat(shard.parts),
            split=shard.planned.split,
            tokenizer_digest=self._metadata.tokenizer_digest,
            text=shard.text.file.path.stem,
            size_px=self._size_to_say(shard.planned),
            statistics=None if shard.statistics is None else shard.statistics.to_lists(),
        )


def progress_title(mesh: Mesh) -> str:
    """Of the first process, which tells of its own share alone."""
    ranks = mesh.world.size()
    return "tokenize" if ranks == 1 else f"tokenize, first of {ranks} processes"


def batches_ahead(data: DataConfig) -> int:
    """That may be decoded before they are encoded: one at least."""
    windows_bytes = WINDOWS_AT_ONCE * 3 * data.num_frames * max(height * width for height, width in data.sizes_px)
    return max(1, min(data.prefetch_batches, data.memory_mib * MIB // windows_bytes))


def _finish(folder: Path, metadata: LatentMetadata, made: list[tuple[ShardEntry, Any]]) -> None:
    """Statistics, and last the index."""
    gathered = [LatentStatisticsAccumulator.from_lists(found) for _, found in made if found is not None]
    if gathered:
        first, *others = gathered
        for other in others:
            first.merge(other)
        save_statistics(folder / STATISTICS, first.statistics({"manifest_digest": metadata.manifest_digest}))
    write_index(folder, metadata, [entry for entry, _ in made])


def _tell(folder: Path, num_windows: int, window_frames: int, seconds: float) -> None:
    num_frames = num_windows * window_frames
    print(
        f"{num_windows} windows, {num_frames} frames in {seconds:.1f} s, {num_frames / seconds:.0f} frames/s: {folder}"
    )


def _of_all_ranks(mine: list[Any] | None, mesh: Mesh) -> list[Any] | None:
    """What ranks made of every so-many-eth, in the order of all; None where one of them stopped."""
    size = mesh.world.size()
    gathered: list[list[Any] | None] = [None] * size
    dist.all_gather_object(gathered, mine, group=mesh.world)  # of all groups it alone waits LONGEST_WAIT_MIN
    shares = [share for share in gathered if share is not None]
    if len(shares) < size:
        return None
    return [shares[number % size][number // size] for number in range(sum(len(share) for share in shares))]


def _windows_asked(run: WorldDiTRun | WorldARRun) -> str:
    """The settings, besides those that LatentMetadata has, that `choose_windows` goes by."""
    data, latents = run.data, run.latents
    settings = {"hop_frames": latents.hop_frames, "target_fps": data.target_fps, "resize": data.resize}
    if data.buckets != "one":
        settings["buckets"] = data.buckets
    if data.quarantine:
        settings["quarantine"] = key_of(sorted(read_quarantine(data.quarantine)))[:16]
    if latents.planned_per_clip:
        settings |= {"planned_per_clip": latents.planned_per_clip, "seed": run.seed, "flip": data.flip}
    return " ".join(f"{name}={value}" for name, value in settings.items())
