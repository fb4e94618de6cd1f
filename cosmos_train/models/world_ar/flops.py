"""Floating-point operations of the autoregressive model, read top to bottom as model.py is. No torch in here.

Causal attention is counted as if every token saw every other, as torch's counter and arXiv 2204.02311 do; a kernel that
leaves the rest out does half of it. Letters as in model.py.
"""

from cosmos_train.models.common.flops import Cost, attention, linear
from cosmos_train.models.world_ar.config import WorldARConfig


def world_ar_cost(config: WorldARConfig, *, batch: int, num_tokens: int, text_tokens: int) -> Cost:
    """The whole network on B sequences of L tokens; the embedding is a table and multiplies nothing."""
    block = block_cost(config, batch=batch, num_tokens=num_tokens, text_tokens=text_tokens)
    cost = block * config.num_blocks + linear(batch * num_tokens, config.width, config.vocab_size)
    if config.action_width:
        hidden = config.text_width // 4
        cost = cost + linear(batch, config.action_width, hidden, input_has_gradient=False)
        cost = cost + linear(batch, hidden, config.text_width)
    return cost


def block_cost(config: WorldARConfig, *, batch: int, num_tokens: int, text_tokens: int) -> Cost:
    """One block."""
    again = recomputed_cost(config, batch=batch, num_tokens=num_tokens, text_tokens=text_tokens)
    return again + linear(batch * num_tokens, config.ffn_width, config.width)


def recomputed_cost(config: WorldARConfig, *, batch: int, num_tokens: int, text_tokens: int) -> Cost:
    """Its forward pass, times the blocks, is what parallel.recompute=full adds to a training step.

    All of a block but its last product, which nothing in the block's backward pass asks for.
    """
    rows, d = batch * num_tokens, config.width
    heads, groups = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    self_attention = (
        linear(rows, d, heads + 2 * groups) + attention(batch, num_tokens, num_tokens, heads) + linear(rows, heads, d)
    )
    mlp = linear(rows, d, 2 * config.ffn_width)
    if not config.cross_attention:
        return self_attention + mlp
    cross_attention = (
        linear(rows, d, heads)
        + linear(batch * text_tokens, config.text_width, 2 * groups, input_has_gradient=config.action_width > 0)
        + attention(batch, num_tokens, text_tokens, heads)
        + linear(rows, heads, d)
    )
    return self_attention + cross_attention + mlp
