"""Tokenizers of other projects become ours, and ours theirs; each conversion is proven before it has a name.

    ours        a folder of `store`
    official    NVIDIA's files, see `official`; written: model.pt, arguments.json and, with statistics, mean_std.pt
    training    written only: checkpoint.pt with the names of an official training run
    diffusers   a folder of AutoencoderKLCosmos, see `kl_cosmos`

What was written is read again, encodes and decodes a fixed clip, and must agree with the source within TOLERANCE. Codes
must be equal but where a value lies within TOLERANCE of the middle between two levels: two ways of computing it differ
by 1e-6, and either level is right. Either side is run by its own code where that is at hand: diffusers' class, if
installed, or the TorchScript archive. Tensors of an official or diffusers source must besides come back bit for bit
under their old names. Only then is the result renamed to the folder asked for. Everything written is float32, which
holds bfloat16 exactly.
"""

import importlib
import importlib.util
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cosmos_tok import fsq, kl_cosmos, official
from cosmos_tok.config import TokenizerConfig, TokenizerError
from cosmos_tok.model import CausalVideoTokenizer
from cosmos_tok.official_architecture import buffers, official_arguments
from cosmos_tok.store import CONFIG, FORMAT, IMAGE_STATISTICS, STATISTICS, load_metadata, load_tokenizer, save_tokenizer
from cosmos_tok.torchscript import load_archive
from cosmos_tok.weight_file import refuse_broken_links
from cosmos_tok.whitening import LatentStatistics, load_statistics
from cosmos_tok.whole_file import whole_folder

TOLERANCE = 1e-4
NO_BUFFERS = "official_files_lack_quantizer_buffers"
"""Key in the metadata of a folder of ours, which remembers it of the official file that it was made of."""
STATISTICS_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
LAYOUTS = ("ours", "official", "training", "diffusers")


@dataclass(frozen=True)
class Runner:
    """Something that encodes and decodes a clip [B, 3, T, H, W]: a model of ours or of another project."""

    what: str
    encode: Callable[[Tensor], Tensor]
    """Latents, or the codes of a discrete tokenizer."""
    decode: Callable[[Tensor], Tensor]
    """The video of what `encode` returns."""


@dataclass
class FoundTokenizer:
    """A tokenizer as it was found."""

    layout: str
    path: Path
    model: CausalVideoTokenizer
    """Float32, in eval mode."""
    runner: Runner
    """The source's own code, or `model` where that is not at hand."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """The file's own tensors under official or diffusers names; empty for ours."""
    statistics: LatentStatistics | None = None
    image_statistics: LatentStatistics | None = None
    notes: list[str] = field(default_factory=list)
    quantizer_buffers: bool = True
    """Whether official files of this discrete tokenizer have its quantiser's buffers."""

    @property
    def config(self) -> TokenizerConfig:
        return self.model.config


@dataclass(frozen=True)
class Conversion:
    """What was converted, and how closely the result agrees with the source."""

    layout: str
    config: TokenizerConfig
    num_parameters: int
    compared_with: str
    clip: tuple[int, int, int]
    """Frames, height and width in pixels of the clip that was compared."""
    encode_difference: float
    """Largest absolute difference of latents, or of codes that do not lie between two levels."""
    decode_difference: float
    """Largest absolute difference of pixels in -1 .. 1."""
    notes: tuple[str, ...]


def read_tokenizer(
    path: Path | str, arguments: Mapping[str, Any] | None = None, *, weights: str = "network"
) -> tuple[CausalVideoTokenizer, TokenizerConfig]:
    """The tokenizer in a file or folder of any layout, float32 and in eval mode, and its config; nothing is written.

    `arguments` are those of the official constructor, where a file does not tell its architecture; `weights` is
    `network` or `ema`, for training checkpoints that hold both.
    """
    source = open_tokenizer(Path(path), arguments, weights=weights)
    return source.model, source.config


def convert(
    source: Path | str,
    out: Path | str,
    *,
    to: str = "ours",
    arguments: Mapping[str, Any] | None = None,
    weights: str = "network",
    statistics: str = "bf16",
) -> Conversion:
    """Write the tokenizer at `source` to the new folder `out` in the layout `to`, and prove it.

    `arguments` and `weights` as for `read_tokenizer`; `statistics` is what an official file's latent statistics are
    rounded to: bf16, as the official code uses them by default, or fp32, as they are.
    TokenizerError, and no folder, if the source cannot be read, `to` cannot express it, or the result differs.
    """
    out = Path(out)
    if to not in LAYOUTS:
        raise TokenizerError(f"to={to} is not a layout; use one of {', '.join(LAYOUTS)}")
    if out.exists():
        raise TokenizerError(f"{out} exists already; remove it or convert to another folder")
    if statistics not in STATISTICS_DTYPES:
        raise TokenizerError(f"statistics={statistics} is no number format of them; use bf16 or fp32")
    found = open_tokenizer(Path(source), arguments, weights=weights, statistics=statistics)
    with whole_folder(out) as aside:
        result = _write(aside, found, to)
        _require_tensors_back(found, result)
        return _compare(found, result)


