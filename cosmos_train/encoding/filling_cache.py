"""`cosmos-train tokenize RUN.yaml` of a run with latents.fill=true: the windows of its first samples, encoded ahead.

They are those that the run will ask for, under the same names, so the run finds them and encodes what is beyond. What
is in the folder already stays: the same line again goes on where it was stopped, and several may fill one folder.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import WorldARRun, WorldDiTRun, WorldRun
from cosmos_train.encoding.captions import TEXTS_AT_ONCE
from cosmos_train.encoding.finished_cache import in_groups, progress_title
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.recipes import world_ar
from cosmos_train.train.signals import DONE, STOPPED, StopSignals
from cosmos_train.train.telling.progress import progress
from cosmos_train.windows import world_batches
from cosmos_train.windows.filled import FilledWindows, plan_filled
from cosmos_train.windows.source import WindowSource, places_of


def encode_ahead(run: WorldDiTRun | WorldARRun, num_samples: int | None, stop: StopSignals) -> int:
    """This process's share. Returns the exit code, 75 where any was asked to `stop`.

    num_samples: how many of the run's samples, by all processes; None: an epoch, each clip once.

    Raises:
        ConfigError, DataError, TokenizerError, ValueError: something is missing, does not fit, or the folder does not
            hold so many windows.
    """
    if num_samples is not None and num_samples < 1:
        raise ConfigError(f"--samples {num_samples} must be at least 1")
    return in_groups(run, lambda mesh: encode_share(run, num_samples, mesh, stop))


def encode_share(run: WorldDiTRun | WorldARRun, num_samples: int | None, mesh: Mesh, stop: StopSignals) -> int:
    """The same, of processes that have met."""
    _require_writable(Path(run.latents.folder))
    streams = plan_filled(run, mesh)
    for stream in streams.values():
        if isinstance(run, WorldARRun):
            world_ar.check_fits(run.model, stream.facts)
        else:
            world_batches.check_fits(run.model, stream.facts)
    num_samples = streams["video"].plan.num_clips if num_samples is None else num_samples
    source = WindowSource(run, streams)
    mine = list(source.turns([index] for index in range(mesh.world.rank(), num_samples, mesh.world.size())))
    asked = [(stream, list(places_of(kind, mine))) for kind, stream in streams.items()]
    num_bytes = sum(stream.mean_bytes * sum(map(len, places)) for stream, places in asked)
    _require_room(run, num_bytes * mesh.world.size())
    maker, total = streams["video"].maker, sum(len(turn.places) for turn in mine)
    try:
        _fill(asked, total, mesh, stop)
    finally:  # what is encoded stays, also where the command is stopped
        maker.flush()
    counts = torch.tensor([maker.encoder.num_encoded, total, int(stop.is_asked)], device=mesh.device)
    dist.all_reduce(counts, group=mesh.world)
    num_encoded, num_asked, num_stopped = counts.tolist()
    if num_stopped:
        if mesh.is_main:
            print(f"{run.latents.folder}: stopped; what is encoded stays, and the same command goes on")
        return STOPPED
    num_trained = run.train.num_steps * run.train.global_batch_size
    if mesh.is_main:
        print(
            f"{num_encoded} windows encoded, {num_asked - num_encoded} were there already; the run takes "
            f"{num_trained} samples: {run.latents.folder}"
        )
    return DONE


def _fill(
    asked: Sequence[tuple[FilledWindows, Sequence[Sequence[int]]]], total: int, mesh: Mesh, stop: StopSignals
) -> None:
    """Encode the windows at these places of each stream, and their captions, until it is asked to stop. total: number
    of all of them."""
    done = 0
    with progress(progress_title(mesh), "windows", is_told=mesh.is_main) as advance:
        for stream, places in asked:
            captions: list[str] = []
            for batch in stream.videos(places):
                captions += [sample.caption for sample in batch.samples]
                if not done or len(captions) >= TEXTS_AT_ONCE:  # a text encoder that does not fit is told at once
                    stream.maker.encode_text(captions)
                    captions.clear()
                done += len(batch.samples)
                advance(done, total)
                if stop.is_asked:
                    return
            if captions:
                stream.maker.encode_text(captions)


def _require_writable(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"latents.folder={folder} can not be written to; name another, or let its owner fill it")


def _require_room(run: WorldRun, num_bytes: float) -> None:
    """num_bytes: of the latents of all windows."""
    limit_gib = run.latents.max_gib
    if limit_gib is not None and num_bytes > limit_gib * 2**30:
        raise ConfigError(
            f"latents.max_gib={limit_gib} is less than the {num_bytes / 2**30:.3g} GiB of so many windows: the first "
            "would be gone before the run starts; allow more, or fill fewer samples ahead (--samples)"
        )
