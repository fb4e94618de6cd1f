"""Medusa heads by their definition: x + silu(W_i x), each head with rows of its own."""

import torch
import torch.nn.functional as F

from cosmos_train.models.world_ar.medusa import MedusaHeads


def test_each_head_adds_its_own_part_to_what_it_reads():
    heads = MedusaHeads(num_heads=3, width=4)
    with torch.no_grad():
        heads.weight.copy_(torch.randn(12, 4, generator=torch.Generator().manual_seed(0)))
    x_LBD = torch.randn(5, 2, 4, generator=torch.Generator().manual_seed(1))
    found = heads(x_LBD)
    assert found.shape == (5, 2, 3, 4)
    for head in range(3):
        expected = x_LBD + F.silu(x_LBD @ heads.weight[4 * head : 4 * head + 4].T)
        torch.testing.assert_close(found[:, :, head], expected)
