"""NVIDIA's files of autoregressive world models: which tensors are the network's, and the architecture that they tell.

    model.pt, *.safetensors            model.tok_embeddings.*, model.layers.*, model.norm.*, model.output.*
    iter_*.pt                          the same of a training run, inside {"model": ...}
    *_model_mp_{rank}.pt               tensor-parallel shards of either

A network that reads actions has model.action_mlp.* too. No tensor tells what the positions are. Of the released models
the 12B and 13B have YaRN, and those that attend to text (Video2World) add a sinusoid before every block.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from cosmos_tok.weight_file import is_torchscript
from cosmos_tok.weights import open_weights
from cosmos_train.config.errors import ConfigError
from cosmos_train.interop.names import official_shapes, require_tensors
from cosmos_train.interop.names_ar import ar_table
from cosmos_train.interop.official import (
    WRAPPERS,
    OfficialFile,
    Sizes,
    check_arguments,
    prefixes,
    refuse_features,
)
from cosmos_train.interop.shards import ShardStore, shards_beside, write_shards
from cosmos_train.interop.stores import find_safetensors, write_pickle
from cosmos_train.models.world_ar.config import GATE_GROUP, WorldARConfig

FIRST = re.compile(r"(.*?)tok_embeddings\.weight")
LEFT_OUT = re.compile(r".*\._extra_state|model\.(rope|pos_emb)\..*")
"""TransformerEngine's own; positions, which are computed."""

RELEASED_YARN = (40, 5120)
"""Blocks and width of the models with YaRN."""
BEGIN, NO_BEGIN = "text_to_video", "video_to_video"
"""The official training_type with a begin token, and without."""
EXPECTED: dict[str, Any] = {
    "norm_type": "rmsnorm",
    "norm_eps": 1e-5,  # the official norms of queries and keys have it whatever the argument is
    "causal_mask": True,
    "use_qk_normalization": True,
    "rope_dim": "3D",
    "pytorch_rope_version": "v2",
    "insert_cross_attn_every_k_layers": 1,
    "use_action_condition": False,
    "insert_medusa_head": False,
}
YARN = {
    "yarn_scale": "yarn_scale",
    "yarn_beta_fast": "yarn_beta_fast",
    "yarn_beta_slow": "yarn_beta_slow",
    "original_latent_shape": "yarn_original_THW",
}
"""Arguments that YaRN needs, and our keys."""
UNTOLD = (*YARN.values(), "absolute_positions", "rope_theta")
"""Fields of the architecture that arguments alone tell."""
POSITIONS = {*YARN, "apply_yarn", "apply_abs_pos_emb", "rope_theta"}
"""What no tensor contradicts."""
NO_EFFECT = {
    *("max_batch_size", "max_seq_len", "original_seq_len", "pad_to_multiple_of", "fuse_qkv", "precision", "backend"),
    *("video_latent_shape", "video_height", "video_width", "num_video_frames", "tensor_model_parallel_size"),
    *("ckpt_dir", "ckpt_path", "tokenizer", "vision_encoder_in_channels", "inference", "flash_attn", "cache_dir"),
    *("name", "_target_", "add_special_tokens", "set_parallel_mode", "sequence_parallel", "act_ckpt_enabled"),
    *("fsdp_enabled", "embedding_dropout", "attention_dropout", "hidden_dropout", "z_loss_coeff"),
    *("action_dim", "action_embedding_dim", "action_embedding_mode", "medusa_num_heads"),  # of what EXPECTED refuses
}
"""Arguments for inference, training and files, and of features that are off."""


def is_official(path: Path) -> bool:
    """Whether a file, or the checkpoint in a folder, is of an autoregressive world model. Reads no weight."""
    files = find_files(path)
    return bool(files) and any(FIRST.fullmatch(name) for name in open_weights(files[0]).meta)


def find_files(path: Path) -> list[Path]:
    """The checkpoint that `path` is or holds: one file, or all shards by rank; none where there is none."""
    if path.is_file():
        return shards_beside(path) or ([] if is_torchscript(path) else [path])
    if (path / "model.pt").is_file():
        return [path / "model.pt"]
    for folder in (path, path / "checkpoints"):
        if trained := sorted(folder.glob("iter_*[0-9].pt")) or sorted(folder.glob("*model_mp_0.pt")):
            return shards_beside(trained[-1]) or [trained[-1]]
    stored = find_safetensors(path, "model")
    return [] if stored is None else [stored]


def open_official(path: Path, arguments: Mapping[str, Any] | None) -> OfficialFile:
    """Recognise the network's tensors in a file and derive their architecture. Raises ConfigError, TokenizerError."""
    files = find_files(path)
    store = open_weights(files[0]) if len(files) == 1 else ShardStore([open_weights(file) for file in files], path)
    notes = [f"put together from {len(files)} tensor-parallel shards"] if len(files) > 1 else []
    plain = {WRAPPERS.sub("", name): name for name in store.meta}
    found = prefixes(plain, FIRST)
    if len(found) != 1:
        raise ConfigError(f"{path} has networks under {sorted(found)}; save one of them by itself")
    [prefix] = found
    names = {f"model.{n.removeprefix(prefix)}": stored for n, stored in plain.items() if n.startswith(prefix)}
    names = {name: stored for name, stored in names.items() if not LEFT_OUT.fullmatch(name)}
    meta = {name: store.meta[stored] for name, stored in names.items()}
    refuse_features(meta, str(path))
    config = derive_config(meta, arguments, str(path), notes)
    entries = ar_table(config)
    require_tensors(meta, official_shapes(entries), str(path))
    untold = () if any(value is not None for value in (arguments or {}).values()) else UNTOLD
    return OfficialFile(store, names, meta, config, entries, notes, untold)


