"""A trained world model with all that makes videos of it: network, tokenizer, text encoder. What both kinds have."""

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cosmos_data.errors import DataError
from cosmos_tok.config import TokenizerConfig
from cosmos_tok.model import CausalVideoTokenizer
from cosmos_tok.store import load_tokenizer, tokenizer_digest
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import find_yaml, load_run, read_values
from cosmos_train.config.schema import WorldARRun, WorldDiTRun
from cosmos_train.generate.digest import weights_digest
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.shard import torch_dtype
from cosmos_train.text.encoder import TextEncoder
from cosmos_train.train.checkpoint import load
from cosmos_train.train.checkpoint.folder import read_progress, resolve
from cosmos_train.train.checkpoint.verify import require_whole
from cosmos_train.windows.filled import latent_shape
from cosmos_train.windows.kept import require_tokenizer
from cosmos_train.windows.stream import Origin

WHOLE = (
    "parallel.tp=1",
    "parallel.pp=1",
    "parallel.pp_chunks=1",
    "parallel.pp_first_blocks=null",
    "parallel.pp_last_blocks=null",
    "parallel.cp=1",
    "parallel.sequence_parallel=false",
    "parallel.recompute=none",
    "parallel.precision={recipe: none, amax_history_len: 1024, amax_compute: max}",
)
"""A layout of one process, whatever layout trained the model; overrides stand over it."""
OnStep = Callable[[int], None]
"""Told the number of finished steps of a window; a step is what World.num_steps counts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedWorld(ABC):
    """What one rank needs to sample; tokenizer and text encoder are whole on every rank.

    Latents are what the network makes and the tokenizer decodes, in the form that the kind of model has them in.
    """

    run: WorldDiTRun | WorldARRun
    checkpoint_folder: Path
    step: int
    averaged: bool
    """The moving average of the weights, where the run kept one."""
    weights_digest: str
    """Names the weights that are sampled, whatever checkpoint and layout they come from."""
    mesh: Mesh
    tokenizer: CausalVideoTokenizer
    tokenizer_config: TokenizerConfig
    tokenizer_digest: str
    manifest_digest: str
    """Of the manifest that it was trained on; empty where the run does not say."""
    latent_shape: tuple[int, ...]
    """[C, T, H, W] of the windows that it was trained on."""
    fps: float
    """Frames per second of one of these."""
    text: TextEncoder | None
    """None where the model reads no text."""

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return self.mesh.device

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in: of its text states."""
        return torch_dtype(self.run.train.precision)

    @property
    @abstractmethod
    def num_parallel(self) -> int:
        """Data-parallel ranks that work on the same videos."""

    @abstractmethod
    def encode(self, pixels_B3THW: Tensor) -> Tensor:
        """uint8 pixels -> latents [B, ..., T, H, W]."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> uint8 pixels [B, 3, T, H, W], on the CPU."""

    @abstractmethod
    def read_prompts(self, named: dict[str, str]) -> Tensor | None:
        """What `sample_window` wants to know of the texts, which errors call by their names.

        There is one for all videos, or one for each of them.
        """

    @abstractmethod
    def num_steps(self, num_latent_frames: int) -> int:
        """Steps of a window of so many latent frames."""

    @abstractmethod
    def sample_window(
        self,
        text: Tensor | None,
        seeds: Sequence[int],
        given: Tensor | None,
        *,
        num_latent_frames: int,
        fps_B: Sequence[float],
        on_step: OnStep,
    ) -> Tensor:
        """Latents of a window that begins with the first frames of the given ones, a video for each seed.

        text: what read_prompts gave. given: of all videos, or of each.
        """

    def frames_for(self, num_latent_frames: int) -> int:
        """Pixel frames behind the first latent frames. Raises DataError beyond what the model was trained on."""
        trained = self.latent_shape[1]
        if num_latent_frames > trained:
            raise DataError(f"{num_latent_frames} latent frames were asked for, the model was trained on {trained}")
        return self.tokenizer_config.pixel_frames(num_latent_frames)

    def encode_text(self, named: dict[str, str]) -> Tensor:
        """States [B, S, E] of the texts, in the order of their names; what is cut off is told on standard error."""
        assert self.text is not None, "a model that reads no text was asked to"
        encoded = self.text.encode(list(named.values()))
        self.text.flush()
        if self.mesh.is_main:
            for name, dropped in zip(named, encoded.dropped_B.tolist(), strict=True):
                if dropped:
                    limit = self.run.text.max_tokens
                    print(f"the {name} is cut by {dropped} tokens to text.max_tokens={limit}", file=sys.stderr)
        return encoded.states_BSE.to(self.device, self.dtype)


def open_run(path: Path, overrides: Sequence[str]) -> tuple[Path, WorldDiTRun | WorldARRun]:
    """(checkpoint folder, its run with overrides of sampling and layout): all that can be checked before loading.

    Raises:
        CheckpointError, ConfigError: there is no checkpoint, it is no world model's, or an override is of another part.
    """
    folder = resolve(path)
    for override in overrides:
        if not override.startswith(("sample.", "parallel.", "sample=")):
            raise ConfigError(f"override {override!r}: only sample.key=value and parallel.key=value can be set here")
    overrides = [key_value for override in overrides for key_value in _from_file(override)]
    run_yaml = str(folder / "run.yaml")
    stored = load_run(run_yaml)
    if not isinstance(stored, WorldDiTRun | WorldARRun):
        raise ConfigError(f"{folder} is of a {stored.recipe} run; only world models can be sampled")
    run = load_run(run_yaml, [*WHOLE, *overrides])
    assert isinstance(run, WorldDiTRun | WorldARRun)
    return folder, run


def _from_file(override: str) -> list[str]:
    """sample=NAME is all that the file has, such as configs/sample/released_2ab.yaml of sample=sample/released_2ab."""
    if not override.startswith("sample="):
        return [override]
    values = read_values(find_yaml(override.removeprefix("sample=")))
    return [f"sample.{key}={json.dumps(value)}" for key, value in values.items()]


def load_codec(run: WorldDiTRun | WorldARRun, origin: Origin, device: torch.device) -> dict[str, Any]:
    """The fields of a TrainedWorld that are about the tokenizer and its windows, which must belong together. origin:
    where the run's windows came from."""
    folder = Path(run.latents.tokenizer)
    digest = tokenizer_digest(folder)
    tokenizer, config = load_tokenizer(folder)
    found = {"tokenizer": tokenizer.eval().to(device), "tokenizer_config": config, "tokenizer_digest": digest}
    require_tokenizer(run, origin, digest)
    shape = origin.latent_shape or latent_shape(run.data, config)
    return found | {"manifest_digest": origin.manifest_digest, "latent_shape": shape, "fps": origin.fps}


def load_weights(
    folder: Path, pieces: Sequence[nn.Module], networks: Sequence[nn.Module], mesh: Mesh, *, verify: bool
) -> dict[str, Any]:
    """Fill what was trained, and the fields of a TrainedWorld that are about it. networks: the part that is sampled.

    verify: compare what is read with its digests (checkpoint.verify). Raises CheckpointError where it is damaged.
    """
    require_whole(folder, mesh, contents=verify, kinds=load.WEIGHTS)
    averaged = load.has_average(folder)
    load.load_weights(folder, pieces, mesh, averaged=averaged)
    return {
        "checkpoint_folder": folder,
        "step": read_progress(folder).step,
        "averaged": averaged,
        "weights_digest": weights_digest(networks, mesh),
    }
