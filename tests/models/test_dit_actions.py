"""Actions modulate as released, or each latent frame by itself, and a new network of them changes nothing at first."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.diffusers_dit import diffusers_twin
from torch import Tensor, nn

from cosmos_train.config.errors import ConfigError
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.models.dit.model import DiT
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.layers import native_layers
from cosmos_train.parallel.mcore import transformer_config
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.pipeline import plan_stages
from cosmos_train.parallel.shard import layout_independent_fill

SIZES: dict[str, Any] = {"num_blocks": 2, "num_heads": 4, "head_dim": 24, "adaln_rank": 16, "text_width": 32}
SIZES |= {"latent_channels": 4, "position_tables": False}
NEXT: dict[str, Any] = {"action_frames": "next", "action_width": 6}
EACH: dict[str, Any] = {"action_frames": "each", "action_width": 6}
FRAMES, HEIGHT, WIDTH, BATCH = 3, 4, 6, 2


@pytest.fixture(scope="module")
def make(mesh: Mesh) -> Callable[..., DiT]:
    """make(**sizes): a DiT in one process in which nothing is zero, alike under the same names."""

    def build(**sizes: Any) -> DiT:
        config, parallel = DiTConfig(**(SIZES | sizes)), ParallelConfig()
        mcore = transformer_config(
            parallel, dtype=torch.float32, num_layers=config.num_blocks, width=config.width, num_heads=config.num_heads
        )
        [stage] = plan_stages(config.num_blocks, parallel, mesh)
        dit = DiT(config, native_layers(parallel, mcore, mesh), stage)
        dit.init_weights(layout_independent_fill(mesh, seed=1))
        with torch.no_grad():
            for name, param in dit.named_parameters():
                generator = torch.Generator().manual_seed(len(name))
                param.add_(torch.randn(param.shape, generator=generator) * 0.05)
        return dit

    return build


def run(dit: DiT, action_BTRA: Tensor | None = None, **given: Any) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    x_BCTHW = torch.randn(BATCH, 4, FRAMES, HEIGHT, WIDTH, generator=generator)
    c_noise_B, text_BSE = torch.randn(BATCH, generator=generator), torch.randn(BATCH, 7, 32, generator=generator)
    return dit(x_BCTHW, c_noise_B, text_BSE, fps_B=[24.0, 24.0], action_BTRA=action_BTRA, **given)


def draw(*shape: int, seed: int = 6) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def without_effect(dit: DiT, base: DiT) -> DiT:
    """The weights of the base, and actions whose last layers are zero, as warm starts begin them."""
    dit.load_state_dict(base.state_dict(), strict=False)
    for name, param in dit.named_parameters():
        if name.startswith("action.") and ".out." in name:
            nn.init.zeros_(param)
    return dit


class OfficialTimeEmbedding(nn.Module):
    """diffusers' timestep embedding with actions put in, written from the released description alone."""

    def __init__(self, embedding: nn.Module, dit: DiT, action_BA: Tensor, *, into_embedding: bool) -> None:
        super().__init__()
        self.embedding, self.action_BA, self.into_embedding = embedding, action_BA, into_embedding
        self.weights = {name: param for name, param in dit.named_parameters() if name.startswith("action.")}

    def mlp(self, name: str) -> Tensor:
        of = {part: self.weights[f"action.{name}.{part}"] for part in ("hidden.weight", "hidden.bias", "out.weight")}
        hidden = self.action_BA @ of["hidden.weight"].T + of["hidden.bias"]
        gelu = 0.5 * hidden * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (hidden + 0.044715 * hidden**3)))
        return gelu @ of["out.weight"].T + self.weights[f"action.{name}.out.bias"]

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        embedding: Any = self.embedding
        sinusoid = embedding.time_proj(timestep).type_as(hidden_states)
        modulation = embedding.t_embedder(sinusoid) + self.mlp("modulation")
        return modulation, embedding.norm(sinusoid + self.mlp("embedding") if self.into_embedding else sinusoid)


@pytest.mark.parametrize("into", ["both", "modulation"])
def test_the_released_network_is_computed(make: Callable[..., DiT], into: str):
    """arXiv 2501.03575 adds to E and A; cosmos-predict1's code adds to A alone."""
    dit, action = make(**NEXT, action_into=into, position_tables=True, rope_scale_t=2.0), draw(BATCH, 1, 1, 6)
    base = make(position_tables=True, rope_scale_t=2.0)
    base.load_state_dict({name: one for name, one in dit.state_dict().items() if not name.startswith("action.")})
    twin: Any = diffusers_twin(base)
    twin.time_embed = OfficialTimeEmbedding(twin.time_embed, dit, action[:, 0, 0], into_embedding=into == "both")
    generator = torch.Generator().manual_seed(5)
    x_BCTHW = torch.randn(BATCH, 4, FRAMES, HEIGHT, WIDTH, generator=generator)
    c_noise_B, text_BSE = torch.randn(BATCH, generator=generator), torch.randn(BATCH, 7, 32, generator=generator)
    padding = torch.zeros(1, 1, HEIGHT * 8, WIDTH * 8)
    wanted = twin(x_BCTHW, c_noise_B, text_BSE, fps=24.0, padding_mask=padding, return_dict=False)[0]
    found = run(dit, action)
    assert ((found - wanted).abs().max() / wanted.abs().max()).item() < 1e-5
    assert not torch.allclose(found, run(dit, -action), rtol=1e-2)