def write_official(
    folder: Path, to: str, config: WorldARConfig, tensors: Callable[[], Iterator[tuple[str, Tensor]]], *, tp: int
) -> Path:
    """The file of released models (to: official) or of a training run (training), into a folder that exists.

    With tp > 1 its shards instead; the first one's path is returned. ConfigError where so many can not divide it.
    """
    file = folder / {"official": "model.pt", "training": "iter_000000000.pt"}[to]
    if tp == 1:
        write_pickle(file, tensors())
        return file
    for key, value in (
        ("num_kv_heads", config.num_kv_heads),
        ("vocab_size", config.vocab_size),
        ("ffn_width", config.ffn_width - config.ffn_padding),
    ):
        if value % tp:
            raise ConfigError(f"--tp {tp} does not divide model.{key}={value}; write fewer shards")
    return write_shards(file, tensors, tp)


def derive_config(
    meta: Mapping[str, Tensor], arguments: Mapping[str, Any] | None, where: str, notes: list[str]
) -> WorldARConfig:
    """The architecture of tensors under official names; ConfigError where an argument contradicts them."""
    sizes, layer = Sizes(meta, where, "autoregressive"), "model.layers.0"
    given = {key: value for key, value in (arguments or {}).items() if value is not None}
    rows, width = sizes.of("model.tok_embeddings.weight")
    vocab_size = sizes.of("model.output.weight")[0]
    queries, shared = (sizes.of(f"{layer}.attention.w{one}.weight")[0] for one in "qk")
    head_dim = sizes.of(f"{layer}.attention.q_norm.weight")[0]
    has_text = f"{layer}.cross_attention.wk.weight" in meta
    hidden = sizes.of(f"{layer}.feed_forward.w1.weight")[0]
    padding = -hidden % GATE_GROUP
    if padding:
        notes.append(f"its MLP of {hidden} hidden units has {padding} more here that are zero")
    fields: dict[str, Any] = {
        "num_blocks": len({name.split(".")[2] for name in meta if name.startswith("model.layers.")}),
        "width": width,
        "num_heads": queries // head_dim,
        "num_kv_heads": shared // head_dim,
        "head_dim": head_dim,
        "ffn_width": hidden + padding,
        "ffn_padding": padding,
        "vocab_size": vocab_size,
        "begin_token": rows != vocab_size,
        "cross_attention": has_text,
    }
    if "model.action_mlp.0.weight" in meta:
        fields["action_width"] = sizes.of("model.action_mlp.0.weight")[1]
    if has_text:
        fields["text_width"] = sizes.of(f"{layer}.cross_attention.wk.weight")[1]
    elif "context_dim" in given:
        fields["text_width"] = given["context_dim"]
    fields |= _positions(given, where) if given else _released_positions(fields, notes)
    try:
        config = WorldARConfig(**fields)
    except ValueError as error:
        raise ConfigError(f"{where} is of no architecture that is known here: {error}") from error
    derived = official_arguments(config) | {"training_type": BEGIN if config.begin_token else NO_BEGIN}
    check_arguments(given, derived, where, expected=EXPECTED, no_effect=NO_EFFECT | POSITIONS)
    return config


def official_arguments(config: WorldARConfig) -> dict[str, Any]:
    """The arguments with which the official constructor makes this architecture. ConfigError where it can not."""
    if not config.yarn_spatial or config.norm_eps != EXPECTED["norm_eps"]:
        raise ConfigError(
            f"model.yarn_spatial={config.yarn_spatial} and model.norm_eps={config.norm_eps}: the official code only "
            f"has True and {EXPECTED['norm_eps']}; convert it --to ours"
        )
    return {
        "dim": config.width,
        "n_layers": config.num_blocks,
        "n_heads": config.num_heads,
        "n_kv_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "ffn_hidden_size": config.ffn_width - config.ffn_padding,
        "norm_type": "rmsnorm",
        "norm_eps": config.norm_eps,
        "use_qk_normalization": True,
        "rope_dim": "3D",
        "pytorch_rope_version": "v2",
        "rope_theta": config.rope_theta,
        "apply_yarn": config.yarn_scale != 1,
        "yarn_scale": config.yarn_scale,
        "yarn_beta_fast": config.yarn_beta_fast,
        "yarn_beta_slow": config.yarn_beta_slow,
        "original_latent_shape": list(config.yarn_original_THW),
        "apply_abs_pos_emb": config.absolute_positions,
        "insert_cross_attn": config.cross_attention,
        "insert_cross_attn_every_k_layers": 1,
        "context_dim": config.text_width,
    }


def _positions(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """As the arguments say; the constructor's defaults are neither YaRN nor sinusoid."""
    fields: dict[str, Any] = {"absolute_positions": bool(given.get("apply_abs_pos_emb", False))}
    fields |= {"rope_theta": float(given["rope_theta"])} if "rope_theta" in given else {}
    fields |= {ours: given[theirs] for theirs, ours in YARN.items() if theirs in given}
    if "yarn_original_THW" in fields:
        fields["yarn_original_THW"] = tuple(fields["yarn_original_THW"])
    if not given.get("apply_yarn"):
        return fields | {"yarn_scale": 1.0}
    if missing := [key for key in YARN if key not in given]:
        raise ConfigError(f"{where}: the argument apply_yarn=True needs {', '.join(missing)}; add them")
    return fields


def _released_positions(fields: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    has_yarn, has_text = (fields["num_blocks"], fields["width"]) == RELEASED_YARN, fields["cross_attention"]
    yarn, sinusoid = ("" if one else "no " for one in (has_yarn, has_text))
    notes.append(f"no tensor tells the positions; took {yarn}YaRN and {sinusoid}sinusoid, as released")
    return {"yarn_scale": 2.0 if has_yarn else 1.0, "absolute_positions": has_text}
