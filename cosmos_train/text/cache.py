"""Text states computed once, kept in a store by digest of text and encoder: T5-11B is loaded for new texts alone."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from cosmos_data.caches.text_cache import TextCache
from cosmos_tok.config import Precision, TokenizerError
from cosmos_train.text.config import TextConfig
from cosmos_train.text.encoder import DTYPES, FolderTextEncoder, TextEncoder, TextStates, text_encoder_folder

ENCODER_FILES = (".json", ".model", ".txt", ".safetensors", ".bin")


class StateStore(Protocol):
    """Keeps states by a SHA-256; cosmos_data.caches.text_cache has one that processes and nodes share."""

    def read(self, key: str) -> tuple[Tensor, int] | None:
        """Return states [S, E] of a text's own tokens and how many were cut off; None where they are not there."""
        ...

    def write(self, key: str, states_SE: Tensor, dropped: int) -> None:
        """Keep them, at the latest until `flush`. Nothing is raised where that can not be done."""
        ...

    def flush(self) -> None:
        """Write what is not on the disk yet."""
        ...


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
    """This text encoder stands in front of another one (`encoder.TextEncoder`), which is loaded when a text is new."""

    def __init__(
        self,
        folder: Path,
        max_tokens: int,
        store: StateStore,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
        *,
        digest: str | None = None,
    ) -> None:
        """folder: the encoder's, see FolderTextEncoder; digest: the folder's, where it is known already: to compute it
        is to read all weights."""
        self.max_tokens, self.num_computed = max_tokens, 0
        self._store, self._dtype = store, DTYPES[precision]
        self._identity = f"{digest or encoder_digest(folder)} max_tokens={max_tokens}"
        if precision != "fp32":
            self._identity += f" {precision}"
        self._load: Callable[[], TextEncoder] = lambda: FolderTextEncoder(folder, max_tokens, device, precision)
        self._loaded: TextEncoder | None = None

    @property
    def name(self) -> str:
        """The encoder's."""
        return self._encoder.name

    @property
    def width(self) -> int:
        """The encoder's."""
        return self._encoder.width

    def encode(self, prompts: Sequence[str]) -> TextStates:
        """Return states of each prompt on the CPU, from the store where it has them."""
        if isinstance(prompts, str) or not prompts:
            raise TokenizerError(f"prompts={prompts!r} is not a list of at least one prompt; pass [prompt]")
        kept = {prompt: self._store.read(self._key(prompt)) for prompt in prompts}
        found = {prompt: states for prompt, states in kept.items() if states is not None}
        missing = [prompt for prompt in kept if prompt not in found]
        if missing:
            found |= self._compute(missing)
        states = [found[prompt] for prompt in prompts]
        padded = [F.pad(states_SE.float(), (0, 0, 0, self.max_tokens - len(states_SE))) for states_SE, _ in states]
        return TextStates(
            states_BSE=torch.stack(padded),
            length_B=torch.tensor([len(states_SE) for states_SE, _ in states]),
            dropped_B=torch.tensor([dropped for _, dropped in states]),
        )

    def flush(self) -> None:
        """Write the states that are to be kept and are not on the disk yet."""
        self._store.flush()

    @property
    def _encoder(self) -> TextEncoder:
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def _key(self, prompt: str) -> str:
        return hashlib.sha256(f"{self._identity}\n{prompt}".encode()).hexdigest()

    def _compute(self, prompts: Sequence[str]) -> dict[str, tuple[Tensor, int]]:
        encoded, found = self._encoder.encode(prompts), {}
        counts = zip(encoded.length_B.tolist(), encoded.dropped_B.tolist(), strict=True)
        for prompt, states_SE, (length, dropped) in zip(prompts, encoded.states_BSE.cpu(), counts, strict=True):
            found[prompt] = states_SE[:length].to(self._dtype), dropped  # what was computed in bf16 loses nothing
            self._store.write(self._key(prompt), *found[prompt])
        self.num_computed += len(prompts)
        return found


def cached_text_encoder(
    text: TextConfig,
    states: Path | str,
    device: torch.device,
    *,
    precision: Precision | None = None,
    digest: str | None = None,
) -> CachedTextEncoder:
    """Give the configured encoder behind a cache of its states, which lies in the folder `states`.

    precision: that states are computed in; None: the configured one. digest: the encoder's folder's (encoder_digest),
    where it is known already.
    """
    folder = text_encoder_folder(text.encoder)
    precision = precision or text.precision_on(device.type)
    return CachedTextEncoder(folder, text.max_tokens, TextCache(states), device, precision, digest=digest)


def load_text_encoder(text: TextConfig, device: torch.device, *, digest: str | None = None) -> TextEncoder:
    """Give the configured encoder, from its folder or package; behind a cache of its states where there is one.

    digest: the folder's (encoder_digest), where it is known already.
    """
    if text.cache is not None:
        return cached_text_encoder(text, text.cache, device, digest=digest)
    return FolderTextEncoder(text_encoder_folder(text.encoder), text.max_tokens, device, text.precision_on(device.type))
