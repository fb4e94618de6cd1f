"""The latents of one clip in one safetensors file: complete under its name, or absent.

    z        [C, T', H', W'], raw latents of a continuous tokenizer, in its dtype; or
    indices  [T', H', W'] int32 in 0 .. codebook_size - 1, of a discrete one

The file's metadata says what they are made of (`LatentOrigin`) and where in the decoded video the clip lies.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cosmos_tok.config import TokenizerError
from cosmos_tok.model import CausalVideoTokenizer
from cosmos_tok.padding import InnerBox
from cosmos_tok.whole_file import whole_file

FORMAT = "cosmos-latents 1"


@dataclass(frozen=True, kw_only=True)
class LatentOrigin:
    """What latents are a function of: equal origins, equal latents."""

    tokenizer_digest: str
    source_digest: str
    """sha256 that stands for the clip's pixels."""
    transform: dict[str, Any]
    """What was done to the pixels before they were encoded; JSON."""
    dtype: str
    """Of the tokenizer's weights and its latents: float32, bfloat16 or float16."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LatentFile:
    """A clip's latents with all that decoding them needs."""

    origin: LatentOrigin
    source: str
    """The clip's name, for people."""
    fps: float
    box: InnerBox
    """Where the clip lies in the video that the latents decode to."""
    latents: Tensor
    """z [C, T', H', W'] or indices [T', H', W'] int32."""

    def pieces(self, tokenizer: CausalVideoTokenizer, num_latent_frames: int) -> Iterator[Tensor]:
        """What `tokenizer.decode_stream` takes, [1, C, t', H', W'], so many latent frames at a time."""
        is_discrete = tokenizer.config.kind == "discrete"
        if self.latents.ndim != (3 if is_discrete else 4):
            raise TokenizerError(
                f"{self.source}: latents of shape {list(self.latents.shape)} are not those of a "
                f"{tokenizer.config.kind} tokenizer; encode the clip again"
            )
        for piece in self.latents.unsqueeze(0).split(num_latent_frames, dim=1 if is_discrete else 2):
            yield tokenizer.codes(piece) if is_discrete else piece


def latents_of(tokenizer: CausalVideoTokenizer, chunks: Iterable[Tensor]) -> Tensor:
    """What `LatentFile.latents` holds, on the CPU, of a clip's chunks [1, 3, t, H, W] as `encode_stream` takes them."""
    pieces = tokenizer.encode_stream(chunks)
    if tokenizer.config.kind == "discrete":
        return torch.cat([tokenizer.indices(piece).int().cpu() for piece in pieces], dim=1)[0]
    return torch.cat([piece.cpu() for piece in pieces], dim=2)[0]


def save_latents(path: Path, file: LatentFile) -> None:
    """Written aside, then renamed; an older file of that name is replaced. Folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {
        "format": FORMAT,
        "origin": json.dumps(dataclasses.asdict(file.origin), sort_keys=True),
        "source": file.source,
        "fps": repr(file.fps),
        "box": json.dumps(dataclasses.asdict(file.box)),
    }
    with whole_file(path) as aside:
        save_file({_tensor_name(file.latents): file.latents.contiguous()}, aside, metadata=metadata)


def load_latents(path: Path) -> LatentFile:
    """Read what `save_latents` wrote. TokenizerError where the file is missing, cut off or something else."""
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata() or {}
            _require_format(path, metadata)
            box = json.loads(metadata["box"])
            [name] = stored.keys()
            return LatentFile(
                origin=LatentOrigin(**json.loads(metadata["origin"])),
                source=metadata["source"],
                fps=float(metadata["fps"]),
                box=InnerBox(tuple(box["start_THW"]), tuple(box["size_THW"])),
                latents=stored.get_tensor(name).clone(),  # aligned, as those that were just encoded (see `store`)
            )
    except (OSError, SafetensorError) as error:
        raise TokenizerError(f"{path} cannot be read: {error}; encode the clip again") from error


def stored_origin(path: Path) -> LatentOrigin | None:
    """The origin of the latents at `path`, read from its first bytes; None where there is no such file."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise TokenizerError(f"{path} cannot be read: {error}; remove it, and the clip is encoded again") from error
    _require_format(path, metadata)
    return LatentOrigin(**json.loads(metadata["origin"]))


def _require_format(path: Path, metadata: dict[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise TokenizerError(
            f"{path} is no file of latents: its format is {metadata.get('format')!r}, not {FORMAT!r}; name what "
            "`cosmos-train tokenize` wrote"
        )


def _tensor_name(latents: Tensor) -> str:
    return "z" if latents.is_floating_point() else "indices"
