"""The autoregressive model has the released sizes, looks back only, and knows where its tokens are."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from cosmos_train.config.errors import ConfigError
from cosmos_train.models.world_ar.build import build_world_ar
from cosmos_train.models.world_ar.config import WorldARConfig
from cosmos_train.models.world_ar.model import WorldAR, gated
from cosmos_train.models.world_ar.positions import grid_positions, rotary_angles, sinusoids
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.mesh import Mesh

VIDEO2WORLD: dict[str, Any] = {"begin_token": True, "cross_attention": True, "absolute_positions": True}
SMALL = WorldARConfig(
    num_blocks=2, width=40, num_heads=4, num_kv_heads=2, head_dim=24, ffn_width=64, vocab_size=50, text_width=8
)
GRID_HW = (2, 3)


@pytest.fixture(scope="module")
def make(mesh: Mesh) -> Callable[[WorldARConfig], WorldAR]:
    """make(config): the whole model, without values under the meta device; weights are made large enough to matter."""

    def build(config: WorldARConfig) -> WorldAR:
        [model], _ = build_world_ar(config, ParallelConfig(), mesh, dtype=torch.float32, seed=1)
        with torch.no_grad():
            for name, param in model.named_parameters():
                if name.startswith("blocks.") and not name.endswith("norm.weight"):
                    param.mul_(10)
        return model

    return build


def logits_of(model: WorldAR, ids_BL: Tensor, text_BSE: Tensor | None = None) -> Tensor:
    """[B, L, V]"""
    result = model(ids_BL, GRID_HW, text_BSE=text_BSE)
    assert isinstance(result, tuple)
    return result[0].transpose(0, 1).detach()


@pytest.mark.parametrize(
    ("num_blocks", "width", "kind", "parameters"),
    [
        (16, 4096, {}, 4_014_088_192),
        (16, 4096, VIDEO2WORLD, 4_584_845_312),
        (40, 5120, {}, 11_560_975_360),
        (40, 5120, VIDEO2WORLD, 13_323_125_760),
    ],
    ids=["4B", "5B", "12B", "13B"],
)
def test_released_sizes(mesh: Mesh, num_blocks: int, width: int, kind: dict[str, Any], parameters: int):
    config = WorldARConfig(num_blocks=num_blocks, width=width, **kind)
    on_meta = replace(mesh, device=torch.device("meta"))
    [model], _ = build_world_ar(config, ParallelConfig(), on_meta, dtype=torch.bfloat16, seed=0)
    assert sum(param.numel() for param in model.parameters()) == parameters


@pytest.mark.parametrize("kind", [{}, VIDEO2WORLD], ids=["base", "video2world"])
def test_a_token_changes_what_follows_and_nothing_before(make: Callable[..., WorldAR], kind: dict[str, Any]):
    model = make(replace(SMALL, **kind))
    ids = torch.randint(SMALL.vocab_size, (2, 13), generator=torch.Generator().manual_seed(0))
    text = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1)) if kind else None
    changed = ids.clone()
    changed[:, 6] = (changed[:, 6] + 1) % SMALL.vocab_size
    before, after = logits_of(model, ids, text), logits_of(model, changed, text)
    assert torch.equal(before[:, :6], after[:, :6])
    assert ((before[:, 6:] - after[:, 6:]).abs().amax(dim=(0, 2)) > 1e-3).all()


def test_text_and_places_matter(make: Callable[..., WorldAR]):
    model = make(replace(SMALL, **VIDEO2WORLD))
    ids = torch.full((1, 13), 3)
    text = torch.randn(2, 1, 5, 8, generator=torch.Generator().manual_seed(1))
    one, other = logits_of(model, ids, text[0]), logits_of(model, ids, text[1])
    assert (one - other).abs().max() > 1e-3
    assert (one[0, 3] - one[0, 8]).abs().max() > 1e-3, "the same code at another place"


def test_key_value_heads_are_shared_by_neighbouring_query_heads(make: Callable[..., WorldAR]):
    """Of 4 query heads, 0 and 1 read the first key/value head: without it they say nothing."""
    model = make(SMALL)
    attention = model.blocks["0"].self_attention
    with torch.no_grad():
        attention.qkv.weight.unflatten(0, (2, 4, 24))[0, 3] = 0  # the first group's values
    captured: list[Tensor] = []
    attention.out.register_forward_pre_hook(lambda _module, inputs: captured.append(inputs[0]))
    logits_of(model, torch.arange(6)[None])
    heads = captured[0].unflatten(-1, (4, 24))
    assert heads[:, :, :2].abs().max() == 0 and heads[:, :, 2:].abs().amin(dim=(0, 1, 3)).min() > 0


def test_gate_and_value_alternate_in_groups():
    x = torch.randn(3, 2, 64)
    gate, value = torch.cat((x[..., :16], x[..., 32:48]), -1), torch.cat((x[..., 16:32], x[..., 48:]), -1)
    torch.testing.assert_close(gated(x), torch.nn.functional.silu(gate) * value)


def test_places_in_the_grid():
    cpu = torch.device("cpu")
    places = grid_positions(SMALL, range(14), GRID_HW, cpu)
    assert places[[0, 1, 3, 6, 13]].tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0], [2, 0, 1]]
    shifted = grid_positions(replace(SMALL, begin_token=True), range(15), GRID_HW, cpu)
    assert shifted[0].isnan().all() and torch.equal(shifted[1:], places)
    assert torch.equal(grid_positions(SMALL, range(5, 9), GRID_HW, cpu), places[5:9])


def test_angles_and_sinusoids_by_hand():
    """Token (2, 1, 3), head width 24: 8 of it for each axis; D = 40: 12 for rows and columns, 16 for time."""
    place = torch.tensor([[2.0, 1.0, 3.0], [math.nan] * 3])
    angles = rotary_angles(SMALL, place)
    base = [500_000 ** (-i / 8) for i in (0, 2, 4, 6)]
    wanted = [position * frequency for position, frequency in product((2, 1, 3), base)]
    torch.testing.assert_close(angles[0, 0, 0], torch.tensor(wanted))
    assert not angles[1].any()
    found = sinusoids(40, place)
    time = [2 / 10000 ** (i / 8) for i in range(8)]
    torch.testing.assert_close(
        found[0, 0, :16].float(), torch.tensor([*map(math.sin, time), *map(math.cos, time)]).bfloat16().float()
    )
    assert found.dtype == torch.bfloat16 and found.shape == (2, 1, 40) and not found[1].any()


@pytest.mark.parametrize("spatial", [True, False])
def test_yarn_slows_down_low_frequencies(spatial: bool):
    place = torch.ones(1, 3)
    plain = rotary_angles(SMALL, place).flatten()
    yarn = replace(SMALL, yarn_scale=2.0, yarn_original_THW=(3, 40, 64), yarn_spatial=spatial)
    ratio = (rotary_angles(yarn, place).flatten() / plain).unflatten(0, (3, 4))
    # Over 3 frames a frequency of 1 turns 3 / 2 pi times, less than once: it is low. Over 40 rows it turns 6.4 times.
    torch.testing.assert_close(ratio[0], torch.full((4,), 0.5))
    rows = [1.0, 0.5, 0.5, 0.5] if spatial else [1.0] * 4
    torch.testing.assert_close(ratio[1:], torch.tensor([rows, rows]))


def test_first_weights(make: Callable[..., WorldAR], mesh: Mesh):
    [model], _ = build_world_ar(
        replace(SMALL, width=512, num_blocks=3), ParallelConfig(), mesh, dtype=torch.float32, seed=1
    )
    std = {name: param.std().item() for name, param in model.named_parameters() if not name.endswith("norm.weight")}
    assert std["embed.weight"] == pytest.approx(1, rel=0.05)
    assert std["output.weight"] == pytest.approx(512**-0.5, rel=0.05)
    assert std["blocks.2.self_attention.qkv.weight"] == pytest.approx(0.02, rel=0.05)
    assert std["blocks.2.mlp.down.weight"] == pytest.approx(0.02 / math.sqrt(6), rel=0.05)
    gate, value = model.blocks["2"].mlp.up.weight.unflatten(0, (-1, 2, 16)).unbind(1)
    assert gate.std().item() / value.std().item() == pytest.approx(math.sqrt(6), rel=0.05)


def test_text_exactly_where_the_model_has_it(make: Callable[..., WorldAR]):
    with pytest.raises(ValueError, match=r"model\.cross_attention=False, but text states were given"):
        make(SMALL)(torch.zeros(1, 4, dtype=torch.int64), GRID_HW, text_BSE=torch.zeros(1, 2, 8))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_kv_heads": 3}, r"num_kv_heads=3 must divide model\.num_heads=4"),
        ({"ffn_width": 40}, "ffn_width=40 is not a multiple of 16"),
        ({"ffn_padding": 16}, "ffn_padding=16 only fills model.ffn_width up to a multiple of 16; use at most 15"),
        ({"head_dim": 13}, "head_dim=13 cannot be split"),
        ({"vocab_size": 0}, "vocab_size=0 must be at least 1"),
        ({"yarn_scale": 0.5}, r"yarn_scale=0\.5 must be at least 1"),
    ],
)
def test_refused(fields: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=rf"^model\.{message}"):
        replace(SMALL, **fields)


STEERED = replace(SMALL, cross_attention=True, action_width=3)


def test_one_token_of_an_action_is_as_many_alike(make: Callable[[WorldARConfig], WorldAR]):
    """The released code repeats what it makes of an action once for each of its dimensions."""
    steered, reading = make(STEERED), make(replace(STEERED, action_width=0))
    weights = {name: one for name, one in steered.state_dict().items() if not name.startswith("action.")}
    reading.load_state_dict(weights)
    ids_BL, action_B1A = torch.arange(24).reshape(2, 12), torch.randn(2, 1, 3)
    named = dict(steered.named_parameters())
    hidden = (action_B1A @ named["action.hidden.weight"].T + named["action.hidden.bias"]).clamp(min=0)
    context_B1E = (hidden @ named["action.out.weight"].T + named["action.out.bias"]).detach()
    assert named["action.hidden.weight"].shape == (2, 3), "a quarter of the states' width"
    wanted = logits_of(reading, ids_BL, context_B1E.expand(-1, 7, -1))
    torch.testing.assert_close(logits_of(steered, ids_BL, action_B1A), wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits_of(steered, ids_BL, 5 * action_B1A), wanted, rtol=1e-3)


def test_what_is_no_action_is_refused(make: Callable[[WorldARConfig], WorldAR]):
    with pytest.raises(ConfigError, match=r"model\.action_width=3, but an action of shape \[2, 7, 8\].*\[B, 1, 3\]"):
        logits_of(make(STEERED), torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2, 7, 8))
    with pytest.raises(ConfigError, match=r"model\.action_width=3: .*model\.cross_attention=false"):
        replace(SMALL, action_width=3)
