"""NVIDIA's files of diffusion world models: which tensors are the network's, and the architecture that they tell.

    model.pt, *.safetensors            net.*, logvar.*, conditioner.*
    iter_*_reg_model.pt,               the same of a training run; or inside {"model": ...}, under the prefixes that
    iter_*_ema_model.pt                wrappers leave, averages also with dashes for dots (ema.net-blocks-block0-...)

Sizes are read off the tensors. What none of them tells (rotary extrapolation, which channel of the input is what) comes
from the arguments of the official constructor where they are given, and its own defaults where those are silent.
Without any arguments it is what the released models have.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from cosmos_tok.official import is_torchscript
from cosmos_train.config.errors import ConfigError
from cosmos_train.interop.names import require_tensors, table
from cosmos_train.interop.stores import PickleStore, SafetensorsStore, TensorStore, find_safetensors
from cosmos_train.models.dit.config import DiTConfig

FIRST = re.compile(r"(.*?)x_embedder\.proj\.(1\.)?weight")
WRAPPERS = re.compile(r"_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.|_orig_mod\.|^module\.")
LEFT_OUT = re.compile(r"net\.pos_embedder\..*|net\.conditioner\..*|.*\._extra_state")
"""Buffers of the rotary positions, which are computed; the conditioner, without weights; TransformerEngine's own."""

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
}
"""Arguments that are only known with one value: what the released models have."""
NO_EFFECT = {
    *("block_x_format", "pos_emb_learnable", "min_fps", "max_fps", "legacy_patch_emb", "use_memory_save"),
    *("use_checkpoint", "spatial_attn_win_size", "temporal_attn_win_size", "additional_timestamp_channels", "name"),
    *("extra_h_extrapolation_ratio", "extra_w_extrapolation_ratio", "extra_t_extrapolation_ratio"),
}


@dataclass(frozen=True)
class OfficialFile:
    """An official file with its tensors under the names of model.pt. A TensorStore."""

    store: TensorStore
    stored_names: Mapping[str, str]
    meta: Mapping[str, Tensor]
    config: DiTConfig
    learned_uncertainty: bool
    notes: list[str] = field(default_factory=list)

    def read(self, name: str) -> Tensor:
        """One tensor; the kernel of a patch convolution, which old training code has, as the matrix that it is."""
        tensor = self.store.read(self.stored_names[name])
        return tensor.flatten(1) if tensor.ndim == 5 else tensor


def is_official(path: Path) -> bool:
    """Whether a file, or the checkpoint in a folder, is of a diffusion world model. Opens it, reads no weight."""
    file = find_file(path, weights="network") or find_file(path, weights="ema")
    return file is not None and any(FIRST.fullmatch(_plain(name)) for name in _open(file).meta)


def find_file(path: Path, *, weights: str) -> Path | None:
    """The checkpoint that `path` is or holds: model.pt, a training run's newest, safetensors; or None."""
    if path.is_file():
        is_weights = path.suffix in (".pt", ".pth", ".ckpt", ".safetensors", ".json") and not is_torchscript(path)
        return path if is_weights else None
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
    store = _open(file)
    notes: list[str] = []
    stored_names = _network_names(list(store.meta), weights, file, notes)
    meta = {name: _flat(store.meta[stored]) for name, stored in stored_names.items()}
    config = derive_config(meta, arguments, str(file), notes)
    learned_uncertainty = "logvar.1.weight" in meta
    entries = table(config, learned_uncertainty=learned_uncertainty)
    require_tensors(meta, {name: entry.shape for entry in entries for name in entry.official}, str(file))
    return OfficialFile(store, stored_names, meta, config, learned_uncertainty, notes)


def derive_config(
    meta: Mapping[str, Tensor], arguments: Mapping[str, Any] | None, where: str, notes: list[str]
) -> DiTConfig:
    """The architecture of tensors under official names; ConfigError where an argument contradicts them."""
    sizes = _Sizes(meta, where)
    given = dict(arguments or {})
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
    _check_arguments(given, official_arguments(config), where, notes)
    return config


def official_arguments(config: DiTConfig) -> dict[str, Any]:
    """The arguments with which the official constructor makes this architecture."""
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


def _check_arguments(given: Mapping[str, Any], derived: Mapping[str, Any], where: str, notes: list[str]) -> None:
    """What was given must be what the tensors have; sizes of tables only where there are tables."""
    unsized = () if derived["extra_per_block_abs_pos_emb"] else ("max_img_h", "max_img_w", "max_frames")
    if not derived["extra_per_block_abs_pos_emb"]:
        unsized += ("extra_per_block_abs_pos_emb_type",)
    for key, value in given.items():
        if key in NO_EFFECT or key in unsized:
            continue
        if key in EXPECTED and value != EXPECTED[key]:
            raise ConfigError(
                f"{where}: the argument {key}={value} makes another network than the released ones; only "
                f"{key}={EXPECTED[key]} can be converted"
            )
        if key not in derived:
            notes.append(f"the argument {key} is not known here and left aside")
        elif derived[key] != value:
            raise ConfigError(
                f"{where}: its tensors say {key}={derived[key]}, the arguments {key}={value}; "
                "pass the arguments that the checkpoint was made with"
            )


@dataclass(frozen=True)
class _Sizes:
    meta: Mapping[str, Tensor]
    where: str

    def of(self, name: str) -> tuple[int, ...]:
        if name not in self.meta:
            raise ConfigError(f"{self.where} has no {name}: it is no diffusion world model of the Cosmos kind")
        return tuple(self.meta[name].shape)


def _open(file: Path) -> TensorStore:
    return SafetensorsStore(file) if file.suffix in (".safetensors", ".json") else PickleStore(file)


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
    prefixes = {match[1] for name in plain if (match := FIRST.fullmatch(name))}
    if not prefixes:
        raise ConfigError(
            f"{file} is no diffusion world model: none of its {len(stored)} tensors is net.x_embedder.proj.1.weight, "
            f"with or without a prefix; the first are {', '.join(sorted(stored)[:3]) or 'absent'}"
        )
    averaged = {prefix for prefix in prefixes if "ema" in prefix}
    wanted = averaged if weights == "ema" or not prefixes - averaged else prefixes - averaged
    if weights == "ema" and not averaged and "ema" in file.name:
        wanted = prefixes  # a file of averages alone
    if len(wanted) != 1:
        raise ConfigError(f"{file} has networks under {sorted(prefixes)}, and --weights {weights} does not name one")
    if prefixes - wanted:
        notes.append(f"the file has networks under {sorted(prefixes)}: took {sorted(wanted)[0]!r}")
    return wanted.pop()


def _flat(tensor: Tensor) -> Tensor:
    return tensor.flatten(1) if tensor.ndim == 5 else tensor
