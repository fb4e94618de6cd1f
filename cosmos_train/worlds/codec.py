"""A codec lies between a world model and pixels: a tokenizer, and the statistics that its latents are whitened with."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cosmos_tok.config import TokenizerConfig
from cosmos_tok.convert import open_tokenizer
from cosmos_tok.model import CausalVideoTokenizer
from cosmos_tok.store import load_tokenizer, tokenizer_digest
from cosmos_tok.whitening import LatentStatistics
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import WorldRun
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.models.world_ar.config import WorldARConfig
from cosmos_train.windows.kept import require_tokenizer
from cosmos_train.windows.stream import Origin


@dataclass(frozen=True, kw_only=True, slots=True)
class Codec:
    """A tokenizer, whole on every rank."""

    tokenizer: CausalVideoTokenizer
    digest: str
    """Names what its latents mean; empty where the tokenizer is of another layout than ours."""
    statistics: LatentStatistics | None
    """Latents are whitened with them; of codes there are none."""

    @property
    def config(self) -> TokenizerConfig:
        """The tokenizer's architecture."""
        return self.tokenizer.config

    def on(self, device: torch.device) -> "Codec":
        """Return it with its tokenizer on a device."""
        return replace(self, tokenizer=self.tokenizer.to(device))

    def require_statistics(self) -> LatentStatistics:
        """Return the statistics. Raises ConfigError where there are none."""
        if self.statistics is None:
            raise ConfigError(
                "the tokenizer has no latent statistics, and a diffusion model's latents are whitened; pass "
                "open_world(..., statistics=load_statistics(...)), or a tokenizer that has them"
            )
        return self.statistics


def codec_of_run(run: WorldRun, origin: Origin, statistics: LatentStatistics | None, device: torch.device) -> Codec:
    """Load the tokenizer that made a run's windows.

    Args:
        origin: where the windows came from.
        statistics: what they were whitened with.

    Raises:
        ConfigError: latents.tokenizer is another tokenizer.
        TokenizerError: it can not be read.
    """
    folder = Path(run.latents.tokenizer)
    digest = tokenizer_digest(folder)
    tokenizer, _ = load_tokenizer(folder)
    require_tokenizer(run, origin, digest)
    return Codec(tokenizer=tokenizer.eval().to(device), digest=digest, statistics=statistics)


def read_codec(path: Path, statistics: LatentStatistics | None) -> Codec:
    """Read a tokenizer of any layout, onto the CPU.

    Args:
        statistics: what latents are whitened with; those that lie beside the tokenizer where none are given.

    Raises:
        TokenizerError: there is no tokenizer, or it is damaged.
    """
    found = open_tokenizer(path)
    return Codec(
        tokenizer=found.model.eval(),
        digest=tokenizer_digest(path) if found.layout == "ours" else "",
        statistics=found.statistics if statistics is None else statistics,
    )


def require_fit(codec: Codec, model: DiTConfig | WorldARConfig, tokenizer: Path) -> None:
    """Raises ConfigError where the model does not read what the tokenizer makes."""
    found = codec.config
    if isinstance(model, DiTConfig):
        if found.kind != "continuous" or found.latent_channels != model.latent_channels:
            raise ConfigError(
                f"tokenizer={tokenizer} is {found.kind}, with {found.latent_channels} channels, and this model reads "
                f"continuous latents of {model.latent_channels}; name the tokenizer that it was trained on"
            )
    elif found.kind != "discrete" or found.codebook_size != model.vocab_size:
        codes = f", with {found.codebook_size} codes" if found.kind == "discrete" else ""
        raise ConfigError(
            f"tokenizer={tokenizer} is {found.kind}{codes}, and this model reads {model.vocab_size} codes of a "
            "discrete one; name the tokenizer that it was trained on"
        )
