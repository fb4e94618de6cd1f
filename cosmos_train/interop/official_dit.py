"""NVIDIA's files of diffusion world models: which tensors are the network's, and the architecture that they tell.

    model.pt, *.safetensors            net.*, logvar.*, conditioner.*
    iter_*_reg_model.pt,               the same of a training run; or inside {"model": ...}, under the prefixes that
    iter_*_ema_model.pt                wrappers leave, averages also with dashes for dots (ema.net-blocks-block0-...)

No tensor tells the rotary extrapolation, and which channel of the input is what; nor how actions are read. Networks of
actions (action_embedder_*) are taken as cosmos-predict1's code computes them: one action, of the next frame, into the
shared modulation alone. `action_into` and `action_frames` among the arguments say it otherwise.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from cosmos_tok.weight_file import is_torchscript
from cosmos_tok.weights import open_weights
from cosmos_train.config.errors import ConfigError
from cosmos_train.interop.names import official_shapes, require_tensors
from cosmos_train.interop.names_dit import dit_table
from cosmos_train.interop.official import (
    WRAPPERS,
    OfficialFile,
    Sizes,
    check_arguments,
    flat,
    prefixes,
    refuse_features,
)
from cosmos_train.interop.stores import find_safetensors, write_pickle
from cosmos_train.models.dit.config import DiTConfig

FIRST = re.compile(r"(.*?)x_embedder\.proj\.(1\.)?weight")
LEFT_OUT = re.compile(r"net\.pos_embedder\..*|net\.conditioner\..*|.*\._extra_state")
"""Buffers of the rotary positions, which are computed; the conditioner, without weights; TransformerEngine's own."""

ACTION = re.compile(r"net\.action_embedder_B_(D|3D)\.fc[12]\.(weight|bias)")
"""Tensors of the networks of actions."""
OUR_ARGUMENTS = ("action_into", "action_frames")
"""Keys of DiTConfig that may be given besides the official constructor's arguments."""
RELEASED_ACTION_WIDTH = 7
"""Dimensions of an action that the official code reads, whatever its arguments."""

RELEASED_14B = (36, 5120)
"""Blocks and width of the model with rotary extrapolation 2, 2, 2 instead of 2, 1, 1."""
EXPECTED: dict[str, Any] = {
    "patch_temporal": 1,
    "block_config": "FA-CA-MLP",
    "use_cross_attn_mask": False,
    "pos_emb_cls": "rope3d",
    "pos_emb_interpolation": "crop",
    "add_augment_sigma_embedding": False,
    "extra_per_block_abs_pos_emb_type": "learnable",
    "is_diffusion_decoder": False,
    "concat_view_embedding": False,
    "concat_traj_embedding": False,
    "add_repeat_frame_embedding": False,
}
NO_EFFECT = {
    *("block_x_format", "pos_emb_learnable", "min_fps", "max_fps", "legacy_patch_emb", "use_memory_save"),
    *("use_checkpoint", "spatial_attn_win_size", "temporal_attn_win_size", "additional_timestamp_channels", "name"),
    *("extra_h_extrapolation_ratio", "extra_w_extrapolation_ratio", "extra_t_extrapolation_ratio", "_target_"),
}
"""Arguments of training, of layouts in memory, and of what the released networks do not have."""


def is_official(path: Path) -> bool:
    """Whether a file, or the checkpoint in a folder, is of a diffusion world model. Opens it, reads no weight."""
    file = find_file(path, weights="network") or find_file(path, weights="ema")
    return file is not None and any(FIRST.fullmatch(_plain(name)) for name in open_weights(file).meta)


def find_file(path: Path, *, weights: str) -> Path | None:
    """The checkpoint that `path` is or holds: model.pt, a training run's newest, safetensors; or None."""
    if path.is_file():
        return None if is_torchscript(path) else path
    if (path / "model.pt").is_file():
        return path / "model.pt"
    kind = {"network": "reg", "ema": "ema"}[weights]
    trained = sorted(path.glob(f"iter_*_{kind}_model.pt")) or sorted(path.glob(f"checkpoints/iter_*_{kind}_model.pt"))
    return trained[-1] if trained else find_safetensors(path, "model")


def open_official(path: Path, arguments: Mapping[str, Any] | None, *, weights: str) -> OfficialFile:
    """Recognise the network's tensors in a file and derive their architecture. Raises ConfigError, TokenizerError."""
    file = find_file(path, weights=weights)
    if file is None:
        raise ConfigError(f"{path} holds neither model.pt nor iter_*_model.pt nor model.safetensors; name the file")
    store = open_weights(file)
    notes: list[str] = []
    stored_names = _network_names(list(store.meta), weights, file, notes)
    meta = {name: flat(store.meta[stored]) for name, stored in stored_names.items()}
    refuse_features((name for name in meta if not ACTION.fullmatch(name)), str(file))
    config = derive_config(meta, arguments, str(file), notes)
    entries = dit_table(config, learned_uncertainty="logvar.1.weight" in meta)
    require_tensors(meta, official_shapes(entries), str(file))
    return OfficialFile(store, stored_names, meta, config, entries, notes, _untold(config, arguments))


