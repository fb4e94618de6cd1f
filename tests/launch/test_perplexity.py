"""The rival that knows no context: how often each code is in the training windows."""

from pathlib import Path

import torch
from support import tiny_ar

from cosmos_data.latents import LatentStore
from cosmos_launch.perplexity import unigram_nll


def test_shares_of_codes_with_one_more_for_each(tmp_path: Path):
    store = LatentStore(tiny_ar.write_cache(tmp_path / "cache", shape_THW=(2, 2, 2), num_windows=6))
    vocab_size = tiny_ar.MODEL.vocab_size + 1  # one that never comes
    codes = torch.cat([store.window(number).z_CTHW.flatten() for number in store.indices("train")])
    assert len(codes) == 6 * 8
    nll = unigram_nll(store, vocab_size)
    torch.testing.assert_close(nll.exp().reciprocal().sum(), torch.tensor(1.0, dtype=torch.float64))
    for code in (int(codes[0]), vocab_size - 1):
        share = (int((codes == code).sum()) + 1) / (len(codes) + vocab_size)
        torch.testing.assert_close(nll[code].exp().item(), 1 / share)
