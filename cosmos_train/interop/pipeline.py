"""diffusers' folders of diffusion world models, written and read without diffusers.

    model_index.json                      which pipeline: Text2World, or Video2World with a condition mask
    transformer/                          CosmosTransformer3DModel: config.json, diffusion_pytorch_model*.safetensors
    scheduler/scheduler_config.json       EDMEulerScheduler, as the converted released models have it
    vae/                                  AutoencoderKLCosmos, where a tokenizer was given (cosmos_tok.kl_cosmos)
    learned_uncertainty.safetensors       `logvar`, for which diffusers has no place; kept for the way back

The text encoder and its tokenizer are not part of a world model: from_pretrained is given them, or prompt_embeds.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from cosmos_tok.weights import open_weights
from cosmos_train.config.errors import ConfigError
from cosmos_train.interop.names import Entry, official_meta, official_shapes, official_tensors, require_tensors
from cosmos_train.interop.names_dit import diffusers_name, dit_table
from cosmos_train.interop.stores import (
    TensorStore,
    find_safetensors,
    write_safetensors,
)
from cosmos_train.models.dit.config import DiTConfig

CLASS_NAME = "CosmosTransformer3DModel"
CONFIG, STEM, UNCERTAINTY = "config.json", "diffusion_pytorch_model", "learned_uncertainty"
BASE_FPS = 24.0
"""Fixed in diffusers' code."""
DEFAULTS: dict[str, Any] = {
    "in_channels": 16,
    "out_channels": 16,
    "num_attention_heads": 32,
    "attention_head_dim": 128,
    "num_layers": 28,
    "mlp_ratio": 4.0,
    "text_embed_dim": 1024,
    "adaln_lora_dim": 256,
    "max_size": [128, 240, 240],
    "patch_size": [1, 2, 2],
    "rope_scale": [2.0, 1.0, 1.0],
    "concat_padding_mask": True,
    "extra_pos_embed_type": "learnable",
}
"""What the class assumes where config.json is silent."""
SCHEDULER: dict[str, Any] = {
    "_class_name": "EDMEulerScheduler",
    "final_sigmas_type": "sigma_min",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "rho": 7.0,
    "sigma_data": 0.5,
    "sigma_max": 80.0,
    "sigma_min": 0.002,
    "sigma_schedule": "karras",
}


def find_folder(path: Path) -> Path | None:
    """The folder of a CosmosTransformer3DModel at `path`, or of the pipeline there; None where there is none."""
    for folder in (path, path / "transformer"):
        if (folder / CONFIG).is_file() and _read_json(folder / CONFIG).get("_class_name") == CLASS_NAME:
            return folder
    return None


class PipelineFolder:
    """A transformer folder with its tensors under official names. A TensorStore."""

    def __init__(self, folder: Path) -> None:
        """Raises ConfigError where a file is missing or damaged, or the architecture has no place here."""
        self.config = _to_config(DEFAULTS | _read_json(folder / CONFIG), folder / CONFIG)
        weights = find_safetensors(folder, STEM)
        if weights is None:
            raise ConfigError(f"{folder} holds no {STEM}.safetensors and no index of shards; copy the folder again")
        network = open_weights(weights)
        beside = folder.parent / f"{UNCERTAINTY}.safetensors"
        has_uncertainty = folder.name == "transformer" and beside.is_file()
        self.entries = dit_table(self.config, learned_uncertainty=has_uncertainty)
        shapes = official_shapes(dit_table(self.config, learned_uncertainty=False))
        require_tensors(network.meta, {diffusers_name(name): shape for name, shape in shapes.items()}, str(folder))
        self.places: dict[str, tuple[TensorStore, str]] = {name: (network, diffusers_name(name)) for name in shapes}
        if has_uncertainty:
            logvar = open_weights(beside)
            self.places |= {name: (logvar, name) for name in logvar.meta}
        self.meta = {name: store.meta[theirs] for name, (store, theirs) in self.places.items()}

    def read(self, name: str) -> Tensor:
        """One tensor."""
        store, theirs = self.places[name]
        return store.read(theirs)


