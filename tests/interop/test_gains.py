"""What a network has more than the weights that it starts from: placed by meaning, and at first without an effect."""

from dataclasses import replace

import pytest
import torch
from support import tiny_ar, tiny_world

from cosmos_train.interop import gains
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.mesh import Mesh

TEXT2WORLD = replace(tiny_world.MODEL, condition_mask=False, padding_mask=True)
VIDEO2WORLD = replace(TEXT2WORLD, condition_mask=True)
BASE = replace(tiny_ar.MODEL, cross_attention=False, begin_token=False)


@pytest.fixture
def mesh():
    yield init.start(ParallelConfig(), seed=0)
    init.stop()


def test_new_channels_are_zero_and_the_others_keep_their_meaning(mesh: Mesh):
    """The condition mask comes before the padding mask, which moves."""
    cells = VIDEO2WORLD.patch_spatial**2
    whole = torch.randn(TEXT2WORLD.width, TEXT2WORLD.in_channels * cells)
    grown = torch.full((VIDEO2WORLD.width, VIDEO2WORLD.in_channels * cells), torch.nan)
    assert gains.growing(TEXT2WORLD, VIDEO2WORLD) == gains.CHANNELS
    gains.fill_grown(grown, whole, TEXT2WORLD, VIDEO2WORLD, mesh)
    given, found = whole.unflatten(1, (-1, cells)), grown.unflatten(1, (-1, cells))
    latents = TEXT2WORLD.latent_channels
    assert torch.equal(found[:, :latents], given[:, :latents])
    assert not found[:, latents].any(), "the condition mask"
    assert torch.equal(found[:, latents + 1], given[:, latents]), "the padding mask"


def test_a_begin_token_keeps_its_first_weights(mesh: Mesh):
    wanted = replace(BASE, begin_token=True)
    assert gains.growing(BASE, wanted) == gains.TOKENS and gains.growing(wanted, BASE) == ""
    whole = torch.randn(BASE.vocab_size, BASE.width)
    table = torch.full((wanted.embedding_rows, BASE.width), 7.0)
    gains.fill_grown(table, whole, BASE, wanted, mesh)
    assert torch.equal(table[: BASE.vocab_size], whole) and (table[BASE.vocab_size :] == 7).all()


def test_only_what_adds_to_the_residual_stream_begins_at_zero():
    for name, is_zero in (("blocks.3.cross_attention.out.weight", True), ("blocks.3.cross_attention.q.weight", False)):
        tensor = torch.ones(2)
        gains.begin(name, tensor)
        assert (tensor == 0).all() == is_zero, name


def test_the_remedy_says_what_to_set():
    said = gains.remedy(TEXT2WORLD, VIDEO2WORLD, [gains.CHANNELS])
    assert "condition mask besides" in said and "checkpoint.init_new=[net.embed.weight]" in said
    assert "model.condition_mask=true" in gains.remedy(VIDEO2WORLD, TEXT2WORLD, [gains.CHANNELS])
    assert gains.remedy(TEXT2WORLD, replace(TEXT2WORLD, num_heads=8), [gains.CHANNELS]) == ""
    with_text = replace(BASE, cross_attention=True)
    assert gains.TEXT in gains.remedy(BASE, with_text, []) and gains.remedy(with_text, BASE, []) == ""
