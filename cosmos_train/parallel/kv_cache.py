"""Keys and values of the tokens so far, so that a new token goes through the network alone.

Letters: B sequences, S tokens there is room for, L new tokens, N query heads and G key/value heads of this rank, K
width of a head, P = N / G query heads that share a key/value head.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cosmos_train.parallel.layers import causal_attention


class KVCache:
    """Keys and values of this rank's heads in one piece of a model, each block's [B, G, S, K]. It never grows."""

    def __init__(self, *, batch: int, num_tokens: int) -> None:
        """num_tokens: S, of the longest sequence that there will be."""
        self.batch, self.num_tokens = batch, num_tokens
        self.length = 0
        """Tokens that are in it. The model adds the new ones when all its blocks have seen them; less forgets some."""
        self._tokens: dict[str, tuple[Tensor, Tensor]] = {}
        self._text: dict[str, tuple[Tensor, Tensor]] = {}

    def attend(self, block: str, q_LBNK: Tensor, k_LBGK: Tensor, v_LBGK: Tensor) -> Tensor:
        """Keep the new tokens' keys and values; each token sees itself and all before it: [L, B, N * K].

        A cache that is still empty takes a batch of 1 as well: what all B sequences begin with, computed once.
        """
        start, end = self.length, self.length + len(q_LBNK)
        if end > self.num_tokens:
            raise ValueError(f"a KV cache of {self.num_tokens} tokens has {start} and can not take {end - start} more")
        if block not in self._tokens:
            shape = (self.batch, k_LBGK.shape[2], self.num_tokens, k_LBGK.shape[3])
            self._tokens[block] = k_LBGK.new_zeros(shape), v_LBGK.new_zeros(shape)
        keys, values = self._tokens[block]
        keys[:, :, start:end] = k_LBGK.permute(1, 2, 0, 3)
        values[:, :, start:end] = v_LBGK.permute(1, 2, 0, 3)
        if start == 0:
            return causal_attention(q_LBNK, k_LBGK, v_LBGK)
        sees = None
        if len(q_LBNK) > 1:
            sees = torch.ones((len(q_LBNK), end), dtype=torch.bool, device=q_LBNK.device).tril(diagonal=start)
        return grouped_attention(q_LBNK, keys[:, :, :end], values[:, :, :end], sees)

    def attend_text(self, block: str, q_LBNK: Tensor, keys_values: Callable[[], tuple[Tensor, Tensor]]) -> Tensor:
        """Every token sees all text states: [L, B, N * K]. Their keys and values are asked for once.

        keys_values: gives them, each [text tokens, B or 1, G, K]; of a batch of 1 they are those of all sequences.
        """
        if block not in self._text:
            keys, values = keys_values()
            self._text[block] = keys.permute(1, 2, 0, 3).contiguous(), values.permute(1, 2, 0, 3).contiguous()
        keys, values = (x.expand(q_LBNK.shape[1], -1, -1, -1) for x in self._text[block])
        return grouped_attention(q_LBNK, keys, values, None)


def grouped_attention(q_LBNK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, sees_LS: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(K)) v -> [L, B, N * K], reading each key once for all the query heads that share it.

    sees_LS: which keys a token sees; none: all.
    """
    num_tokens, _, num_heads, _ = q_LBNK.shape
    per_group = num_heads // k_BGSK.shape[1]
    q_BGRK = q_LBNK.unflatten(2, (-1, per_group)).permute(1, 2, 3, 0, 4).flatten(2, 3)  # rows: [P, L]
    mask = None if sees_LS is None else sees_LS.repeat(per_group, 1)
    mixed_BGRK = F.scaled_dot_product_attention(q_BGRK, k_BGSK, v_BGSK, attn_mask=mask)
    return mixed_BGRK.unflatten(2, (per_group, num_tokens)).permute(3, 0, 1, 2, 4).flatten(2)
