"""What a run that fills its latent cache whitens with. It is kept in the run's folder from the first step on, so that
the run goes on, and is sampled, as it began: its cache may be shared, or gone by then.
"""

import hashlib
from pathlib import Path

from cosmos_tok.store import STATISTICS as TOKENIZER_STATISTICS
from cosmos_tok.whitening import LatentStatistics, load_statistics, save_statistics
from cosmos_train.config.schema import WorldDiTRun

STATISTICS = "latent_statistics.safetensors"
"""Whitening statistics inside a latent cache, as `cosmos-train tokenize` writes them, or inside the run."""


def training_statistics(run: WorldDiTRun) -> LatentStatistics:
    """What the run began with; before it began those of its cache, or else of its tokenizer."""
    own, of_cache = Path(run.run_dir) / STATISTICS, Path(run.latents.folder) / STATISTICS
    of_tokenizer = Path(run.latents.tokenizer) / TOKENIZER_STATISTICS
    return load_statistics(next((path for path in (own, of_cache) if path.is_file()), of_tokenizer))


def keep_statistics(run: WorldDiTRun, statistics: LatentStatistics) -> None:
    """Of a run that begins; one that goes on has them already."""
    path = Path(run.run_dir) / STATISTICS
    if not path.is_file():
        save_statistics(path, statistics)


def statistics_digest(statistics: LatentStatistics) -> str:
    """Of the numbers alone: others would change the scale of a run that goes on."""
    sha256 = hashlib.sha256()
    for tensor_CT in (statistics.mean_CT, statistics.std_CT):
        sha256.update(tensor_CT.contiguous().numpy().tobytes())
    return sha256.hexdigest()
