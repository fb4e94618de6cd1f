"""What the tensors of a diffusion world model are called: by us, in NVIDIA's files, in diffusers' folders.

The one table of it. Ours differ from the released ones in that a head's queries, keys and values lie together in one
matrix [N, P, K, D], P = 3 in self-attention and 2 (keys, values) in cross-attention; all else is only named otherwise.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cosmos_train.config.errors import ConfigError
from cosmos_train.interop.stores import TensorStore
from cosmos_train.models.dit.config import DiTConfig

UNCERTAINTY_FEATURES = 128
"""Random Fourier features of the released `logvar`."""
NUM_SHOWN = 3
"""Differing tensors that an error names."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor of ours, and the official ones that it is made of."""

    ours: str
    official: tuple[str, ...]
    """One, or those that lie together in ours."""
    shape: tuple[int, ...]
    """Of each official one."""


def table(config: DiTConfig, *, learned_uncertainty: bool) -> list[Entry]:
    """All tensors of an architecture, in the order of the forward pass."""
    d, rank, cells = config.width, config.adaln_rank, config.patch_spatial**2
    found = [
        _weight("embed", "x_embedder.proj.1", d, config.in_channels * cells),
        _weight("timestep.hidden", "t_embedder.1.linear_1", d, d),
        _weight("timestep.out", "t_embedder.1.linear_2", 3 * d if rank else d, d),
    ]
    if not rank:
        for ours, theirs in (("hidden", "linear_1"), ("out", "linear_2")):
            found.append(Entry(f"net.timestep.{ours}.bias", (f"net.t_embedder.1.{theirs}.bias",), (d,)))
    if config.timestep_norm:
        found.append(_weight("timestep.norm", "affline_norm", d))
    if config.position_tables:
        for axis, rows in zip("thw", config.table_rows, strict=True):
            found.append(Entry(f"net.position.{axis}", (f"net.extra_pos_embedder.pos_emb_{axis}",), (rows, d)))
    for block in range(config.num_blocks):
        found += _block(config, block)
    found += _modulation("final.modulation", "final_layer", config, num_chunks=2)
    found.append(_weight("final.linear", "final_layer.linear", cells * config.latent_channels, d))
    if learned_uncertainty:
        features = (UNCERTAINTY_FEATURES,)
        found.append(Entry("uncertainty.frequency", ("logvar.0.freqs",), features))
        found.append(Entry("uncertainty.phase", ("logvar.0.phases",), features))
        found.append(Entry("uncertainty.linear.weight", ("logvar.1.weight",), (1, *features)))
    return found


def _block(config: DiTConfig, block: int) -> Iterator[Entry]:
    d, text, ours, theirs = config.width, config.text_width, f"blocks.{block}", f"blocks.block{block}.blocks"
    fused = f"net.{ours}.self_attention.qkv.weight", f"net.{ours}.cross_attention.kv.weight"
    attention = f"net.{theirs}.0.block.attn", f"net.{theirs}.1.block.attn"
    yield Entry(fused[0], tuple(f"{attention[0]}.to_{one}.0.weight" for one in "qkv"), (d, d))
    yield _weight(f"{ours}.cross_attention.q", f"{theirs}.1.block.attn.to_q.0", d, d)
    yield Entry(fused[1], tuple(f"{attention[1]}.to_{one}.0.weight" for one in "kv"), (d, text))
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
    return Entry(f"net.{ours}.weight", (f"net.{theirs}.weight",), shape)


def join(parts: list[Tensor], num_heads: int) -> Tensor:
    """Matrices with rows [N, K] -> one with rows [N, P, K]."""
    if len(parts) == 1:
        return parts[0]
    return torch.stack([part.unflatten(0, (num_heads, -1)) for part in parts], dim=1).flatten(0, 2)


def split(tensor: Tensor, num_parts: int, num_heads: int) -> list[Tensor]:
    """The inverse of `join`."""
    if num_parts == 1:
        return [tensor]
    return [part.flatten(0, 1) for part in tensor.unflatten(0, (num_heads, num_parts, -1)).unbind(1)]


class OurTensors:
    """A world model's tensors under our names, out of a store under official ones. A TensorStore itself."""

    def __init__(self, store: TensorStore, entries: list[Entry], num_heads: int) -> None:
        self.store, self.num_heads = store, num_heads
        self.entries = {entry.ours: entry for entry in entries}
        self.meta = {name: join([store.meta[one] for one in e.official], num_heads) for name, e in self.entries.items()}

    def read(self, name: str) -> Tensor:
        """One tensor of ours, put together."""
        return join([self.store.read(one) for one in self.entries[name].official], self.num_heads)


def official_meta(entries: list[Entry], ours: TensorStore) -> dict[str, Tensor]:
    """Shape and type of every official tensor, as `official_tensors` yields them."""
    return {
        name: torch.empty(entry.shape, dtype=ours.meta[entry.ours].dtype, device="meta")
        for entry in entries
        for name in entry.official
    }


def official_tensors(entries: list[Entry], ours: TensorStore, num_heads: int) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors as in an official file, one of ours at a time."""
    for entry in entries:
        parts = split(ours.read(entry.ours), len(entry.official), num_heads)
        yield from zip(entry.official, parts, strict=True)


def require_tensors(found: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], where: str) -> None:
    """ConfigError that names the first tensors by which a file differs from its architecture."""
    differences = []
    for name in sorted(expected.keys() | found.keys()):
        wanted = _shape(expected.get(name))
        given = _shape(tuple(found[name].shape) if name in found else None)
        if wanted != given:
            differences.append(f"{name}: {given} in the file, {wanted} in the architecture")
    if differences:
        more = f"; and {len(differences) - NUM_SHOWN} more" if len(differences) > NUM_SHOWN else ""
        raise ConfigError(
            f"{where} is not the world model that its tensors and --arguments describe: "
            f"{'; '.join(differences[:NUM_SHOWN])}{more}; pass the arguments of its constructor, or take another file"
        )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape))


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
