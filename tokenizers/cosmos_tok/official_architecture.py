"""The architecture of a tokenizer in NVIDIA's layout: what its tensors tell of it, and what the official constructor is
given to make it (see `official`).
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cosmos_tok import fsq
from cosmos_tok.config import HAAR, TokenizerConfig, TokenizerError
from cosmos_tok.number_formats import require_float

NAME = re.compile(r"(?<![a-z])([cd])([iv])-?(\d+)x(\d+)(?:x(\d+))?", re.IGNORECASE)
OFFICIAL_LEVELS = (8, 8, 8, 5, 5, 5)
DISCRETE_ARGUMENTS = {"levels", "embedding_dim", "quantizer", "persistent_quantizer", "num_quantizers"}
CLASS_ARGUMENTS = {"name", "_target_", "formulation"}
"""What names the official class of a tokenizer, or what it is made of."""
CLASSES = {
    "discrete": re.compile(r"discrete|(?<![a-z])(causal)?d[iv](?![a-z])|^(res)?fsq$|^l?vq$", re.IGNORECASE),
    "continuous": re.compile(r"continuous|(?<![a-z])(causal)?c[iv](?![a-z])|^v?ae$", re.IGNORECASE),
}
IGNORED_ARGUMENTS = {"attn_resolutions", "resolution", "dropout", "name", "num_quantizers", "dtype", "legacy_mode"}
IGNORED_ARGUMENTS |= {"_target_", "persistent_quantizer"}
"""Arguments that do not change the weights, or are read elsewhere."""


@dataclass
class GivenArguments:
    """The official constructor's arguments, with a note for every guess that stands in for one."""

    given: Mapping[str, Any]
    path: Path
    probe: Callable[[], tuple[int, int]] | None = None
    """Temporal and spatial rate of a TorchScript archive, by running it."""
    notes: list[str] = field(default_factory=list)

    def hint(self, media: str) -> re.Match[str] | None:
        """The name in the path, such as CV8x8x8, if it is one of such a medium."""
        for part in (self.path.name, self.path.parent.name):
            found = NAME.search(part)
            if found and (found[2].lower() == "v") == (media == "video") == (found[5] is not None):
                return found
        return None


def official_arguments(config: TokenizerConfig, *, quantizer_buffers: bool = True) -> dict[str, Any]:
    """The arguments with which the official constructor makes this architecture.

    Of a discrete one also whether its state dict has the quantiser's buffers.
    """
    arguments = {
        "name": {"video": "Causal", "image": ""}[config.media] + config.kind[0].upper() + config.media[0].upper(),
        "channels": config.channels,
        "channels_mult": list(config.channel_multipliers),
        "num_res_blocks": config.num_res_blocks,
        "in_channels": 3,
        "out_channels": 3,
        "patch_size": config.patch,
        "patch_method": "haar",
        "z_channels": config.z_channels,
        "z_factor": 1,
        "spatial_compression": config.spatial_rate,
        "dropout": 0.0,
        **_attention_arguments(config),
    }
    if config.media == "video":
        arguments |= {
            "temporal_compression": config.temporal_rate,
            "legacy_mode": config.legacy_upsampling,
            "num_groups": 1,
            "encoder": "FACTORIZED",
            "decoder": "FACTORIZED",
        }
    else:
        arguments |= {"encoder": "Default", "decoder": "Default"}
    if config.kind == "discrete":
        return arguments | {
            "embedding_dim": config.latent_channels,
            "levels": list(config.fsq_levels),
            "quantizer": "FSQ",
            "persistent_quantizer": quantizer_buffers,
        }
    return arguments | {"latent_channels": config.latent_channels, "formulation": "AE"}