def write_pipeline(folder: Path, config: DiTConfig, entries: list[Entry], ours: TensorStore) -> None:
    """Write all but the vae into a folder that exists. Raises ConfigError for what diffusers has no place for."""
    document = {"_class_name": CLASS_NAME} | transformer_arguments(config)
    (folder / "transformer").mkdir()
    (folder / "scheduler").mkdir()
    _write_json(folder / "transformer" / CONFIG, document)
    _write_json(folder / "scheduler/scheduler_config.json", SCHEDULER)
    kind = "Video" if config.condition_mask else "Text"
    index = {
        "_class_name": f"Cosmos{kind}ToWorldPipeline",
        "scheduler": ["diffusers", SCHEDULER["_class_name"]],
        "text_encoder": [None, None],
        "tokenizer": [None, None],
        "transformer": ["diffusers", CLASS_NAME],
        "vae": ["diffusers", "AutoencoderKLCosmos"] if (folder / "vae").is_dir() else [None, None],
    }
    _write_json(folder / "model_index.json", index)
    rest = [entry for entry in entries if entry.ours.startswith("uncertainty.")]
    _write(folder / "transformer", STEM, [entry for entry in entries if entry not in rest], ours)
    if rest:
        _write(folder, UNCERTAINTY, rest, ours)


def _write(folder: Path, stem: str, entries: list[Entry], ours: TensorStore) -> None:
    meta = {diffusers_name(name): tensor for name, tensor in official_meta(entries, ours).items()}
    tensors = ((diffusers_name(name), tensor) for name, tensor in official_tensors(entries, ours))
    write_safetensors(folder, stem, meta, tensors)


def _to_config(stored: Mapping[str, Any], path: Path) -> DiTConfig:
    for key, known in (("extra_pos_embed_type", ("learnable", None)), ("use_crossattn_projection", (False, None))):
        if stored.get(key) not in known:
            raise ConfigError(f"{path} has {key}={stored[key]}, which no Cosmos 1 world model has; known: {known[0]}")
    frames, height, width = stored["max_size"]
    patch_t, patch, patch_w = stored["patch_size"]
    further = stored["in_channels"] - stored["out_channels"]
    if patch_t != 1 or patch != patch_w or further < 0 or int(stored["mlp_ratio"]) != stored["mlp_ratio"]:
        raise ConfigError(
            f"{path} has patch_size={stored['patch_size']}, in_channels={stored['in_channels']}, out_channels="
            f"{stored['out_channels']}, mlp_ratio={stored['mlp_ratio']}; known are patches [1, p, p], at least as many "
            "channels in as out, and a whole ratio"
        )
    t, h, w = stored["rope_scale"]
    return DiTConfig(
        num_blocks=stored["num_layers"],
        num_heads=stored["num_attention_heads"],
        head_dim=stored["attention_head_dim"],
        mlp_ratio=int(stored["mlp_ratio"]),
        adaln_rank=stored["adaln_lora_dim"],
        latent_channels=stored["out_channels"],
        text_width=stored["text_embed_dim"],
        condition_mask=further > 0,
        extra_channels=max(0, further - 1),
        padding_mask=stored["concat_padding_mask"],
        patch_spatial=patch,
        position_tables=stored["extra_pos_embed_type"] == "learnable",
        max_latent_frames=frames,
        max_latent_size=height,
        max_latent_width=None if width == height else width,
        rope_scale_t=t,
        rope_scale_h=h,
        rope_scale_w=w,
    )


def transformer_arguments(config: DiTConfig) -> dict[str, Any]:
    """The arguments with which diffusers makes this architecture. Raises ConfigError where it can not."""
    for key, value, is_known in (
        ("adaln_rank", config.adaln_rank, config.adaln_rank > 0),
        ("timestep_norm", config.timestep_norm, config.timestep_norm),
        ("extra_channels", config.extra_channels, config.extra_channels == 0),
        ("action_width", config.action_width, config.action_width == 0),
        ("base_fps", config.base_fps, config.base_fps == BASE_FPS),
    ):
        if not is_known:
            raise ConfigError(
                f"model.{key}={value} has no place in diffusers' {CLASS_NAME}; convert it --to ours or official"
            )
    rows = config.table_rows
    return {
        "in_channels": config.in_channels - config.padding_mask,  # diffusers adds the padding mask itself
        "out_channels": config.latent_channels,
        "num_attention_heads": config.num_heads,
        "attention_head_dim": config.head_dim,
        "num_layers": config.num_blocks,
        "mlp_ratio": float(config.mlp_ratio),
        "text_embed_dim": config.text_width,
        "adaln_lora_dim": config.adaln_rank,
        "max_size": [rows[0], rows[1] * config.patch_spatial, rows[2] * config.patch_spatial],
        "patch_size": [1, config.patch_spatial, config.patch_spatial],
        "rope_scale": [config.rope_scale_t, config.rope_scale_h, config.rope_scale_w],
        "concat_padding_mask": config.padding_mask,
        "extra_pos_embed_type": "learnable" if config.position_tables else None,
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; copy the folder again") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path} is not a JSON object; copy the folder again")
    return document


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n")