def open_tokenizer(
    path: Path, arguments: Mapping[str, Any] | None = None, *, weights: str = "network", statistics: str = "bf16"
) -> FoundTokenizer:
    """Recognise and read a tokenizer of any layout; the arguments are those of `convert`."""
    refuse_broken_links(path)
    if path.is_dir() and _is_ours(path):
        model = load_tokenizer(path)[0].float()
        found = FoundTokenizer("ours", path, model, _our_runner(model))
        found.quantizer_buffers = not load_metadata(path).get(NO_BUFFERS, False)
        found.statistics = load_statistics(path / STATISTICS) if (path / STATISTICS).is_file() else None
        if (path / IMAGE_STATISTICS).is_file():
            found.image_statistics = load_statistics(path / IMAGE_STATISTICS)
        return found
    if path.is_dir() and (folder := kl_cosmos.find_folder(path)):
        tensors, config, of_video = kl_cosmos.read_folder(folder)
        model = official.model_of(config, tensors, str(folder))
        table = kl_cosmos.names(config)
        theirs = {table[name]: tensor for name, tensor in tensors.items()}
        return FoundTokenizer("diffusers", folder, model, _diffusers_runner(folder, model), theirs, of_video)
    if arguments is None and (beside := (path if path.is_dir() else path.parent) / "arguments.json").is_file():
        arguments = read_arguments(beside)
    checkpoint = official.read_official(path, arguments, weights=weights)
    model, folder = checkpoint.model(), path if path.is_dir() else path.parent
    runner = _archive_runner(checkpoint, model) if checkpoint.archives else _our_runner(model)
    video, image = (
        official.read_statistics(
            folder / name, checkpoint.config.latent_channels, rounded_to=STATISTICS_DTYPES[statistics]
        )
        for name in ("mean_std.pt", "image_mean_std.pt")
    )
    return FoundTokenizer(
        "official",
        path,
        model,
        runner,
        checkpoint.tensors,
        video,
        image,
        checkpoint.notes,
        checkpoint.config.kind != "discrete" or any(name.startswith("quantizer.") for name in checkpoint.tensors),
    )


def read_arguments(path: Path) -> dict[str, Any]:
    """The official constructor's arguments in a JSON file."""
    try:
        arguments = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path} cannot be read as JSON: {error}; write one object of arguments") from error
    if not isinstance(arguments, dict):
        raise TokenizerError(f'{path} is not one JSON object; write e.g. {{"spatial_compression": 8}}')
    return arguments


# Writing and reading again


def _write(folder: Path, source: FoundTokenizer, to: str) -> FoundTokenizer:
    """Write the source into a new folder, and read that again."""
    if to == "ours":
        metadata: dict[str, Any] = {"converted_from": source.layout, "source": source.path.name}
        if not source.quantizer_buffers:
            metadata[NO_BUFFERS] = True
        save_tokenizer(
            folder,
            source.model,
            source.config,
            metadata,
            statistics=source.statistics,
            image_statistics=source.image_statistics,
        )
        return open_tokenizer(folder)
    folder.mkdir(parents=True)
    if to == "diffusers":
        kl_cosmos.write_folder(folder, source.model, source.statistics)
        return open_tokenizer(folder)
    has_buffers = source.quantizer_buffers
    arguments = official_arguments(source.config, quantizer_buffers=has_buffers)
    (folder / "arguments.json").write_text(json.dumps(arguments, indent=2) + "\n")
    for name, statistics in (("mean_std.pt", source.statistics), ("image_mean_std.pt", source.image_statistics)):
        if statistics is not None:
            torch.save((statistics.mean_CT, statistics.std_CT), folder / name)
    if to == "training":
        torch.save(
            {"model": official.training_tensors(source.model, quantizer_buffers=has_buffers)}, folder / "checkpoint.pt"
        )
        return open_tokenizer(folder / "checkpoint.pt")
    torch.save(official.official_tensors(source.model, quantizer_buffers=has_buffers), folder / "model.pt")
    return open_tokenizer(folder / "model.pt")


def _is_ours(folder: Path) -> bool:
    try:
        return json.loads((folder / CONFIG).read_text()).get("format", "").split()[0] == FORMAT.split()[0]
    except (OSError, ValueError, AttributeError, IndexError):
        return False


# Running


def _our_runner(model: CausalVideoTokenizer) -> Runner:
    return Runner("the weights as read", model.encode, model.decode)


def _diffusers_runner(folder: Path, model: CausalVideoTokenizer) -> Runner:
    if importlib.util.find_spec("diffusers") is None:
        return _our_runner(model)
    peer: Any = importlib.import_module("diffusers").AutoencoderKLCosmos
    peer = peer.from_pretrained(folder, torch_dtype=torch.float32, low_cpu_mem_usage=False).eval()
    return Runner(
        f"diffusers' {kl_cosmos.CLASS_NAME}",
        lambda x: peer.encode(x).latent_dist.mode(),
        lambda z: peer.decode(z).sample,
    )


