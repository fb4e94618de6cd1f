"""What a run keeps, in its own folder, of where its windows come from, from its first step on: so it goes on, and is
sampled and judged, as it began, wherever its latents lie by then.

    RUN/windows.json                                 digests of tokenizer and manifest, frame rate
    RUN/latent_statistics.safetensors                what latents of videos are whitened with
    RUN/image_latent_statistics.safetensors          and those of images
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from cosmos_data.latents import LatentStore, is_finished
from cosmos_tok.whitening import LatentStatistics, load_statistics, save_statistics
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import WorldRun
from cosmos_train.windows.stream import Kind, Origin, WindowStream

STATISTICS = "latent_statistics.safetensors"
"""Whitening statistics inside a latent cache, as `cosmos-train tokenize` writes them, or inside a run."""
OF_KIND: dict[Kind, str] = {"video": STATISTICS, "image": f"image_{STATISTICS}"}
KEPT = "windows.json"


def origin_of(store: LatentStore) -> Origin:
    """Where the windows of a finished cache come from."""
    return Origin(
        tokenizer_digest=store.metadata.tokenizer_digest,
        manifest_digest=store.metadata.manifest_digest,
        fps=store.describe(0).fps,
    )


def keep(run_dir: Path, streams: Mapping[Kind, WindowStream]) -> None:
    """Write down what the run is trained with. Of a run that goes on it is there already."""
    for kind, stream in streams.items():
        path, statistics = run_dir / OF_KIND[kind], stream.facts.statistics
        if statistics is not None and not (path.is_file() and _is_equal(load_statistics(path), statistics)):
            save_statistics(path, statistics)
    text, path = json.dumps(asdict(streams["video"].origin)), run_dir / KEPT
    if not (path.is_file() and path.read_text(encoding="utf-8") == text):
        aside = path.with_suffix(".writing")
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)


def kept_origin(run_dir: Path) -> Origin | None:
    """What a run has written down; None where it has not begun."""
    path = run_dir / KEPT
    return Origin(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def kept_statistics(run_dir: Path, kind: Kind) -> LatentStatistics | None:
    """What a run is whitened with; None where it has not begun."""
    path = run_dir / OF_KIND[kind]
    return load_statistics(path) if path.is_file() else None


def trained_statistics(run: WorldRun) -> LatentStatistics:
    """What latents of videos were whitened with, also in a run that began before runs kept it."""
    kept = kept_statistics(Path(run.run_dir), "video")
    return kept or load_statistics(Path(run.latents.folder) / STATISTICS)


def trained_origin(run: WorldRun) -> Origin:
    """Where the windows of a run came from, also of one that began before runs kept it."""
    kept = kept_origin(Path(run.run_dir))
    if kept is None and not is_finished(run.latents.folder):
        raise ConfigError(
            f"{run.run_dir}/{KEPT} is missing, which every run keeps from its first step on; start that run once more"
        )
    return kept or origin_of(LatentStore(run.latents.folder))


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
    """Of the numbers alone: others would change the scale of a run that goes on."""
    sha256 = hashlib.sha256()
    for tensor_CT in (statistics.mean_CT, statistics.std_CT):
        sha256.update(tensor_CT.contiguous().numpy().tobytes())
    return sha256.hexdigest()
