"""Pieces of a model on pipeline ranks, and what recompute keeps."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Literal, cast

import pytest
import torch
from torch import Tensor, nn

from cosmos_train.config.errors import ConfigError
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.models.dit.world import build_world_model
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.pipeline import StagePlan, plan_stages


def mesh_of(rank: int) -> Mesh:
    """As far as the plan asks it."""
    return cast(Mesh, SimpleNamespace(pp=SimpleNamespace(rank=lambda: rank)))


@pytest.mark.parametrize(
    ("parallel", "blocks"),
    [
        (ParallelConfig(), [[range(7)]]),
        (ParallelConfig(pp=2), [[range(4)], [range(4, 7)]]),
        (ParallelConfig(pp=2, pp_first_blocks=2), [[range(2)], [range(2, 7)]]),
        (ParallelConfig(pp=3, pp_first_blocks=1, pp_last_blocks=0), [[range(1)], [range(1, 7)], [range(7, 7)]]),
        (ParallelConfig(pp=2, pp_chunks=2), [[range(2), range(4, 6)], [range(2, 4), range(6, 7)]]),
        (
            ParallelConfig(pp=2, pp_chunks=2, pp_first_blocks=1, pp_last_blocks=1),
            [[range(1), range(4, 6)], [range(1, 4), range(6, 7)]],
        ),
    ],
)
def test_pieces(parallel: ParallelConfig, blocks: list[list[range]]):
    plans = [plan_stages(7, parallel, mesh_of(rank)) for rank in range(parallel.pp)]
    assert [[plan.blocks for plan in mine] for mine in plans] == blocks
    ends = []
    for rank, mine in enumerate(plans):
        ends += [(rank, i, plan) for i, plan in enumerate(mine)]
    assert [(rank, i) for rank, i, plan in ends if plan.is_first] == [(0, 0)]
    assert [(rank, i) for rank, i, plan in ends if plan.is_last] == [(parallel.pp - 1, parallel.pp_chunks - 1)]


def test_every_block_must_be_somewhere():
    with pytest.raises(ConfigError, match=r"^model.num_blocks=7 can not be cut .* 4 blocks are left for 0 pieces"):
        plan_stages(7, ParallelConfig(pp=2, pp_first_blocks=1, pp_last_blocks=2), mesh_of(0))


def test_a_later_piece_borrows_what_is_shared():
    first, second = plan_stages(4, ParallelConfig(pp=2, pp_chunks=2), mesh_of(1))
    owned = first.shared("timestep", lambda: nn.Linear(2, 3))
    borrowed = second.shared("timestep", lambda: pytest.fail("made twice"))
    assert not list(borrowed.parameters()), "trained, saved and counted by the piece that owns it"
    x = torch.ones(1, 2)
    assert torch.equal(borrowed(x), owned(x))
    assert all(param.shared and param.shared_over_stages for param in owned.parameters())


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    """This process alone."""
    yield init.start(ParallelConfig(), seed=0)
    init.stop()


def kept_bytes(recompute: Literal["none", "selective", "full"], mesh: Mesh) -> tuple[int, Tensor]:
    """(memory that autograd holds after a forward pass of a small DiT, a gradient)."""
    parallel = ParallelConfig(recompute=recompute)
    config = DiTConfig(num_blocks=3, num_heads=2, head_dim=12, adaln_rank=4, latent_channels=4, text_width=8)
    [model], _ = build_world_model(config, parallel, mesh, dtype=torch.float32, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for param in model.parameters():
            param.add_(torch.randn(param.shape, generator=generator) * 0.1)
    x, text = torch.randn(2, 4, 3, 8, 8, generator=generator), torch.randn(2, 5, 8, generator=generator)
    kept: dict[int, Any] = {}

    def remember(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        output, _ = model(x, torch.zeros(2), text, fps_B=[24.0, 24.0])
    weights = {param.untyped_storage()._cdata for param in model.parameters()}
    size = sum(storage.nbytes() for key, storage in kept.items() if key not in weights)
    output.square().mean().backward()
    gradient = model.net.get_submodule("blocks.0.mlp.up").weight.grad
    assert isinstance(gradient, Tensor)
    return size, gradient


def test_recompute_keeps_less_and_gives_the_same_gradient(mesh: Mesh):
    none, selective, full = (kept_bytes(mode, mesh) for mode in ("none", "selective", "full"))
    assert full[0] < selective[0] < none[0]
    # Of each token, in three blocks: three norms (2 D before and after modulation, mean, deviation) and the GELU (4 D).
    tokens, width = 3 * 4 * 4 * 2, 24
    assert none[0] - selective[0] == 3 * tokens * (3 * (2 * width + 2) + 4 * width) * 4
    for other in (selective, full):
        torch.testing.assert_close(other[1], none[1], rtol=1e-6, atol=1e-9)


def test_through_is_a_plain_call_without_recompute():
    plan = StagePlan(blocks=range(1))
    assert torch.equal(plan.through(torch.neg, torch.exp, torch.zeros(2)), torch.ones(2))
