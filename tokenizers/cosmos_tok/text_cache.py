"""Text states computed once, kept in a folder by digest of text and encoder: T5-11B is loaded for new texts alone.

    FOLDER/<sha256 of encoder, max_tokens and text>.safetensors     states_SE without the zeros past the end, and counts

Any number of processes may fill one folder: a file is written aside and renamed, and its content depends on its name.
"""

import hashlib
import json
import logging
import os
import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from cosmos_tok.config import TokenizerError
from cosmos_tok.text import FolderTextEncoder, TextEncoder, TextStates

log = logging.getLogger(__name__)
ENCODER_FILES = (".json", ".model", ".txt", ".safetensors", ".bin")


def encoder_digest(folder: Path) -> str:
    """sha256 in hex of a model folder's configuration, tokenizer and weights, whatever the folder is called."""
    files = sorted(path for path in folder.iterdir() if path.suffix in ENCODER_FILES)
    if any(path.suffix == ".safetensors" for path in files):
        files = [path for path in files if path.suffix != ".bin"]  # the same weights again, which are not read
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


class CachedTextEncoder:
    """A text encoder (cosmos_tok.text.TextEncoder) in front of another one, which is loaded when a text is new."""

    def __init__(
        self,
        folder: Path,
        max_tokens: int,
        cache: Path,
        device: torch.device | str = "cpu",
        *,
        digest: str | None = None,
    ) -> None:
        """folder: the encoder's, as for FolderTextEncoder; cache: where states are kept, made if it is not there;
        digest: the folder's, where it is known already: to compute it is to read all weights."""
        self.max_tokens, self.cache = max_tokens, cache
        self.num_computed = 0
        self._identity = f"{digest or encoder_digest(folder)} max_tokens={max_tokens}"
        self._load: Callable[[], TextEncoder] = lambda: FolderTextEncoder(folder, max_tokens, device)
        self._loaded: TextEncoder | None = None
        self._is_told = False
        """That states can not be kept."""
        cache.mkdir(parents=True, exist_ok=True)

    @property
    def name(self) -> str:
        """The encoder's."""
        return self._encoder.name

    @property
    def width(self) -> int:
        """The encoder's."""
        return self._encoder.width

    def encode(self, prompts: Sequence[str]) -> TextStates:
        """States of each prompt, from the folder where it has them."""
        if isinstance(prompts, str) or not prompts:
            raise TokenizerError(f"prompts={prompts!r} is not a list of at least one prompt; pass [prompt]")
        found = [self._read(prompt) or self._compute(prompt) for prompt in prompts]
        padded = [F.pad(states_SE, (0, 0, 0, self.max_tokens - len(states_SE))) for states_SE, _ in found]
        return TextStates(
            states_BSE=torch.stack(padded),
            length_B=torch.tensor([len(states_SE) for states_SE, _ in found]),
            dropped_B=torch.tensor([dropped for _, dropped in found]),
        )

    @property
    def _encoder(self) -> TextEncoder:
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def _file(self, prompt: str) -> Path:
        digest = hashlib.sha256(f"{self._identity}\n{prompt}".encode())
        return self.cache / f"{digest.hexdigest()}.safetensors"

    def _read(self, prompt: str) -> tuple[Tensor, int] | None:
        path = self._file(prompt)
        if not path.is_file():
            return None
        try:
            stored = load_file(path)
            states_SE, dropped = stored["states_SE"], int(stored["dropped"])
            if states_SE.ndim != 2 or len(states_SE) > self.max_tokens:
                raise ValueError(f"states of shape {list(states_SE.shape)}")
            return states_SE, dropped
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise TokenizerError(
                f"{path} cannot be read: {error!r}; remove it, and its text is encoded again"
            ) from error

    def _compute(self, prompt: str) -> tuple[Tensor, int]:
        encoded = self._encoder.encode([prompt])
        states_SE = encoded.states_BSE[0, : int(encoded.length_B[0])].cpu().contiguous()
        tensors = {"states_SE": states_SE, "dropped": encoded.dropped_B[0].cpu()}
        self._keep(self._file(prompt), save(tensors, {"text": json.dumps(prompt)}))
        self.num_computed += 1
        return states_SE, int(encoded.dropped_B[0])

    def _keep(self, path: Path, content: bytes) -> None:
        # Nodes share the folder, and in containers hosts have equal names.
        aside = path.with_suffix(f".{platform.node()}.{os.getpid()}.{uuid4().hex[:8]}.writing")
        try:
            aside.write_bytes(content)
            aside.rename(path)
        except OSError as error:
            with suppress(OSError):
                aside.unlink()
            if not self._is_told:
                log.warning("%s can not be written to (%s): new texts are encoded each time", path.parent, error)
            self._is_told = True