def test_what_has_no_effect_is_not_trained(make: Callable[..., DiT]):
    dit = make(**NEXT, action_into="modulation")
    frozen = {name for name, param in dit.named_parameters() if not param.requires_grad}
    layers = ("hidden.weight", "hidden.bias", "out.weight", "out.bias")
    assert frozen == {f"action.embedding.{layer}" for layer in layers}
    assert all(param.requires_grad for param in make(**NEXT).parameters())


def test_the_same_action_in_each_frame_is_one_for_all(make: Callable[..., DiT]):
    one, each, action = make(**NEXT), make(**EACH), draw(BATCH, 1, 2, 3)
    each.load_state_dict(one.state_dict())
    torch.testing.assert_close(run(each, action.expand(-1, FRAMES, -1, -1)), run(one, action), rtol=1e-5, atol=1e-5)


def test_each_frame_is_modulated_by_its_own_action(make: Callable[..., DiT]):
    """Where no sub-layer adds anything, a frame depends on nothing but its own tokens and its own action."""
    each, action = make(**EACH), draw(BATCH, FRAMES, 2, 3)
    for name, param in each.named_parameters():
        if name.endswith(("attention.out.weight", "mlp.down.weight")):
            nn.init.zeros_(param)
    found = run(each, action)
    for frame in range(FRAMES):
        same = run(each, action[:, [frame]].expand(-1, FRAMES, -1, -1))
        torch.testing.assert_close(found[:, :, frame], same[:, :, frame], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(found[:, :, (frame + 1) % FRAMES], same[:, :, (frame + 1) % FRAMES], rtol=1e-2)


@pytest.mark.parametrize("actions", [NEXT, EACH], ids=["next", "each"])
def test_complaint_6_a_new_network_of_actions_changes_nothing_at_first(
    make: Callable[..., DiT], actions: dict[str, Any]
):
    base = make()
    dit = without_effect(make(**actions, num_embodiments=2), base)
    action = draw(BATCH, 1 if actions is NEXT else FRAMES, 2, 3)
    found, wanted = run(dit, action, embodiment_B=torch.tensor([0, 1])), run(base)
    if actions is NEXT:
        assert torch.equal(found, wanted)
    else:  # products of other sizes differ in their last digit
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    found.sum().backward()
    assert dit.get_parameter("action.modulation.out.weight").grad is not None


def test_embodiments_read_the_same_numbers_in_their_own_way(make: Callable[..., DiT]):
    dit, action = make(**EACH, num_embodiments=2), draw(1, FRAMES, 2, 3).expand(BATCH, -1, -1, -1)
    one, other = (run(dit, action, embodiment_B=torch.tensor([row, 1])) for row in (0, 1))
    assert not torch.allclose(one[0], other[0], rtol=1e-2) and torch.equal(one[1], other[1])


def test_a_model_without_the_low_rank_takes_actions_into_its_embedding(make: Callable[..., DiT]):
    dit, action = make(**EACH, adaln_rank=0), draw(BATCH, FRAMES, 2, 3)
    assert not any(name.startswith("action.modulation") for name, _ in dit.named_parameters())
    assert not torch.allclose(run(dit, action), run(dit, -action), rtol=1e-2)
    with pytest.raises(ConfigError, match=r"model\.action_into=modulation.*use action_into=both"):
        DiTConfig(**(SIZES | {"adaln_rank": 0} | NEXT | {"action_into": "modulation"}))


@pytest.mark.parametrize(
    ("sizes", "given", "said"),
    [
        (EACH, None, r"shape none were given for 3 latent frames; give \[B, 3, R, A\] with R A = 6"),
        (EACH, (BATCH, 1, 2, 3), r"\[B, 3, R, A\]"),
        (NEXT, (BATCH, FRAMES, 2, 3), r"\[B, 1, R, A\]"),
        (EACH, (BATCH, FRAMES, 2, 4), r"model\.action_width=6.*\[2, 3, 2, 4\]"),
        ({}, (BATCH, FRAMES, 2, 3), r"model\.action_width=0, but actions were given"),
    ],
    ids=["missing", "one for all", "each", "too wide", "no network for them"],
)
def test_other_actions_are_refused(
    make: Callable[..., DiT], sizes: dict[str, Any], given: tuple[int, ...] | None, said: str
):
    with pytest.raises(ConfigError, match=said):
        run(make(**sizes), None if given is None else draw(*given))


def test_whose_actions_they_are_is_asked_for(make: Callable[..., DiT]):
    with pytest.raises(ConfigError, match=r"model\.num_embodiments=2, but whose actions they are was not given"):
        run(make(**EACH, num_embodiments=2), draw(BATCH, FRAMES, 2, 3))
    with pytest.raises(ConfigError, match=r"was given"):
        run(make(**EACH), draw(BATCH, FRAMES, 2, 3), embodiment_B=torch.tensor([0, 1]))


def test_keys_that_do_not_belong_together_are_refused():
    cases: list[tuple[dict[str, Any], str]] = [
        ({"action_frames": "each"}, r"model\.action_width=0"),
        ({"action_width": 7}, r"model\.action_frames=none"),
        ({"num_embodiments": 2}, r"model\.num_embodiments=2"),
    ]
    for wrong, said in cases:
        with pytest.raises(ConfigError, match=said):
            DiTConfig(**(SIZES | wrong))
