"""What a run keeps, in its own folder, of where its windows come from, from its first step on: so it is sampled and
judged as it was trained, wherever its latents lie by then, and goes on as it began where it encodes them itself.

    RUN/windows.json                                 digests of tokenizer and manifest, frame rate, settings
    RUN/latent_statistics.safetensors                what latents of videos are whitened with
    RUN/image_latent_statistics.safetensors          and those of images
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from cosmos_data.caches.latents import LatentStore, is_finished
from cosmos_tok.whitening import LatentStatistics, load_statistics, save_statistics
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import WorldRun
from cosmos_train.train.checkpoint.folder import newest_checkpoint, resolve
from cosmos_train.train.telling.text_file import write_whole
from cosmos_train.windows.stream import KINDS, Kind, Origin, WindowStream

STATISTICS = "latent_statistics.safetensors"
"""Whitening statistics inside a latent cache, as `cosmos-train tokenize` writes them, or inside a run."""
OF_KIND: dict[Kind, str] = {"video": STATISTICS, "image": f"image_{STATISTICS}"}
KEPT = "windows.json"


@dataclass(frozen=True, slots=True)
class Kept:
    """Holds what a run has written down."""

    folder: Path
    origin: Origin
    statistics: Mapping[Kind, LatentStatistics]
    """Latents are whitened with them; of codes there are none."""


def origin_of(store: LatentStore) -> Origin:
    """Return where the windows of a finished cache come from."""
    return Origin(
        tokenizer_digest=store.metadata.tokenizer_digest,
        manifest_digest=store.metadata.manifest_digest,
        fps=store.describe(0).fps,
        latent_shape=store.latent_shape if len(store.shapes) == 1 else None,
    )


def keep(run_dir: Path, streams: Mapping[Kind, WindowStream]) -> None:
    """Write down what the run is trained with. Of a run that goes on it is there already."""
    for kind, stream in streams.items():
        path, statistics = run_dir / OF_KIND[kind], stream.facts.statistics
        if statistics is not None and not (path.is_file() and _is_equal(load_statistics(path), statistics)):
            save_statistics(path, statistics)
    text, path = json.dumps(asdict(streams["video"].origin)), run_dir / KEPT
    if not (path.is_file() and path.read_text(encoding="utf-8") == text):
        write_whole(path, text)


def read_kept(folder: Path) -> Kept | None:
    """Read what the run in a folder has written down; return None where it has not begun."""
    path = folder / KEPT
    if not path.is_file():
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    if values.get("latent_shape") is not None:
        values["latent_shape"] = tuple(values["latent_shape"])
    statistics = dict[Kind, LatentStatistics]()
    for kind in KINDS:
        if (folder / OF_KIND[kind]).is_file():
            statistics[kind] = load_statistics(folder / OF_KIND[kind])
    return Kept(folder, Origin(**values), statistics)


def kept_at_start(run: WorldRun) -> Kept | None:
    """Read what the run that this start goes on with has written down: its own where it has a checkpoint, or that of
    checkpoint.resume_from. Of a run that was stopped before its first checkpoint nothing counts."""
    if newest_checkpoint(Path(run.run_dir)) is not None:
        return read_kept(Path(run.run_dir))
    if run.checkpoint.resume_from is not None:
        return read_kept(resolve(Path(run.checkpoint.resume_from)).parent.parent)
    return None


def trained_with(checkpoint_folder: Path, run: WorldRun) -> tuple[Origin, LatentStatistics | None]:
    """(where the windows of a run came from, what its videos were whitened with), of one of its checkpoints.

    It is looked for in the run that has the checkpoint, then in run.run_dir, which that run may have left, and, of a
    run that began before runs kept it, in its finished cache.

    Raises:
        ConfigError: it is in none of them.
    """
    found = read_kept(checkpoint_folder.parent.parent) or read_kept(Path(run.run_dir))
    if found is not None:
        return found.origin, found.statistics.get("video")
    if not is_finished(run.latents.folder):
        raise ConfigError(
            f"{run.run_dir}/{KEPT} is missing, which every run keeps from its first step on; start that run once more"
        )
    path = Path(run.latents.folder) / STATISTICS
    return origin_of(LatentStore(run.latents.folder)), load_statistics(path) if path.is_file() else None


def require_same_settings(begun: Kept, settings: Mapping[str, str]) -> None:
    """Raises ConfigError where a run would go on with windows that are chosen in another way than it began with."""
    for key, value in settings.items():
        if begun.origin.settings.get(key, value) != value:
            raise ConfigError(
                f"{key}={value}, but {begun.folder} began with {begun.origin.settings[key]}; set that, or start "
                "another run from its weights (checkpoint.init_from)"
            )


def require_tokenizer(run: WorldRun, origin: Origin, tokenizer_digest: str) -> None:
    """Raises ConfigError where windows of that origin are of another tokenizer than the one of this digest."""
    if origin.tokenizer_digest != tokenizer_digest:
        raise ConfigError(
            f"latents.tokenizer={run.latents.tokenizer} has digest {tokenizer_digest[:12]}, but {run.run_dir} began "
            f"with {origin.tokenizer_digest[:12]}; name that tokenizer"
        )


def _is_equal(one: LatentStatistics, other: LatentStatistics) -> bool:
    return torch.equal(one.mean_CT, other.mean_CT) and torch.equal(one.std_CT, other.std_CT)


def statistics_digest(statistics: LatentStatistics) -> str:
    """Return the digest of the numbers alone: others would change the scale of a run that goes on."""
    sha256 = hashlib.sha256()
    for tensor_CT in (statistics.mean_CT, statistics.std_CT):
        sha256.update(tensor_CT.contiguous().numpy().tobytes())
    return sha256.hexdigest()
