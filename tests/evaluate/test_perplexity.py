"""The rival that knows no context: how often each code is in windows of the training clips."""

import torch

from cosmos_train.evaluate.perplexity import unigram_nll


def test_shares_of_codes_with_one_more_for_each():
    codes = [torch.tensor([[0, 1], [1, 1]]), torch.tensor([[2, 1]])]
    nll_V = unigram_nll(codes, vocab_size=5)
    torch.testing.assert_close(nll_V.exp().reciprocal(), torch.tensor([2, 5, 2, 1, 1], dtype=torch.float64) / 11)