def write_official(folder: Path, to: str, tensors: Iterator[tuple[str, Tensor]]) -> Path:
    """The file of released models (to: official) or of a training run (training), into a folder that exists."""
    file = folder / {"official": "model.pt", "training": "iter_000000000_reg_model.pt"}[to]
    write_pickle(file, tensors)
    return file


def derive_config(
    meta: Mapping[str, Tensor], arguments: Mapping[str, Any] | None, where: str, notes: list[str]
) -> DiTConfig:
    """The architecture of tensors under official names; ConfigError where an argument contradicts them."""
    sizes = Sizes(meta, where, "diffusion")
    given = {key: value for key, value in (arguments or {}).items() if value is not None}
    of_actions = {key: given.pop(key) for key in OUR_ARGUMENTS if key in given}
    width, in_cells = sizes.of("net.x_embedder.proj.1.weight")
    out_cells = sizes.of("net.final_layer.linear.weight")[0]
    patch = given.get("patch_spatial", 2 if in_cells % 4 == 0 and out_cells % 4 == 0 else 1)
    latent, channels = out_cells // patch**2, in_cells // patch**2
    has_tables = "net.extra_pos_embedder.pos_emb_t" in meta
    tables = [sizes.of(f"net.extra_pos_embedder.pos_emb_{axis}")[0] for axis in "thw"] if has_tables else []
    attention = "net.blocks.block0.blocks.{}.block.attn.to_{}.{}.weight"
    head_dim = sizes.of(attention.format(0, "q", 1))[0]
    hidden = sizes.of("net.blocks.block0.blocks.2.block.layer1.weight")[0]
    if width % head_dim or hidden % width:
        raise ConfigError(
            f"{where} has width {width}, heads of {head_dim} and an MLP of {hidden}; the first must be a multiple of "
            "the second, and the third of the first"
        )
    has_lora = "net.blocks.block0.blocks.0.adaLN_modulation.2.weight" in meta
    # A padding mask is the last channel, and the first that a network has besides the latents.
    has_padding_mask = bool(given.get("concat_padding_mask", channels > latent))
    further = channels - latent - has_padding_mask
    fields: dict[str, Any] = {
        "num_blocks": len({name.split(".")[2] for name in meta if name.startswith("net.blocks.block")}),
        "num_heads": width // head_dim,
        "head_dim": head_dim,
        "mlp_ratio": hidden // width,
        "adaln_rank": sizes.of("net.blocks.block0.blocks.0.adaLN_modulation.1.weight")[0] if has_lora else 0,
        "timestep_norm": "net.affline_norm.weight" in meta,
        "latent_channels": latent,
        "text_width": sizes.of(attention.format(1, "k", 0))[1],
        "condition_mask": further > 0,
        "extra_channels": max(0, further - 1),
        "padding_mask": has_padding_mask,
        "patch_spatial": patch,
        "position_tables": has_tables,
    }
    if "net.action_embedder_B_3D.fc1.weight" in meta:
        fields |= {"action_width": sizes.of("net.action_embedder_B_3D.fc1.weight")[1]}
        fields |= {"action_frames": "next", "action_into": "modulation"} | of_actions
        if not of_actions:
            notes.append("no tensor tells how actions are read; took one of the next frame, into the modulation alone")
    if has_tables:
        fields |= {"max_latent_frames": tables[0], "max_latent_size": tables[1] * patch}
        fields["max_latent_width"] = None if tables[1] == tables[2] else tables[2] * patch
    if given:
        ratios_THW = [given.get(f"rope_{axis}_extrapolation_ratio", 1.0) for axis in "thw"]
    else:
        is_14b = (fields["num_blocks"], width) == RELEASED_14B
        ratios_THW = [2.0, 2.0, 2.0] if is_14b else [2.0, 1.0, 1.0]
        ratios = ", ".join(f"{ratio:g}" for ratio in ratios_THW)
        notes.append(f"no tensor tells the rotary extrapolation; took {ratios} of time, rows and columns, as released")
    fields |= {f"rope_scale_{axis}": ratio for axis, ratio in zip("thw", ratios_THW, strict=True)}
    try:
        config = DiTConfig(**fields)
    except ValueError as error:
        raise ConfigError(f"{where} is of no architecture that is known here: {error}") from error
    _check_arguments(given, _arguments(config), where)
    return config


