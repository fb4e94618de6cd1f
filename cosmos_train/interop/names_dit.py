"""What the tensors of a diffusion world model are called: by us, in NVIDIA's files, in diffusers' folders.

The one table of it. A head's queries, keys and values lie together in ours, [N, P, K, D]: P = 3 in self-attention and 2
(keys, values) in cross-attention; all else is only named otherwise.
"""

import re
from collections.abc import Iterator

from cosmos_train.interop.names import Entry
from cosmos_train.models.dit.config import DiTConfig

UNCERTAINTY_FEATURES = 128
"""Random Fourier features of the released `logvar`."""


def dit_table(config: DiTConfig, *, learned_uncertainty: bool) -> list[Entry]:
    """All tensors of an architecture, in the order of the forward pass."""
    d, rank, cells = config.width, config.adaln_rank, config.patch_spatial**2
    found = [
        _weight("embed", "x_embedder.proj.1", d, config.in_channels * cells),
        _weight("timestep.hidden", "t_embedder.1.linear_1", d, d),
        _weight("timestep.out", "t_embedder.1.linear_2", 3 * d if rank else d, d),
    ]
    if not rank:
        for ours, theirs in (("hidden", "linear_1"), ("out", "linear_2")):
            found.append(Entry(f"net.timestep.{ours}.bias", {f"net.t_embedder.1.{theirs}.bias": (d,)}))
    if config.timestep_norm:
        found.append(_weight("timestep.norm", "affline_norm", d))
    if config.position_tables:
        for axis, rows in zip("thw", config.table_rows, strict=True):
            found.append(Entry(f"net.position.{axis}", {f"net.extra_pos_embedder.pos_emb_{axis}": (rows, d)}))
    if config.action_width:
        found += _actions(config)
    for block in range(config.num_blocks):
        found += _block(config, block)
    found += _modulation("final.modulation", "final_layer", config, num_chunks=2)
    found.append(_weight("final.linear", "final_layer.linear", cells * config.latent_channels, d))
    if learned_uncertainty:
        features = (UNCERTAINTY_FEATURES,)
        found.append(Entry("uncertainty.frequency", {"logvar.0.freqs": features}))
        found.append(Entry("uncertainty.phase", {"logvar.0.phases": features}))
        found.append(Entry("uncertainty.linear.weight", {"logvar.1.weight": (1, *features)}))
    return found


def _actions(config: DiTConfig) -> Iterator[Entry]:
    """The networks of actions; NVIDIA's files have no table of embodiments, and so no name for it."""
    d, hidden = config.width, 4 * config.width
    for ours, theirs, out in (("embedding", "B_D", d), ("modulation", "B_3D", 3 * d if config.adaln_rank else 0)):
        if not out:
            continue
        for layer, fc, d_out, d_in in (("hidden", "fc1", hidden, config.action_width), ("out", "fc2", out, hidden)):
            yield _weight(f"action.{ours}.{layer}", f"action_embedder_{theirs}.{fc}", d_out, d_in)
            yield Entry(f"net.action.{ours}.{layer}.bias", {f"net.action_embedder_{theirs}.{fc}.bias": (d_out,)})
        if config.num_embodiments:
            table = f"action_embedder_{theirs}.embodiment"
            yield _weight(f"action.{ours}.embodiment", table, config.num_embodiments, hidden)


def _block(config: DiTConfig, block: int) -> Iterator[Entry]:
    d, text, ours, theirs = config.width, config.text_width, f"blocks.{block}", f"blocks.block{block}.blocks"
    fused = f"net.{ours}.self_attention.qkv.weight", f"net.{ours}.cross_attention.kv.weight"
    attention = f"net.{theirs}.0.block.attn", f"net.{theirs}.1.block.attn"
    yield Entry(fused[0], {f"{attention[0]}.to_{one}.0.weight": (d, d) for one in "qkv"}, config.num_heads)
    yield _weight(f"{ours}.cross_attention.q", f"{theirs}.1.block.attn.to_q.0", d, d)
    yield Entry(fused[1], {f"{attention[1]}.to_{one}.0.weight": (d, text) for one in "kv"}, config.num_heads)
    for number, part in enumerate(("self", "cross")):
        for one in "qk":
            norm = f"{ours}.{part}_attention.{one}_layernorm"
            yield _weight(norm, f"{theirs}.{number}.block.attn.to_{one}.1", config.head_dim)
        yield _weight(f"{ours}.{part}_attention.out", f"{theirs}.{number}.block.attn.to_out.0", d, d)
    yield _weight(f"{ours}.mlp.up", f"{theirs}.2.block.layer1", config.mlp_ratio * d, d)
    yield _weight(f"{ours}.mlp.down", f"{theirs}.2.block.layer2", d, config.mlp_ratio * d)
    for number, part in enumerate(("self", "cross", "mlp")):
        yield from _modulation(f"{ours}.{part}_modulation", f"{theirs}.{number}", config, num_chunks=3)


def _modulation(ours: str, theirs: str, config: DiTConfig, *, num_chunks: int) -> Iterator[Entry]:
    """A low-rank pair of matrices, or the one of a model without AdaLN-LoRA."""
    d, rank = config.width, config.adaln_rank
    if rank:
        yield _weight(f"{ours}.down", f"{theirs}.adaLN_modulation.1", rank, d)
    yield _weight(f"{ours}.up", f"{theirs}.adaLN_modulation.{2 if rank else 1}", num_chunks * d, rank or d)


def _weight(ours: str, theirs: str, *shape: int) -> Entry:
    return Entry(f"net.{ours}.weight", {f"net.{theirs}.weight": shape})


RENAMES = (
    (r"^net\.", ""),
    (r"^blocks\.block(\d+)\.", r"transformer_blocks.\1."),
    (r"\.blocks\.([01])\.block\.attn\.", lambda found: f".attn{int(found[1]) + 1}."),
    (r"\.blocks\.2\.block\.layer1\.", ".ff.net.0.proj."),
    (r"\.blocks\.2\.block\.layer2\.", ".ff.net.2."),
    (r"\.blocks\.([012])\.adaLN_modulation\.([12])\.", lambda found: f".norm{int(found[1]) + 1}.linear_{found[2]}."),
    (r"\.to_([qk])\.1\.", r".norm_\1."),
    (r"\.to_([qkv])\.0\.", r".to_\1."),
    (r"^x_embedder\.proj\.1\.", "patch_embed.proj."),
    (r"^t_embedder\.1\.", "time_embed.t_embedder."),
    (r"^affline_norm\.", "time_embed.norm."),
    (r"^extra_pos_embedder\.", "learnable_pos_embed."),
    (r"^final_layer\.adaLN_modulation\.([12])\.", r"norm_out.linear_\1."),
    (r"^final_layer\.linear\.", "proj_out."),
)


def diffusers_name(official: str) -> str:
    """diffusers' name of an official tensor of the network; `logvar` has none there."""
    for pattern, replacement in RENAMES:
        official = re.sub(pattern, replacement, official)
    return official