def derive_config(tensors: Mapping[str, Tensor], known: GivenArguments) -> TokenizerConfig:
    """Return the architecture that the tensors have. Raises TokenizerError where there is none, or where an argument
    contradicts it."""
    media = "video" if "encoder.conv_in.0.conv3d.weight" in tensors else "image"
    inner = ".0.conv3d.weight" if media == "video" else ".weight"

    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors:
            raise TokenizerError(
                f"{known.path} lacks {name}, which every {media} tokenizer has; name a whole checkpoint"
            )
        require_float(name, tensors[name], str(known.path))
        return tuple(tensors[name].shape)

    def count(pattern: str) -> int:
        matches = filter(None, (re.match(pattern, name) for name in tensors))
        return len({found[1] for found in matches})

    channels, in_channels = shape(f"encoder.conv_in{inner}")[:2]
    num_levels = count(r"encoder\.down\.(\d+)\.block\.")
    widths = [shape(f"encoder.down.{i}.block.0.conv1{inner}")[0] for i in range(num_levels)]
    if not widths or any(width % channels for width in widths):
        raise TokenizerError(
            f"{known.path} has levels of the widths {widths}, which are not multiples of the first convolution's "
            f"{channels} channels; no tokenizer of this family has those"
        )
    z_channels, z_moments = shape(f"decoder.conv_in{inner}")[1], shape(f"encoder.conv_out{inner}")[0]
    point = ".conv3d.weight" if media == "video" else ".weight"
    latent_channels, moments = shape(f"post_quant_conv{point}")[1], shape(f"quant_conv{point}")[0]
    if z_moments != z_channels or moments != latent_channels:
        raise TokenizerError(
            f"{known.path} encodes to {moments} channels and decodes from {latent_channels}: it has the VAE "
            f"formulation (z_factor=2), which samples; convert a tokenizer of the AE formulation"
        )
    patch = _patch(in_channels, media, known)
    kind, levels = _kind(tensors, (latent_channels, z_channels), media, known)
    temporal, spatial, extra, legacy = _resampling(tensors, num_levels, patch, media, known)
    config = TokenizerConfig(
        media=media,
        kind=kind,
        temporal_rate=temporal,
        spatial_rate=spatial,
        patch=patch,
        channels=channels,
        channel_multipliers=tuple(width // channels for width in widths),
        num_res_blocks=count(r"encoder\.down\.0\.block\.(\d+)\."),
        z_channels=z_channels,
        latent_channels=latent_channels,
        fsq_levels=levels,
        extra_resampling=extra,
        legacy_upsampling=legacy,
        encoder_attention=tuple(i for i in range(num_levels) if count(rf"encoder\.down\.{i}\.attn\.(\d+)\.")),
        decoder_attention=tuple(i for i in range(num_levels) if count(rf"decoder\.up\.{i}\.attn\.(\d+)\.")),
        wavelet=_wavelet(tensors, known),
    )
    _require_no_contradiction(config, known)
    return config


def _patch(in_channels: int, media: str, known: GivenArguments) -> int:
    axes = 3 if media == "video" else 2
    patch = round((in_channels / 3) ** (1 / axes))
    if 3 * patch**axes != in_channels:
        raise TokenizerError(
            f"{known.path} takes {in_channels} channels after its patches, which is not 3 times a patch side to the "
            f"power of {axes}; only tokenizers of RGB {media}s are known"
        )
    return patch


def _kind(tensors: Mapping[str, Tensor], channels: tuple[int, int], media: str, known: GivenArguments):
    """(kind, FSQ levels), from the surest of: quantiser buffers, arguments, the path's name, the numbers of channels.

    `channels` are those of the latents and of what is in front of them, z.
    """
    latent_channels, z_channels = channels
    stated = _stated_kind(known)
    if any(name.startswith("quantizer.") for name in tensors):
        if stated == "continuous":
            raise TokenizerError(
                f"{known.path} has a quantiser, and the arguments are those of a continuous tokenizer; "
                f"correct the arguments, or leave them out"
            )
        if "quantizer._levels" not in tensors:
            return "discrete", _levels(latent_channels, known, "its quantiser")
        return "discrete", tuple(round(level) for level in tensors["quantizer._levels"].tolist())
    if stated == "discrete":
        return "discrete", _levels(latent_channels, known, "the arguments")
    if stated == "continuous":
        return "continuous", OFFICIAL_LEVELS
    if hint := known.hint(media):
        if hint[1].lower() == "c":
            return "continuous", OFFICIAL_LEVELS
        return "discrete", _levels(latent_channels, known, hint[0])
    # A discrete one that the official code has trained lacks the quantiser's buffers (persistent_quantizer=False), and
    # then differs from a continuous one in nothing but its channels: codes have fewer than what they are made of.
    is_first_release = not any(name.endswith(".wavelets") for name in tensors)
    if is_first_release and latent_channels == len(OFFICIAL_LEVELS):
        return "discrete", _levels(latent_channels, known, f"its {latent_channels} latent channels")
    if latent_channels < z_channels:
        levels = list(OFFICIAL_LEVELS) if latent_channels == len(OFFICIAL_LEVELS) else "[...]"
        raise TokenizerError(
            f"{known.path} has {latent_channels} latent channels and no quantiser, so it is a discrete tokenizer "
            f"that was saved without one, or a continuous one; pass --arguments with "
            f'{{"levels": {levels}}} or with {{"latent_channels": {latent_channels}}}'
        )
    return "continuous", OFFICIAL_LEVELS


def _stated_kind(known: GivenArguments) -> str | None:
    """The kind that the arguments belong to, or None where they fit both; TokenizerError where they contradict."""
    reasons: dict[str, list[str]] = {"discrete": [], "continuous": []}
    for key, value in known.given.items():
        if key in DISCRETE_ARGUMENTS:
            reasons["discrete"].append(f"{key}={value}")
        elif key == "latent_channels":
            reasons["continuous"].append(f"{key}={value}")
        elif key in CLASS_ARGUMENTS:
            for kind, pattern in CLASSES.items():
                if pattern.search(str(value)):
                    reasons[kind].append(f"{key}={value}")
    if reasons["discrete"] and reasons["continuous"]:
        raise TokenizerError(
            f"{known.path}: the argument {reasons['discrete'][0]} belongs to a discrete tokenizer and "
            f"{reasons['continuous'][0]} to a continuous one; leave out those of the other kind"
        )
    return next((kind for kind, found in reasons.items() if found), None)


def _levels(latent_channels: int, known: GivenArguments, why: str) -> tuple[int, ...]:
    """The FSQ levels that the arguments tell, or the released ones where the number of channels allows them."""
    if known.given.get("quantizer", "FSQ") != "FSQ":
        raise TokenizerError(f"{known.path} has the quantiser {known.given['quantizer']}; only FSQ can be read")
    if "levels" in known.given:
        return tuple(known.given["levels"])
    if latent_channels != len(OFFICIAL_LEVELS):
        raise TokenizerError(
            f"{known.path} is a discrete tokenizer of {latent_channels} code channels and does not say their "
            f'levels; pass --arguments with {{"levels": [...]}}'
        )
    known.notes.append(f"discrete with the levels {OFFICIAL_LEVELS}, by {why}; no tensor says so")
    return OFFICIAL_LEVELS


def _resampling(
    tensors: Mapping[str, Tensor], num_levels: int, patch: int, media: str, known: GivenArguments
) -> tuple[int, int, bool, bool]:
    """(temporal rate, spatial rate, extra convolutions, legacy upsampling), from which convolutions there are."""
    if media == "image":
        num = sum(f"encoder.down.{i}.downsample.conv.weight" in tensors for i in range(num_levels))
        return 1, patch * 2**num, False, False
    places = range(num_levels - 1)
    down = [[f"encoder.down.{i}.downsample.conv{n}.conv3d.weight" in tensors for n in (1, 2, 3)] for i in places]
    up = [[f"decoder.up.{i + 1}.upsample.conv{n}.conv3d.weight" in tensors for n in (1, 2, 3)] for i in places]
    if down and all(map(all, down)) and all(map(all, up)):
        # A state dict with buffers is from cosmos-predict1, which creates no convolution that is not used.
        all_used = patch * 2 ** len(down)
        has_buffers = any(name.endswith(".wavelets") for name in tensors) and known.probe is None
        temporal, spatial = (all_used, all_used) if has_buffers and not _says_rates(known) else _rates(known)
        is_extra = not (has_buffers and temporal == spatial == all_used)
        return temporal, spatial, is_extra, not is_extra or bool(known.given.get("legacy_mode", False))
    num_spatial, num_temporal = sum(place[0] for place in down), sum(place[1] for place in down)
    # Time doubles at the innermost place of the decoder in legacy mode alone.
    legacy = bool(num_temporal) and bool(up) and up[-1][0]
    return patch * 2**num_temporal, patch * 2**num_spatial, False, legacy


def _says_rates(known: GivenArguments) -> bool:
    return "temporal_compression" in known.given and "spatial_compression" in known.given


def _rates(known: GivenArguments) -> tuple[int, int]:
    """Temporal and spatial rate of a file that holds all resampling convolutions, used or not."""
    if _says_rates(known):
        return int(known.given["temporal_compression"]), int(known.given["spatial_compression"])
    if known.probe is not None:
        return known.probe()
    if hint := known.hint("video"):
        known.notes.append(f"rates by the name {hint[0]}: a file of the 0.1 release does not say them")
        return int(hint[3]), int(hint[4])
    raise TokenizerError(
        f"{known.path} holds every resampling convolution, as files of the 0.1 release do, so its tensors do not tell "
        f'its rates; pass --arguments with {{"temporal_compression": 8, "spatial_compression": 8}} or what they are'
    )


def _wavelet(tensors: Mapping[str, Tensor], known: GivenArguments) -> float:
    """The number of the Haar filters, by the buffers; 1/sqrt(2) to float32's precision is 1/sqrt(2)."""
    filters = [tensor for name, tensor in tensors.items() if name.endswith(".wavelets")]
    found = set(torch.cat([tensor.flatten() for tensor in filters]).tolist()) if filters else {HAAR}
    method = known.given.get("patch_method", "haar")
    if method != "haar" or len(found) > 1 or 1.0 in found:
        raise TokenizerError(
            f"{known.path} has patches by {method!r} with the filters {sorted(found)}; only Haar wavelets are known"
        )
    (wavelet,) = found
    if abs(wavelet - HAAR) < 1e-6:
        return HAAR
    known.notes.append(
        f"the wavelet is {wavelet:.8g}, as rounding to 16 bit makes it; kept, since it scales the results"
    )
    return wavelet


def _require_no_contradiction(config: TokenizerConfig, known: GivenArguments) -> None:
    expected = official_arguments(config)
    no_effect = IGNORED_ARGUMENTS | CLASS_ARGUMENTS
    if config.media == "image":
        no_effect |= {"temporal_compression", "num_groups"}
    all_known = expected.keys() | no_effect
    if unknown := [f"{key}={value}" for key, value in known.given.items() if key not in all_known]:
        raise TokenizerError(
            f"{known.path}: unknown arguments {', '.join(unknown)}; known are {', '.join(sorted(all_known))}. Leave "
            f"out what does not change the network"
        )
    for key, value in known.given.items():
        stated = list(value) if isinstance(value, (list, tuple)) else value
        if key in expected and key not in IGNORED_ARGUMENTS and stated != expected[key]:
            raise TokenizerError(
                f"argument {key}={value} contradicts {known.path}, whose tensors say {expected[key]}; "
                f"correct the argument, or leave it out"
            )


def _attention_arguments(config: TokenizerConfig) -> dict[str, Any]:
    """`resolution` and `attn_resolutions` that put attention where the encoder has it."""
    resolution, sizes, size = 1024, [], 1024 // config.patch
    for i in range(len(config.channel_multipliers)):
        sizes.append(size)
        if config.media == "video" or config.downsampling[i][0]:
            size //= 2
    return {"resolution": resolution, "attn_resolutions": sorted({sizes[i] for i in config.encoder_attention})}


def buffers(config: TokenizerConfig) -> dict[str, Tensor]:
    """What cosmos-predict1 stores beside the weights and expects when it loads strictly."""
    suffix = "3d" if config.media == "video" else ""
    wavelets, places = torch.full((2,), config.wavelet), torch.arange(2)
    buffers = dict[str, Tensor]()
    for part in ("encoder.patcher", "decoder.unpatcher"):
        buffers[f"{part}{suffix}.wavelets"] = wavelets.clone()
        buffers[f"{part}{suffix}._arange"] = places.clone()
    if config.media == "video":
        buffers["encoder.patcher3d.patch_size_buffer"] = torch.tensor([config.patch], dtype=torch.int32)
    if config.kind == "discrete":
        levels = config.fsq_levels
        indices = torch.arange(config.codebook_size).view(1, 1, 1, -1)
        buffers |= {
            "quantizer._levels": torch.tensor(levels, dtype=torch.int32),
            "quantizer._basis": torch.tensor([math.prod(levels[:c]) for c in range(len(levels))], dtype=torch.int32),
            "quantizer.implicit_codebook": fsq.indices_to_codes(indices, levels)[0, :, 0, 0].t().contiguous(),
        }
    return buffers