def _untold(config: DiTConfig, arguments: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the fields that were taken as released, since no argument is given that tells them."""
    given = {key for key, value in (arguments or {}).items() if value is not None}
    of_actions = tuple(key for key in OUR_ARGUMENTS if config.action_width and key not in given)
    return of_actions if given - {*OUR_ARGUMENTS} else (*of_actions, *(f"rope_scale_{axis}" for axis in "thw"))


def official_arguments(config: DiTConfig) -> dict[str, Any]:
    """The arguments with which the official constructor makes this architecture. ConfigError where it can not."""
    if config.action_width:
        for key, value, released in (
            ("action_width", config.action_width, RELEASED_ACTION_WIDTH),
            ("action_frames", config.action_frames, "next"),
            ("action_into", config.action_into, "modulation"),
            ("num_embodiments", config.num_embodiments, 0),
        ):
            if value != released:
                raise ConfigError(
                    f"model.{key}={value}: the official network of actions only has {released}; convert it --to ours"
                )
    return _arguments(config)


def _arguments(config: DiTConfig) -> dict[str, Any]:
    frames, rows, columns = config.table_rows
    return {
        "max_img_h": rows * config.patch_spatial,
        "max_img_w": columns * config.patch_spatial,
        "max_frames": frames,
        "in_channels": config.in_channels - config.padding_mask,
        "out_channels": config.latent_channels,
        "patch_spatial": config.patch_spatial,
        "patch_temporal": 1,
        "concat_padding_mask": config.padding_mask,
        "block_config": "FA-CA-MLP",
        "model_channels": config.width,
        "num_blocks": config.num_blocks,
        "num_heads": config.num_heads,
        "mlp_ratio": float(config.mlp_ratio),
        "block_x_format": "THWBD",
        "crossattn_emb_channels": config.text_width,
        "use_cross_attn_mask": False,
        "pos_emb_cls": "rope3d",
        "pos_emb_learnable": True,
        "pos_emb_interpolation": "crop",
        "affline_emb_norm": config.timestep_norm,
        "use_adaln_lora": config.adaln_rank > 0,
        **({"adaln_lora_dim": config.adaln_rank} if config.adaln_rank else {}),
        "rope_t_extrapolation_ratio": config.rope_scale_t,
        "rope_h_extrapolation_ratio": config.rope_scale_h,
        "rope_w_extrapolation_ratio": config.rope_scale_w,
        "extra_per_block_abs_pos_emb": config.position_tables,
        "extra_per_block_abs_pos_emb_type": "learnable",
    }


def _check_arguments(given: Mapping[str, Any], derived: Mapping[str, Any], where: str) -> None:
    """Sizes of tables only where there are tables, and of the low rank only where there is one."""
    unsized = set()
    if not derived["extra_per_block_abs_pos_emb"]:
        unsized |= {"max_img_h", "max_img_w", "max_frames", "extra_per_block_abs_pos_emb_type"}
    if not derived["use_adaln_lora"]:
        unsized.add("adaln_lora_dim")
    check_arguments(given, derived, where, expected=EXPECTED, no_effect=NO_EFFECT | unsized)


def _plain(stored: str) -> str:
    """A name without what wrappers put into it; averages are stored with dashes for dots."""
    return WRAPPERS.sub("", stored.replace("-", "."))


def _network_names(stored: list[str], weights: str, file: Path, notes: list[str]) -> dict[str, str]:
    """Name in model.pt -> name in this file, of one network and its learned uncertainty."""
    plain = {_plain(name): name for name in stored}
    prefix = _choose_prefix(plain, stored, weights, file, notes)
    outer = prefix.removesuffix("net.")  # what stands before `logvar` too
    names: dict[str, str] = {}
    for name, stored_name in plain.items():
        if name.startswith(f"{outer}logvar."):
            names[name.removeprefix(outer)] = stored_name
        elif name.startswith("logvar."):  # its features are buffers, which have no average
            names.setdefault(name, stored_name)
        elif name.startswith(prefix):
            own = f"net.{name.removeprefix(prefix)}"
            names["net.x_embedder.proj.1.weight" if own == "net.x_embedder.proj.weight" else own] = stored_name
    if "logvar.1.weight" not in names:
        names = {name: stored_name for name, stored_name in names.items() if not name.startswith("logvar.")}
    return {name: stored_name for name, stored_name in names.items() if not LEFT_OUT.fullmatch(name)}


def _choose_prefix(plain: Iterable[str], stored: list[str], weights: str, file: Path, notes: list[str]) -> str:
    """What stands before the names of the network that `weights` means."""
    found = prefixes(plain, FIRST)
    if not found:
        raise ConfigError(
            f"{file} is no diffusion world model: none of its {len(stored)} tensors is net.x_embedder.proj.1.weight, "
            f"with or without a prefix; the first are {', '.join(sorted(stored)[:3]) or 'absent'}"
        )
    averaged = {prefix for prefix in found if "ema" in prefix}
    wanted = averaged if weights == "ema" or not found - averaged else found - averaged
    if weights == "ema" and not averaged and "ema" in file.name:
        wanted = found  # a file of averages alone
    if len(wanted) != 1:
        raise ConfigError(f"{file} has networks under {sorted(found)}, and --weights {weights} does not name one")
    if found - wanted:
        notes.append(f"the file has networks under {sorted(found)}: took {sorted(wanted)[0]!r}")
    return wanted.pop()
