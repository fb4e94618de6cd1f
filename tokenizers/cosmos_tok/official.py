"""NVIDIA's own layout of tokenizer checkpoints: which file holds what, and the architecture that its tensors tell.

Names of parameters are those of this package (see `model`). What surrounds them differs by file:

    model.pt, *.safetensors     the bare names
    training checkpoint         {"model": {"network.NAME", "ema.network-NAME with dashes for dots", losses}, ...}
    encoder.jit + decoder.jit,  TorchScript; the same names, the decoder of a discrete tokenizer with its quantiser
    autoencoder.jit             under `inv_quant.`
    mean_std.pt,                beside them: latent statistics of video and of single frames
    image_mean_std.pt

Files of cosmos-predict1 also hold buffers (BUFFERS), which tell the wavelet and the FSQ levels; those of the 0.1
release lack them, and hold resampling convolutions that are never used. What no tensor tells is taken from the
arguments of the official constructor, where the caller has them, and at last from a name such as `CV8x8x8` in the path.

Pickles are read with weights_only, so that a file cannot run code.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cosmos_tok.config import TokenizerConfig, TokenizerError
from cosmos_tok.model import CausalVideoTokenizer
from cosmos_tok.official_architecture import GivenArguments, buffers, derive_config
from cosmos_tok.pickles import load_pickle
from cosmos_tok.store import require_same_tensors
from cosmos_tok.torchscript import load_archive
from cosmos_tok.weight_file import is_torchscript
from cosmos_tok.weights import load_weights
from cosmos_tok.whitening import LatentStatistics

BUFFERS = re.compile(
    r"(encoder\.patcher|decoder\.unpatcher)(3d)?\.(wavelets|_arange|patch_size_buffer)"
    r"|quantizer\.(_levels|_basis|implicit_codebook)"
)
FIRST_TENSOR = re.compile(r"(.*?)(encoder|decoder)\.conv_in\.(0\.conv3d\.)?weight")


@dataclass(frozen=True)
class Checkpoint:
    """What an official file holds, under bare names."""

    tensors: Mapping[str, Tensor]
    config: TokenizerConfig
    notes: list[str]
    """What was left out, or taken from elsewhere than the tensors."""
    archives: tuple[Path, ...] = ()
    """TorchScript files that the tensors come from: encoder and decoder, or one of both."""

    def model(self) -> CausalVideoTokenizer:
        """Float32, which holds every bfloat16 and float16 number exactly, and in eval mode."""
        return model_of(self.config, {k: v for k, v in self.tensors.items() if not BUFFERS.fullmatch(k)})


def read_official(path: Path, arguments: Mapping[str, Any] | None = None, *, weights: str = "network") -> Checkpoint:
    """The tokenizer in an official file, or in a folder of official files.

    `arguments` are the official constructor's, for what the tensors do not tell; `weights` is `network` or `ema`, for
    training checkpoints that hold both. TokenizerError if the file is damaged, of an unknown layout or architecture.
    """
    files = _files(Path(path))
    archives = tuple(file for file in files if is_torchscript(file))
    stored: dict[str, Tensor] = {}
    for file in files:
        stored |= _read_tensors(file)
    given = {key: value for key, value in (arguments or {}).items() if value is not None}
    known = GivenArguments(given, files[0], (lambda: _run_for_rates(archives[0])) if archives else None)
    tensors = _bare_names(stored, weights, files[0], known.notes)
    config = derive_config(tensors, known)
    return Checkpoint(tensors, config, known.notes, archives)


def model_of(config: TokenizerConfig, tensors: Mapping[str, Tensor], where: str = "the file") -> CausalVideoTokenizer:
    """A float32 model of exactly these weights; TokenizerError names the first tensors that differ."""
    with torch.device("meta"):
        model = CausalVideoTokenizer(config)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    remedy = "its layout is not the released one, or --arguments are another tokenizer's"
    require_same_tensors(where, "the architecture derived from it", expected, tensors, remedy)
    copies = {name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}  # aligned, see `store`
    model.load_state_dict(copies, assign=True)
    return model.eval()


def official_tensors(model: CausalVideoTokenizer, *, quantizer_buffers: bool = True) -> dict[str, Tensor]:
    """Weights and buffers under official names, float32, as in cosmos-predict1; the 0.1 release has no buffers.

    Without `quantizer_buffers` as a discrete network of persistent_quantizer=False has them.
    """
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if model.config.extra_resampling:
        return tensors
    made = buffers(model.config)
    return tensors | {name: t for name, t in made.items() if quantizer_buffers or not name.startswith("quantizer.")}


def training_tensors(model: CausalVideoTokenizer, *, quantizer_buffers: bool = True) -> dict[str, Tensor]:
    """The same with the names of a training checkpoint: the network's, and their average's with dashes."""
    tensors = official_tensors(model, quantizer_buffers=quantizer_buffers)
    averages = {name: tensors[name] for name in model.state_dict()}
    dashed = {"ema." + f"network.{name}".replace(".", "-"): tensor for name, tensor in averages.items()}
    return {f"network.{name}": tensor for name, tensor in tensors.items()} | dashed


def read_statistics(path: Path, channels: int, *, rounded_to: torch.dtype = torch.bfloat16) -> LatentStatistics | None:
    """Latent statistics from an official mean_std.pt, or None if there is no such file.

    Rounded to bfloat16, as the official code uses them: a difference of up to 0.4 %, which its diffusion models know.
    torch.float32 leaves them as they are in the file, as the official code has them with is_bf16=False.
    """
    if not path.is_file():
        return None
    stored = load_pickle(path)
    try:
        mean, std = (torch.as_tensor(part).reshape(channels, -1).to(rounded_to).float() for part in stored)
        return LatentStatistics(mean, std, {"source": path.name})
    except (TypeError, ValueError, RuntimeError) as error:
        raise TokenizerError(
            f"{path} does not hold a mean and a deviation of {channels} channels by latent frames ({error}); "
            f"move it away to convert without statistics"
        ) from error


# Reading


def _files(path: Path) -> tuple[Path, ...]:
    """The files that hold the tokenizer that `path` names."""
    if path.is_dir():
        for names in (("model.pt",), ("encoder.jit", "decoder.jit"), ("autoencoder.jit",)):
            if all((path / name).is_file() for name in names):
                return tuple(path / name for name in names)
        files = [file for file in sorted(path.iterdir()) if file.suffix in (".pt", ".pth", ".ckpt", ".safetensors")]
        if len(files) == 1:
            return (files[0],)
        raise TokenizerError(
            f"{path} is no tokenizer: it has neither config.json with model.safetensors or "
            f"diffusion_pytorch_model.safetensors, nor model.pt, nor encoder.jit and decoder.jit, nor autoencoder.jit, "
            f"and {len(files)} other checkpoints; name the file"
        )
    if not path.is_file():
        raise TokenizerError(f"{path} does not exist; name a checkpoint file or a tokenizer's folder")
    for ours, theirs in (("encoder.jit", "decoder.jit"), ("_enc.jit", "_dec.jit")):
        for half, other, order in ((ours, theirs, 1), (theirs, ours, -1)):
            if path.name.endswith(half) and not path.name.endswith(f"auto{half}"):
                sibling = path.with_name(path.name.removesuffix(half) + other)
                if not sibling.is_file():
                    raise TokenizerError(f"{path} is half a tokenizer; put {sibling.name} beside it")
                return (path, sibling)[::order]
    return (path,)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if is_torchscript(path):
        return {name.removeprefix("inv_quant."): tensor for name, tensor in load_archive(path).state_dict().items()}
    return load_weights(path)


def _bare_names(stored: Mapping[str, Tensor], weights: str, path: Path, notes: list[str]) -> dict[str, Tensor]:
    """The tensors of one network in the file, without what stands before their names."""
    if weights not in ("network", "ema"):
        raise TokenizerError(f"weights={weights} is neither network nor ema; use one of them")
    dotted = {name.replace("-", ".") if name.startswith("ema") else name: t for name, t in stored.items()}
    first_tensors = filter(None, map(FIRST_TENSOR.fullmatch, dotted))
    prefixes = {found[1] for found in first_tensors}
    if not prefixes:
        raise TokenizerError(
            f"{path} has an unknown layout: none of its {len(stored)} tensors is encoder.conv_in.0.conv3d.weight "
            f"(video) or encoder.conv_in.weight (image), with or without a prefix; the first are {sorted(stored)[:3]}"
        )
    averaged = {prefix for prefix in prefixes if prefix.startswith("ema")}
    wanted = averaged if weights == "ema" or not prefixes - averaged else prefixes - averaged
    if not wanted or len(wanted) > 1:
        raise TokenizerError(f"{path} has networks under {sorted(prefixes)}, and weights={weights} does not name one")
    (prefix,) = wanted
    if prefixes - wanted:
        notes.append(f"the file has networks under {sorted(prefixes)}: took {prefix!r} (--weights network or ema)")
    bare = {name.removeprefix(prefix): tensor for name, tensor in dotted.items() if name.startswith(prefix)}
    # Averages are of parameters alone; the buffers, which tell the FSQ levels, stand with the network.
    for name, tensor in dotted.items():
        found = re.search(r"(encoder|decoder|quantizer)\..*", name)
        if found and BUFFERS.fullmatch(found[0]):
            bare.setdefault(found[0], tensor)
    parts = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "quantizer.")
    kept = {name: tensor for name, tensor in bare.items() if name.startswith(parts)}
    if len(stored) > len(kept) and not prefixes - wanted:
        notes.append(f"left out {len(stored) - len(kept)} tensors that are not the network's")
    return kept


def _run_for_rates(archive: Path) -> tuple[int, int]:
    """Temporal and spatial rate, by what an encoder makes of a clip."""
    module = load_archive(archive)
    dtype = next(module.parameters()).dtype
    with torch.inference_mode():
        z_BCTHW = module.encoder(torch.zeros(1, 3, 33, 64, 64, dtype=dtype))
    return 32 // max(1, z_BCTHW.shape[2] - 1), 64 // z_BCTHW.shape[4]
