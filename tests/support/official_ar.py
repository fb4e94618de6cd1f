"""Small autoregressive world models as NVIDIA's code has them: files with random weights, and what they compute.

Written from the released code's conventions (facts: arXiv 2501.03575 and its code) in plain torch, without a line of
ours, to hold ours against: names and shapes of tensors, positions by loops over the grid, attention by its formula.
`arguments` are those of the official constructor.
"""

import math
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

BASE: dict[str, Any] = {
    "dim": 40,
    "n_layers": 2,
    "n_heads": 8,
    "n_kv_heads": 4,
    "head_dim": 24,  # n_heads * head_dim is not dim, as in the 12B
    "vocab_size": 48,
    "ffn_hidden_size": 64,
    "norm_eps": 1e-5,
    "norm_type": "rmsnorm",
    "rope_theta": 500_000,
    "rope_dim": "3D",
    "use_qk_normalization": True,
    "video_latent_shape": [3, 4, 5],
    "max_seq_len": 64,
    "pad_to_multiple_of": 64,
}
YARN = {  # nothing of it as in the released models, which are our defaults
    "rope_theta": 100_000,
    "apply_yarn": True,
    "yarn_scale": 3,
    "yarn_beta_fast": 5,
    "yarn_beta_slow": 2,
    "original_latent_shape": [4, 30, 64],
}
TEXT = {
    "insert_cross_attn": True,
    "insert_cross_attn_every_k_layers": 1,
    "context_dim": 16,
    "apply_abs_pos_emb": True,
}
KINDS: dict[str, dict[str, Any]] = {
    "4B": BASE,
    "12B": BASE | YARN,
    "5B video2world": BASE | TEXT,
    "13B video2world": BASE | YARN | TEXT,
}


def has_text(arguments: dict[str, Any]) -> bool:
    return arguments.get("insert_cross_attn", False)


