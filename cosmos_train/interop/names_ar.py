"""What the tensors of an autoregressive world model are called: by us, and in NVIDIA's files. The one table of it.

A key/value head lies in ours together with the query heads that share it, [G, N / G + 2, K, D]; in cross-attention keys
and values do, [G, 2, K, E]; in the MLP gate and value alternate, [F / 16, 2, 16, D], where F is the official width with
zeros up to a multiple of 16. All else is only named otherwise.
"""

import re
from collections.abc import Iterator

from cosmos_train.interop.names import Entry
from cosmos_train.models.world_ar.config import GATE_GROUP, WorldARConfig

DIVIDED = (
    (re.compile(r".*(tok_embeddings|output|\.wq|\.wk|\.wv|\.w1|\.w3)\.weight"), 0),
    (re.compile(r".*(\.wo|\.w2)\.weight"), 1),
)
"""Official names of what tensor parallelism divides, and along which dimension. The rest is whole on all ranks."""

MEDUSA = "medusa"
"""NVIDIA's files have no heads, and so no name for them."""


def ar_table(config: WorldARConfig) -> list[Entry]:
    """All tensors of an architecture, in the order of the forward pass; last what NVIDIA's files have no place for."""
    d = config.width
    found = [_weight("embed", "tok_embeddings", config.embedding_rows, d)]
    if config.action_width:
        found += _actions(config)
    for block in range(config.num_blocks):
        found += _block(config, f"blocks.{block}", f"layers.{block}")
    found += [_weight("final_norm", "norm", d), _weight("output", "output", config.vocab_size, d)]
    return found + ([_weight(MEDUSA, MEDUSA, config.medusa_heads * d, d)] if config.medusa_heads else [])


def _actions(config: WorldARConfig) -> Iterator[Entry]:
    """The network of actions, as NVIDIA's post-training code names it inside its model."""
    hidden = config.text_width // 4
    for ours, theirs, d_out, d_in in (
        ("hidden", 0, hidden, config.action_width),
        ("out", 2, config.text_width, hidden),
    ):
        yield _weight(f"action.{ours}", f"action_mlp.{theirs}", d_out, d_in)
        yield Entry(f"action.{ours}.bias", {f"model.action_mlp.{theirs}.bias": (d_out,)})


def divided_dim(official: str) -> int | None:
    """See DIVIDED."""
    return next((dim for pattern, dim in DIVIDED if pattern.fullmatch(official)), None)


def _block(config: WorldARConfig, ours: str, theirs: str) -> Iterator[Entry]:
    d, f, groups = config.width, config.ffn_width, config.num_kv_heads
    heads, shared = config.num_heads * config.head_dim, groups * config.head_dim
    yield _weight(f"{ours}.self_norm", f"{theirs}.attention_norm", d)
    qkv = {_name(f"{theirs}.attention.w{one}"): (heads if one == "q" else shared, d) for one in "qkv"}
    yield Entry(f"{ours}.self_attention.qkv.weight", qkv, groups)
    yield from _norms_and_out(config, f"{ours}.self_attention", f"{theirs}.attention")
    if config.cross_attention:
        yield _weight(f"{ours}.cross_norm", f"{theirs}.cross_attention_norm", d)
        yield _weight(f"{ours}.cross_attention.q", f"{theirs}.cross_attention.wq", heads, d)
        kv = {_name(f"{theirs}.cross_attention.w{one}"): (shared, config.text_width) for one in "kv"}
        yield Entry(f"{ours}.cross_attention.kv.weight", kv, groups)
        yield from _norms_and_out(config, f"{ours}.cross_attention", f"{theirs}.cross_attention")
    yield _weight(f"{ours}.mlp_norm", f"{theirs}.ffn_norm", d)
    hidden, more = f - config.ffn_padding, config.ffn_padding
    up = {_name(f"{theirs}.feed_forward.w{one}"): (hidden, d) for one in "13"}
    down = {_name(f"{theirs}.feed_forward.w2"): (d, hidden)}
    yield Entry(f"{ours}.mlp.up.weight", up, f // GATE_GROUP, padding=(more, 0) if more else ())
    yield Entry(f"{ours}.mlp.down.weight", down, padding=(0, more) if more else ())


def _norms_and_out(config: WorldARConfig, ours: str, theirs: str) -> Iterator[Entry]:
    for one in "qk":
        yield _weight(f"{ours}.{one}_layernorm", f"{theirs}.{one}_norm", config.head_dim)
    yield _weight(f"{ours}.out", f"{theirs}.wo", config.width, config.num_heads * config.head_dim)


def _weight(ours: str, theirs: str, *shape: int) -> Entry:
    return Entry(f"{ours}.weight", {_name(theirs): shape})


def _name(theirs: str) -> str:
    return f"model.{theirs}.weight"
