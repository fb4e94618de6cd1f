"""Floating-point operations of the DiT, read top to bottom as model.py is. No torch in here.

Letters as there: B batch, T latent frames, H W latent rows and columns, L tokens, D width, S text tokens. The learned
uncertainty, 256 operations a sample, is not the network's and is left out.
"""

from collections.abc import Sequence

from cosmos_train.config.errors import ConfigError
from cosmos_train.models.common.flops import Cost, attention, linear
from cosmos_train.models.dit.config import DiTConfig


def num_tokens(config: DiTConfig, latent_THW: Sequence[int]) -> int:
    """L of a sample. Raises ValueError where the latents can not be cut into patches."""
    frames, height, width = latent_THW
    patch = config.patch_spatial
    if height % patch or width % patch:
        raise ConfigError(
            f"latents of {height} x {width} cells can not be cut into patches of model.patch_spatial={patch}; "
            "use a height and width whose latents divide"
        )
    return frames * (height // patch) * (width // patch)


def dit_cost(config: DiTConfig, *, batch: int, latent_THW: Sequence[int], text_tokens: int) -> Cost:
    """The whole network on a batch of B samples of the same size, linear in B."""
    d, patch_cells = config.width, config.patch_spatial**2
    rows = batch * num_tokens(config, latent_THW)
    return (
        linear(rows, patch_cells * config.in_channels, d, input_has_gradient=False)
        + linear(batch, d, d, input_has_gradient=False)  # timestep MLP, of a sinusoid
        + linear(batch, d, 3 * d if config.adaln_rank else d)
        + action_cost(config, modulated_rows(config, batch, latent_THW))
        + all_blocks_cost(config, batch=batch, latent_THW=latent_THW, text_tokens=text_tokens)
        + modulation_cost(config, modulated_rows(config, batch, latent_THW), num_chunks=2)
        + linear(rows, d, patch_cells * config.latent_channels)
    )


def all_blocks_cost(config: DiTConfig, *, batch: int, latent_THW: Sequence[int], text_tokens: int) -> Cost:
    """All blocks, and nothing around them: their forward pass is what parallel.recompute=full adds to a step."""
    return block_cost(config, batch=batch, latent_THW=latent_THW, text_tokens=text_tokens) * config.num_blocks


def block_cost(config: DiTConfig, *, batch: int, latent_THW: Sequence[int], text_tokens: int) -> Cost:
    """One block. parallel.recompute=selective computes norms and GELU again: no product, so nothing."""
    d, hidden, tokens = config.width, config.mlp_ratio * config.width, num_tokens(config, latent_THW)
    rows = batch * tokens
    self_attention = linear(rows, d, 3 * d) + attention(batch, tokens, tokens, d) + linear(rows, d, d)
    cross_attention = (
        linear(rows, d, d)
        + linear(batch * text_tokens, config.text_width, 2 * d, input_has_gradient=False)
        + attention(batch, tokens, text_tokens, d)
        + linear(rows, d, d)
    )
    mlp = linear(rows, d, hidden) + linear(rows, hidden, d)
    return (
        self_attention
        + cross_attention
        + mlp
        + modulation_cost(config, modulated_rows(config, batch, latent_THW), num_chunks=3) * 3
    )


def modulated_rows(config: DiTConfig, batch: int, latent_THW: Sequence[int]) -> int:
    """Return the rows that AdaLN computes: one of each sample, or of each of its latent frames with its own actions."""
    return batch * (latent_THW[0] if config.action_frames == "each" else 1)


def modulation_cost(config: DiTConfig, rows: int, *, num_chunks: int) -> Cost:
    """AdaLN of one sub-layer: D -> rank -> num_chunks * D, or without the rank between."""
    if not config.adaln_rank:
        return linear(rows, config.width, num_chunks * config.width)
    return linear(rows, config.width, config.adaln_rank) + linear(rows, config.adaln_rank, num_chunks * config.width)


def action_cost(config: DiTConfig, rows: int) -> Cost:
    """The networks of actions, A -> 4D -> D for the timestep embedding and A -> 4D -> 3D for the modulation."""
    cost, d = Cost(), config.width
    if not config.action_width:
        return cost
    if config.action_into == "both":
        cost = cost + linear(rows, config.action_width, 4 * d, input_has_gradient=False) + linear(rows, 4 * d, d)
    if config.adaln_rank:
        cost = cost + linear(rows, config.action_width, 4 * d, input_has_gradient=False) + linear(rows, 4 * d, 3 * d)
    return cost
