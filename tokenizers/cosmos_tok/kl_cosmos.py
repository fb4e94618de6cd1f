"""Folders of diffusers' AutoencoderKLCosmos: config.json and diffusion_pytorch_model.safetensors, without diffusers.

That class is the continuous video tokenizer whose inner and latent channels are the same, with exact Haar filters and
the released plan of resampling. What it cannot express is refused by name; two things are turned into what it can:
convolutions of the 0.1 release that are never used are left out, and the scale of filters that are not exactly
1/sqrt(2) is multiplied into the convolutions beside the patches.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from cosmos_tok.config import HAAR, TokenizerConfig, TokenizerError
from cosmos_tok.model import CausalVideoTokenizer
from cosmos_tok.official import model_of
from cosmos_tok.official_architecture import official_arguments
from cosmos_tok.weights import load_weights
from cosmos_tok.whitening import LatentStatistics

CLASS_NAME = "AutoencoderKLCosmos"
CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 16,
    "encoder_block_out_channels": [128, 256, 512, 512],
    "decode_block_out_channels": [256, 512, 512, 512],
    "attention_resolutions": [32],
    "resolution": 1024,
    "num_layers": 2,
    "patch_size": 4,
    "patch_type": "haar",
    "spatial_compression_ratio": 8,
    "temporal_compression_ratio": 8,
    "latents_mean": None,
    "latents_std": None,
}
"""What the class assumes where config.json is silent; of the statistics, its defaults are another tokenizer's."""