def state(arguments: dict[str, Any], *, seed: int = 0) -> dict[str, Tensor]:
    """Tensors of model.pt: matrices of a scale that keeps the residual stream near 1, norms near 1."""
    dim, hidden, vocab = arguments["dim"], arguments["ffn_hidden_size"], arguments["vocab_size"]
    heads, shared = (arguments[key] * arguments["head_dim"] for key in ("n_heads", "n_kv_heads"))
    rows = (vocab // 64 + 1) * 64 if has_text(arguments) else vocab  # with <bov>, the next multiple of 64
    shapes = {"tok_embeddings": (rows, dim), "norm": (dim,), "output": (vocab, dim)}
    for layer in range(arguments["n_layers"]):
        attentions = {"attention": dim} | ({"cross_attention": arguments["context_dim"]} if has_text(arguments) else {})
        for name, keys_from in attentions.items():
            shapes |= {
                f"layers.{layer}.{name}.wq": (heads, dim),
                f"layers.{layer}.{name}.wk": (shared, keys_from),
                f"layers.{layer}.{name}.wv": (shared, keys_from),
                f"layers.{layer}.{name}.wo": (dim, heads),
                f"layers.{layer}.{name}.q_norm": (arguments["head_dim"],),
                f"layers.{layer}.{name}.k_norm": (arguments["head_dim"],),
                f"layers.{layer}.{name}_norm": (dim,),
            }
        shapes |= {f"layers.{layer}.feed_forward.w{i}": (dim, hidden) if i == 2 else (hidden, dim) for i in (1, 2, 3)}
        shapes[f"layers.{layer}.ffn_norm"] = (dim,)
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {
        f"model.{name}.weight": 1 + 0.2 * tensor
        if tensor.ndim == 1
        else tensor / (1 if name == "tok_embeddings" else tensor.shape[1] ** 0.5)
        for name, tensor in drawn.items()
    }


def write(path: Path, arguments: dict[str, Any], *, seed: int = 0) -> Path:
    """model.pt at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state(arguments, seed=seed), path)
    return path


def shard(tensors: dict[str, Tensor], num_shards: int) -> list[dict[str, Tensor]]:
    """Tensor-parallel shards: heads and hidden units by rows, what comes out of them by columns, codes by rows."""
    shards: list[dict[str, Tensor]] = [{} for _ in range(num_shards)]
    for name, tensor in tensors.items():
        kind = name.split(".")[-2]
        is_rows = kind in ("wq", "wk", "wv", "w1", "w3", "tok_embeddings", "output")
        parts = tensor.chunk(num_shards, dim=0 if is_rows else -1)
        for rank in range(num_shards):
            shards[rank][name] = tensor if "norm" in kind else parts[rank].clone()
    return shards


def logits(tensors: dict[str, Tensor], arguments: dict[str, Any], ids: Tensor, context: Tensor | None) -> Tensor:
    """[B, L, V] of ids [B, L], with <bov> first where there is text; context [B, S, E]."""
    places = _places(arguments)[: ids.shape[1]]
    angles, sinusoid = _rope(arguments, places), _sinusoid(arguments["dim"], places)
    x = tensors["model.tok_embeddings.weight"][ids]
    for layer in range(arguments["n_layers"]):
        w = {k.removeprefix(f"model.layers.{layer}.").removesuffix(".weight"): t for k, t in tensors.items()}
        if arguments.get("apply_abs_pos_emb"):
            x = x + sinusoid
        x = x + _attend(w, "attention", _norm(x, w["attention_norm"]), None, arguments, angles)
        if context is not None:
            x = x + _attend(w, "cross_attention", _norm(x, w["cross_attention_norm"]), context, arguments, None)
        y = _norm(x, w["ffn_norm"])
        x = x + (torch.nn.functional.silu(y @ w["feed_forward.w1"].T) * (y @ w["feed_forward.w3"].T)) @ (
            w["feed_forward.w2"].T
        )
    return _norm(x, tensors["model.norm.weight"]) @ tensors["model.output.weight"].T


def greedy(
    tensors: dict[str, Tensor], arguments: dict[str, Any], given: Tensor, num_codes: int, context: Tensor | None
) -> Tensor:
    """Codes [B, num_codes], the first ones given, each other one the most likely after those before it; no cache."""
    begin = torch.full((len(given), int(has_text(arguments))), arguments["vocab_size"])
    ids = torch.cat((begin, given), dim=1)
    while ids.shape[1] < begin.shape[1] + num_codes:
        following = logits(tensors, arguments, ids, context)[:, -1].argmax(-1)
        ids = torch.cat((ids, following[:, None]), dim=1)
    return ids[:, begin.shape[1] :]


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def _attend(
    w: dict[str, Tensor], name: str, x: Tensor, context: Tensor | None, arguments: dict[str, Any], angles: Tensor | None
) -> Tensor:
    source = x if context is None else context
    q, k, v = (
        (y @ w[f"{name}.w{one}"].T).unflatten(-1, (-1, arguments["head_dim"])).transpose(1, 2)
        for one, y in (("q", x), ("k", source), ("v", source))
    )
    q, k = _norm(q, w[f"{name}.q_norm"]), _norm(k, w[f"{name}.k_norm"])
    if angles is not None:
        q, k = (_rotate(y, angles) for y in (q, k))
    repeats = arguments["n_heads"] // arguments["n_kv_heads"]
    heads = []
    for head in range(arguments["n_heads"]):  # neighbouring query heads share a key/value head
        scores = q[:, head] @ k[:, head // repeats].mT / math.sqrt(arguments["head_dim"])
        if context is None:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -math.inf)
        heads.append(scores.softmax(-1) @ v[:, head // repeats])
    return torch.cat(heads, dim=-1) @ w[f"{name}.wo"].T


def _rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Halves of a head are the two coordinates of its pairs, as in TransformerEngine."""
    first, second = x.split(x.shape[-1] // 2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _places(arguments: dict[str, Any]) -> list[tuple[int, int, int] | None]:
    """(t, h, w) of each token; none for <bov>."""
    frames, height, width = arguments["video_latent_shape"]
    grid = list(product(range(frames), range(height), range(width)))
    return [*([None] if has_text(arguments) else []), *grid]


def _parts(width: int) -> tuple[int, int, int]:
    """Of time, rows and columns."""
    return width - 2 * (width // 6 * 2), width // 6 * 2, width // 6 * 2


def _rope(arguments: dict[str, Any], places: list[tuple[int, int, int] | None]) -> Tensor:
    """[L, K / 2]; YaRN slows down the frequencies that turn rarely over the original grid, columns by its height."""
    per_axis = []
    for axis, width in enumerate(_parts(arguments["head_dim"])):
        frequencies = [arguments["rope_theta"] ** (-2 * i / width) for i in range(width // 2)]
        if arguments.get("apply_yarn"):
            length = arguments["original_latent_shape"][min(axis, 1)]
            low, high = (2 * math.pi * arguments[f"yarn_beta_{one}"] / length for one in ("slow", "fast"))
            kept = [min(max((f - low) / (high - low), 0.0), 1.0) for f in frequencies]
            frequencies = [
                f * ((1 - share) / arguments["yarn_scale"] + share) for f, share in zip(frequencies, kept, strict=True)
            ]
        per_axis.append(frequencies)
    rows = []
    for place in places:
        row = []
        for axis, frequencies in enumerate(per_axis):
            row += [0.0 if place is None else place[axis] * f for f in frequencies]
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float32)


def _sinusoid(dim: int, places: list[tuple[int, int, int] | None]) -> Tensor:
    """[L, D], rounded to bf16 even in an fp32 model: of time, rows, columns, each its sines and then its cosines."""
    rows = []
    for place in places:
        row = []
        for axis, width in enumerate(_parts(dim)):
            steps = [10_000 ** (-2 * i / width) for i in range(width // 2)]
            angles = [0.0 if place is None else place[axis] * step for step in steps]
            row += [0.0] * width if place is None else [*map(math.sin, angles), *map(math.cos, angles)]
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64).bfloat16().float()
