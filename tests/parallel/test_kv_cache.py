"""A KV cache gives what attention over all tokens gives, a few tokens at a time."""

import pytest
import torch
from torch import Tensor

from cosmos_train.parallel.kv_cache import KVCache
from cosmos_train.parallel.layers import causal_attention, dot_product_attention

TOKENS, BATCH, HEADS, GROUPS, WIDTH = 9, 3, 4, 2, 6


def drawn(heads: int, *, tokens: int = TOKENS, batch: int = BATCH, seed: int = 0) -> Tensor:
    return torch.randn(tokens, batch, heads, WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def qkv() -> tuple[Tensor, Tensor, Tensor]:
    return drawn(HEADS, seed=1), drawn(GROUPS, seed=2), drawn(GROUPS, seed=3)


def fed(cache: KVCache, qkv: tuple[Tensor, Tensor, Tensor], tokens: range) -> Tensor:
    mixed = cache.attend("0", *(x[tokens.start : tokens.stop] for x in qkv))
    cache.length = tokens.stop
    return mixed


@pytest.mark.parametrize("ends", [[9], [4, 5, 6, 7, 8, 9], [1, 4, 9]])
def test_in_parts(qkv: tuple[Tensor, Tensor, Tensor], ends: list[int]):
    cache = KVCache(batch=BATCH, num_tokens=TOKENS)
    found = [fed(cache, qkv, range(start, end)) for start, end in zip([0, *ends], ends, strict=False)]
    torch.testing.assert_close(torch.cat(found), causal_attention(*qkv))


def test_tokens_can_be_forgotten(qkv: tuple[Tensor, Tensor, Tensor]):
    cache = KVCache(batch=BATCH, num_tokens=TOKENS)
    fed(cache, qkv, range(4))
    fed(cache, (qkv[0], -qkv[1], -qkv[2]), range(4, 8))
    cache.length = 4
    torch.testing.assert_close(fed(cache, qkv, range(4, 9)), causal_attention(*qkv)[4:])


def test_a_beginning_that_all_share(qkv: tuple[Tensor, Tensor, Tensor]):
    q, k, v = (x.clone() for x in qkv)
    for x in (q, k, v):
        x[:5] = x[:5, :1]
    cache = KVCache(batch=BATCH, num_tokens=TOKENS)
    assert fed(cache, (q[:, :1], k[:, :1], v[:, :1]), range(5)).shape[1] == 1
    torch.testing.assert_close(fed(cache, (q, k, v), range(5, 9)), causal_attention(q, k, v)[5:])


@pytest.mark.parametrize("batch", [1, BATCH])
def test_text_is_asked_for_once(batch: int):
    q, asked = drawn(HEADS), []
    k, v = drawn(GROUPS, tokens=5, batch=batch, seed=4), drawn(GROUPS, tokens=5, batch=batch, seed=5)
    cache = KVCache(batch=BATCH, num_tokens=TOKENS)

    def keys_values() -> tuple[Tensor, Tensor]:
        asked.append(1)
        return k, v

    wanted = dot_product_attention(q, k.expand(-1, BATCH, -1, -1), v.expand(-1, BATCH, -1, -1))
    for token in range(3):
        torch.testing.assert_close(cache.attend_text("0", q[token : token + 1], keys_values), wanted[token : token + 1])
    assert asked == [1]


def test_it_does_not_grow(qkv: tuple[Tensor, Tensor, Tensor]):
    cache = KVCache(batch=BATCH, num_tokens=8)
    fed(cache, qkv, range(7))
    with pytest.raises(ValueError, match="a KV cache of 8 tokens has 7 and can not take 2 more"):
        fed(cache, qkv, range(7, 9))