RENAMES = (
    (r"^encoder\.down\.", "encoder.down_blocks."),
    (r"\.block\.", ".resnets."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.0\.", ".mid_block.attentions.0."),
    (r"\.mid\.attn_1\.1\.", ".mid_block.temp_attentions.0."),
    (r"\.attn\.(\d+)\.0\.", r".attentions.\1."),
    (r"\.attn\.(\d+)\.1\.", r".temp_attentions.\1."),
    (r"\.([qkv])\.conv3d\.", r".to_\1."),
    (r"\.proj_out\.conv3d\.", ".to_out.0."),
    (r"\.(down|up)sample\.", r".\1samplers.0."),
    (r"\.0\.conv3d\.", ".conv_s."),
    (r"\.1\.conv3d\.", ".conv_t."),
    (r"\.conv3d\.", "."),
)


def find_folder(path: Path) -> Path | None:
    """The folder of an AutoencoderKLCosmos at `path`, or in the `vae` folder of a pipeline; None if there is none."""
    for folder in (path, path / "vae"):
        if (folder / CONFIG).is_file() and _read_json(folder / CONFIG).get("_class_name") == CLASS_NAME:
            return folder
    return None


def read_folder(folder: Path) -> tuple[dict[str, Tensor], TokenizerConfig, LatentStatistics | None]:
    """The tensors under this package's names, the architecture, and the latent statistics if there are any."""
    stored = DEFAULTS | _read_json(folder / CONFIG)
    config = _to_config(stored, folder / CONFIG)
    theirs = load_weights(folder / WEIGHTS)
    ours_of = {theirs_name: name for name, theirs_name in names(config).items()}
    return {ours_of.get(name, name): t for name, t in theirs.items()}, config, _statistics(stored, config)


def write_folder(folder: Path, model: CausalVideoTokenizer, statistics: LatentStatistics | None) -> None:
    """Write config.json and float32 weights into a folder that exists; TokenizerError for what diffusers lacks."""
    config = dataclasses.replace(model.config, extra_resampling=False, wavelet=HAAR)
    document = _from_config(config) | _from_statistics(statistics)
    tensors = {name: tensor.detach().float().cpu() for name, tensor in model.state_dict().items()}
    gain = model.config.wavelet_gain
    for name in (
        "encoder.conv_in.0.conv3d.weight",
        "decoder.conv_out.1.conv3d.weight",
        "decoder.conv_out.1.conv3d.bias",
    ):
        tensors[name] = tensors[name] * gain
    (folder / CONFIG).write_text(json.dumps(document, indent=2) + "\n")
    table = names(config)
    save_file({table[name]: tensors[name].contiguous() for name in table}, folder / WEIGHTS, {"format": "pt"})


def names(config: TokenizerConfig) -> dict[str, str]:
    """diffusers' name of every parameter of an architecture, whose decoder counts levels from the inside."""
    with torch.device("meta"):
        ours = CausalVideoTokenizer(config).state_dict()
    table = {}
    for name in ours:
        theirs = re.sub(
            r"^decoder\.up\.(\d+)\.",
            lambda found: f"decoder.up_blocks.{len(config.channel_multipliers) - 1 - int(found[1])}.",
            name,
        )
        for pattern, replacement in RENAMES:
            theirs = re.sub(pattern, replacement, theirs)
        table[name] = theirs
    return table


def model_in(folder: Path) -> CausalVideoTokenizer:
    """The float32 model in a diffusers folder."""
    tensors, config, _ = read_folder(folder)
    return model_of(config, tensors, str(folder / WEIGHTS))


def _to_config(stored: Mapping[str, Any], path: Path) -> TokenizerConfig:
    encoder, decoder = list(stored["encoder_block_out_channels"]), list(stored["decode_block_out_channels"])
    channels, widths, patch = encoder[0], encoder[1:], stored["patch_size"]
    if decoder != [*widths, widths[-1]] or any(width % channels for width in widths):
        raise TokenizerError(
            f"{path} has encoder_block_out_channels={encoder} and decode_block_out_channels={decoder}; known are "
            f"[c, w1, ..., wn] with multiples of c, and [w1, ..., wn, wn]"
        )
    if stored["patch_type"] != "haar" or (stored["in_channels"], stored["out_channels"]) != (3, 3):
        raise TokenizerError(
            f"{path} has patch_type={stored['patch_type']}, in_channels={stored['in_channels']} and "
            f"out_channels={stored['out_channels']}; known are haar patches of RGB video"
        )
    sizes = [stored["resolution"] // patch // 2**i for i in range(len(widths))]
    attention = tuple(i for i, size in enumerate(sizes) if size in stored["attention_resolutions"])
    return TokenizerConfig(
        temporal_rate=stored["temporal_compression_ratio"],
        spatial_rate=stored["spatial_compression_ratio"],
        patch=patch,
        channels=channels,
        channel_multipliers=tuple(width // channels for width in widths),
        num_res_blocks=stored["num_layers"],
        z_channels=stored["latent_channels"],
        latent_channels=stored["latent_channels"],
        encoder_attention=attention,
        decoder_attention=attention,
    )


def _from_config(config: TokenizerConfig) -> dict[str, Any]:
    for key, value, possible in (
        ("media", config.media, "video"),
        ("kind", config.kind, "continuous"),
        ("z_channels", config.z_channels, config.latent_channels),
        ("legacy_upsampling", config.legacy_upsampling, False),
        ("decoder_attention", config.decoder_attention, config.encoder_attention),
    ):
        if value != possible:
            raise TokenizerError(
                f"tokenizer.{key}={value} has no place in diffusers' {CLASS_NAME}, which is a "
                f"continuous video tokenizer with z_channels = latent_channels; convert it --to ours or official"
            )
    arguments = official_arguments(config)
    return {
        "_class_name": CLASS_NAME,
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": config.latent_channels,
        "encoder_block_out_channels": [config.channels, *config.widths],
        "decode_block_out_channels": [*config.widths, config.widths[-1]],
        "attention_resolutions": arguments["attn_resolutions"],
        "resolution": arguments["resolution"],
        "num_layers": config.num_res_blocks,
        "patch_size": config.patch,
        "patch_type": "haar",
        "scaling_factor": 1.0,
        "spatial_compression_ratio": config.spatial_rate,
        "temporal_compression_ratio": config.temporal_rate,
    }


def _statistics(stored: Mapping[str, Any], config: TokenizerConfig) -> LatentStatistics | None:
    """diffusers stores channel by channel, each with all its latent frames."""
    if stored["latents_mean"] is None or stored["latents_std"] is None:
        return None
    mean, std = (torch.tensor(stored[key], dtype=torch.float32) for key in ("latents_mean", "latents_std"))
    if mean.numel() % config.latent_channels or mean.shape != std.shape:
        raise TokenizerError(
            f"latents_mean and latents_std have {mean.numel()} and {std.numel()} numbers, not the same multiple of "
            f"latent_channels={config.latent_channels}; correct {CONFIG}, or set both to null"
        )
    return LatentStatistics(mean.view(config.latent_channels, -1), std.view(config.latent_channels, -1), {})


def _from_statistics(statistics: LatentStatistics | None) -> dict[str, Any]:
    if statistics is None:
        return {"latents_mean": None, "latents_std": None}
    return {
        "latents_mean": [round(value, 8) for value in statistics.mean_CT.flatten().tolist()],
        "latents_std": [round(value, 8) for value in statistics.std_CT.flatten().tolist()],
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path} cannot be read: {error}; copy the folder again") from error
    if not isinstance(document, dict):
        raise TokenizerError(f"{path} is not a JSON object; copy the folder again")
    return document