def _archive_runner(checkpoint: official.Checkpoint, model: CausalVideoTokenizer) -> Runner:
    """The archives' own layers; our reading of them where they cannot run, being in bfloat16 or traced on a GPU."""
    archives = [load_archive(path) for path in checkpoint.archives]
    encoder, decoder = archives[0], archives[-1]
    is_image = model.config.media == "image"

    def encode(video_B3THW: Tensor) -> Tensor:
        z = encoder.quant_conv(encoder.encoder(video_B3THW.squeeze(2) if is_image else video_B3THW))
        if model.config.kind == "discrete":
            z = encoder.quantizer(z)[1]
        return z.unsqueeze(2) if is_image else z

    def decode(z_BCTHW: Tensor) -> Tensor:
        video = decoder.decoder(decoder.post_quant_conv(z_BCTHW.squeeze(2) if is_image else z_BCTHW))
        return video.unsqueeze(2) if is_image else video

    try:
        parameters = chain.from_iterable(archive.parameters() for archive in archives)
        if any(parameter.dtype != torch.float32 for parameter in parameters):
            raise RuntimeError("it is not in float32")
        with torch.inference_mode():
            decode(encode(_clip(model.config)))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        checkpoint.notes.append(f"compared with the weights in the archive, not with the archive itself: {reason}")
        return _our_runner(model)
    return Runner("the TorchScript archive", encode, decode)


# Proving


def _clip(config: TokenizerConfig) -> Tensor:
    """A fixed clip of sides that are no powers of two: three latent frames of a video, or one image."""
    frames = 1 if config.media == "image" else config.pixel_frames(3)
    height, width = 3 * config.spatial_rate, 5 * config.spatial_rate
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, 3, frames, height, width, generator=generator) * 2 - 1


@torch.inference_mode()
def _compare(source: FoundTokenizer, result: FoundTokenizer) -> Conversion:
    clip = _clip(source.config)
    z, z_result = source.runner.encode(clip).float(), result.runner.encode(clip).float()
    if source.config.kind == "discrete" and z.shape == z_result.shape:
        either = _between_levels(source.model, clip, z, z_result) & (z != z_result)
        z_result = z.where(either, z_result)
        if count := int(either.sum()):
            source.notes.append(f"{count} of {z.numel()} codes lie between two levels and were rounded either way")
    differences = [_largest(z, z_result), _largest(source.runner.decode(z).float(), result.runner.decode(z).float())]
    limits = [0.0 if source.config.kind == "discrete" else TOLERANCE, TOLERANCE]
    runners = [one.runner for one in (source, result) if one.runner.what != "the weights as read"]
    for what, difference, limit in zip(("encode", "decode"), differences, limits, strict=True):
        if not difference <= limit:
            raise TokenizerError(
                f"{source.path}, converted, does not {what} a fixed clip as the source does: the largest difference is "
                f"{difference:.3g}, the limit {limit:g}; nothing was written. If its architecture is another than "
                f"{source.config}, say so with --arguments"
            )
    _, _, frames, height, width = clip.shape
    return Conversion(
        layout=source.layout,
        config=source.config,
        num_parameters=sum(parameter.numel() for parameter in source.model.parameters()),
        compared_with=" and ".join(runner.what for runner in runners) or source.runner.what,
        clip=(frames, height, width),
        encode_difference=differences[0],
        decode_difference=differences[1],
        notes=tuple(source.notes),
    )


def _between_levels(model: CausalVideoTokenizer, clip: Tensor, codes: Tensor, others: Tensor) -> Tensor:
    """Where the two codes are the levels on either side of a middle, and the model's value lies within TOLERANCE of it.

    Codes and result are [B, C, T, H, W].
    """
    levels = model.config.fsq_levels
    value = fsq.bound(model.quant_conv(model.encoder(clip)), levels)
    low, high = (fsq.to_levels(pick(codes, others), levels) for pick in (torch.minimum, torch.maximum))
    return (high - low == 1) & ((value - (low + high) / 2).abs() <= TOLERANCE)


def _largest(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item() if a.shape == b.shape else math.inf


def _require_tensors_back(source: FoundTokenizer, result: FoundTokenizer) -> None:
    """The result, written under the source's names, has the very tensors that the source's file has.

    Indices and codebooks are left out: they are made of the levels, which are compared.
    """
    if source.layout == "official":
        back = official.official_tensors(result.model) | buffers(result.config)
    elif source.layout == "diffusers":
        table = kl_cosmos.names(source.config)
        back = {table[name]: tensor for name, tensor in result.model.state_dict().items() if name in table}
    else:
        return
    if result.layout == "diffusers" and source.config.wavelet_gain != 1.0:
        return  # the gain is multiplied into three tensors: the clip decides
    unused = set(back) if result.config != source.config else set()
    for name, tensor in source.tensors.items():
        if name.endswith(("._arange", "._basis", ".implicit_codebook")) or (unused and name not in back):
            continue
        if name not in back or not torch.equal(back[name].to(tensor.dtype), tensor):
            said = "differs" if name in back else "is missing"
            raise TokenizerError(f"{source.path}, converted, {said} in {name}; nothing was written: report this")
