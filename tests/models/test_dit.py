"""The DiT computes what diffusers' port of the released models computes, and says what it can not take."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.diffusers_dit import diffusers_twin, twin_names
from torch import Tensor, nn

from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.models.dit.model import DiT, PositionEmbedding
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.layers import native_layers
from cosmos_train.parallel.mcore import transformer_config
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.pipeline import plan_stages
from cosmos_train.parallel.shard import layout_independent_fill

SMALL: dict[str, Any] = {
    "num_blocks": 2,
    "num_heads": 4,
    "head_dim": 24,
    "adaln_rank": 16,
    "text_width": 32,
    "latent_channels": 4,
}
FPS = 24.0


@pytest.fixture(scope="module")
def make(mesh: Mesh) -> Callable[..., DiT]:
    """make(**sizes): a DiT in one process with its first weights; none on the meta device."""

    def build(**sizes: Any) -> DiT:
        config = DiTConfig(**(SMALL | sizes))
        parallel = ParallelConfig()
        mcore = transformer_config(
            parallel,
            dtype=torch.float32,
            num_layers=config.num_blocks,
            width=config.width,
            num_heads=config.num_heads,
        )
        [stage] = plan_stages(config.num_blocks, parallel, mesh)
        dit = DiT(config, native_layers(parallel, mcore, mesh), stage)
        if torch.get_default_device().type != "meta":
            dit.init_weights(layout_independent_fill(mesh, seed=1))
        return dit

    return build


def stir(dit: DiT) -> DiT:
    """Weights in which nothing is zero, one or alike, so that a mistake anywhere shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for param in dit.parameters():
            param.add_(torch.randn(param.shape, generator=generator) * 0.05)
    return dit


def inputs(batch: int, frames: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, c_noise, text."""
    g = torch.Generator().manual_seed(5)
    return (
        torch.randn(batch, 4, frames, height, width, generator=g),
        torch.randn(batch, generator=g),
        torch.randn(batch, 7, 32, generator=g),
    )


def distance(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, as a part of the largest value."""
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def gradients(model: nn.Module, output: Tensor, direction: Tensor) -> dict[str, Tensor]:
    """Of every parameter, for a gradient of the output; the graph stays."""
    names, params = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(output, params, direction, retain_graph=True), strict=True))


@pytest.mark.parametrize(
    ("frames", "height", "width", "fps", "masked"),
    [(3, 6, 10, 24.0, False), (1, 4, 6, 30.0, False), (3, 10, 4, 7.5, True), (1, 6, 4, 24.0, True)],
)
def test_same_as_diffusers(make: Callable[..., DiT], frames: int, height: int, width: int, fps: float, masked: bool):
    """Output and the gradient of every weight and input."""
    dit = stir(make(condition_mask=masked, rope_scale_t=2.0, rope_scale_h=1.5, rope_scale_w=3.0))
    twin = diffusers_twin(dit)
    x, c_noise, text = inputs(2, frames, height, width)
    x.requires_grad_()
    text.requires_grad_()
    pixels = torch.zeros(1, 1, height * 8, width * 8)
    pixels[..., width * 4 :] = 1  # the right half is padding
    pixels[:, :, -8:] = 1  # and so is the lowest row of latent cells
    mask = None
    if masked:
        mask = torch.zeros(2, 1, frames, height, width)
        mask[:, :, 0] = 1
    padding = pixels[:, :, ::8, ::8].expand(2, -1, -1, -1)
    ours = dit(x, c_noise, text, fps_B=[fps, fps], condition_mask_B1THW=mask, padding_mask_B1HW=padding)
    twin_fps = None if frames == 1 else fps  # none is what diffusers calls an image
    theirs = twin(x, c_noise, text, fps=twin_fps, condition_mask=mask, padding_mask=pixels, return_dict=False)[0]
    assert distance(ours, theirs) < 1e-5

    direction = torch.randn(ours.shape, generator=torch.Generator().manual_seed(6))
    found, wanted = gradients(dit, ours, direction), gradients(twin, theirs, direction)
    for name, gradient in twin_names(dit.config, found).items():
        error = distance(gradient, wanted[name])
        assert error < 1e-5, f"gradient of {name} differs by {error:.1e} of its largest value"
    for of_ours, of_theirs in zip(*(torch.autograd.grad(y, (x, text), direction) for y in (ours, theirs)), strict=True):
        assert distance(of_ours, of_theirs) < 1e-5


def test_bf16_is_as_close_to_fp32_as_diffusers_is(make: Callable[..., DiT]):
    dit = stir(make(num_blocks=4)).bfloat16()
    twin = diffusers_twin(dit)  # in fp32, with the rounded weights
    x, c_noise, text = inputs(2, 6, 6, 10)
    padding, fps = torch.zeros(1, 1, 48, 80), 0.5  # frames two seconds apart: angles of many turns

    def theirs(dtype: torch.dtype) -> Tensor:
        rounded = (x.bfloat16().to(dtype), c_noise, text.bfloat16().to(dtype))
        return twin(*rounded, fps=fps, padding_mask=padding.to(dtype), return_dict=False)[0]

    with torch.no_grad():
        ours = dit(x.bfloat16(), c_noise, text.bfloat16(), fps_B=[fps])
        wanted = theirs(torch.float32)
        twin.bfloat16().get_submodule("learnable_pos_embed").float()  # as diffusers loads it
        peer = theirs(torch.bfloat16)
    assert ours.dtype == torch.bfloat16
    error, peer_error = ((output.float() - wanted).norm() / wanted.norm() for output in (ours, peer))
    assert error < 1.2 * peer_error and peer_error < 0.05


def test_frame_rates_in_a_batch(make: Callable[..., DiT]):
    dit = stir(make())
    x, c_noise, text = inputs(2, 3, 4, 6)
    together = dit(x, c_noise, text, fps_B=[24.0, 10.0])
    alone = [dit(x[i : i + 1], c_noise[i : i + 1], text[i : i + 1], fps_B=[fps]) for i, fps in enumerate((24.0, 10.0))]
    assert distance(together, torch.cat(alone)) < 1e-5
    assert (dit(x, c_noise, text, fps_B=[24.0, 24.0]) - together)[1].abs().max() > 1e-3, "the frame rate is used"


def test_one_noise_level_for_the_batch(make: Callable[..., DiT]):
    dit = stir(make())
    x, _, text = inputs(2, 1, 4, 6)
    one = dit(x, torch.tensor([0.3]), text, fps_B=[FPS])
    assert distance(one, dit(x, torch.tensor([0.3, 0.3]), text, fps_B=[FPS])) < 1e-6


@pytest.mark.parametrize(
    ("frames", "height", "width", "message"),
    [
        (3, 4, 4, "3 positions along T, but the learnable table holds 2"),
        (1, 10, 4, "5 positions along H, but the learnable table holds 4"),
        (1, 4, 12, "6 positions along W, but the learnable table holds 4"),
        (1, 5, 4, "5 x 4 cells can not be cut into patches of 2 x 2"),
        (1, 4, 7, "4 x 7 cells can not be cut into patches of 2 x 2"),
    ],
)
def test_refuses_sizes(make: Callable[..., DiT], frames: int, height: int, width: int, message: str):
    dit = make(max_latent_frames=2, max_latent_size=8)
    x, c_noise, text = inputs(1, frames, height, width)
    with pytest.raises(ValueError, match=message):
        dit(x, c_noise, text, fps_B=[FPS])


def test_refuses_channels_and_masks(make: Callable[..., DiT]):
    x, c_noise, text = inputs(1, 1, 4, 4)
    mask = torch.zeros(1, 1, 1, 4, 4)
    with pytest.raises(ValueError, match="3 channels, the model takes 4"):
        make()(x[:, :3], c_noise, text, fps_B=[FPS])
    with pytest.raises(ValueError, match="condition_mask=False, but a condition mask was given"):
        make()(x, c_noise, text, fps_B=[FPS], condition_mask_B1THW=mask)
    with pytest.raises(ValueError, match="condition_mask=True, but a condition mask was not given"):
        make(condition_mask=True)(x, c_noise, text, fps_B=[FPS])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_blocks", 0),
        ("adaln_rank", -1),
        ("extra_channels", -1),
        ("max_latent_width", 7),
        ("head_dim", 13),
        ("head_dim", 10),
        ("max_latent_size", 7),
    ],
)
def test_refuses_a_configuration(key: str, value: Any):
    settings = SMALL | {key: value}
    with pytest.raises(ValueError, match=rf"model\.{key}={value} "):
        DiTConfig(**settings)


def test_first_weights(make: Callable[..., DiT]):
    dit = make()
    width = dit.config.width
    # Of one of the matrices that lie in a fused one, not of all of it.
    one_matrix = {"qkv.weight": (width, width), "kv.weight": (32, width)}
    for name, param in dit.named_parameters():
        if name.startswith("blocks.") and name.endswith("modulation.up.weight"):
            assert not param.any(), name
        elif "norm" in name:
            assert (param == 1).all(), name
        elif name.startswith(("timestep.", "position.")):
            assert param.std().item() == pytest.approx(0.02, rel=0.05), name
        else:
            assert param.any(), f"{name}: of the released weights only the blocks' modulation is silent at first"
            fans = next((fans for end, fans in one_matrix.items() if name.endswith(f".{end}")), tuple(param.shape))
            bound = math.sqrt(6 / sum(fans))
            assert 0.97 * bound < param.abs().max() <= bound, name


@pytest.mark.parametrize(
    ("blocks", "heads", "masked", "count"),
    [
        (28, 32, False, 7_236_192_256),
        (28, 32, True, 7_236_208_640),
        (36, 40, False, 14_267_149_312),
        (36, 40, True, 14_267_169_792),
    ],
)
def test_released_sizes(make: Callable[..., DiT], blocks: int, heads: int, masked: bool, count: int):
    released = DiTConfig(num_blocks=blocks, num_heads=heads, condition_mask=masked)
    sizes = {name: getattr(released, name) for name in SMALL} | {"condition_mask": masked}
    with torch.device("meta"):
        dit = make(**sizes)
    assert sum(param.numel() for param in dit.parameters()) == count


def test_norm_of_learnable_positions_is_rounded_once_in_bf16():
    """The official network takes it in fp32; in bf16 it was rounded before the division by sqrt(D) and after."""
    config = DiTConfig(**SMALL)
    position = PositionEmbedding(config).bfloat16()
    for table in position.parameters():
        nn.init.normal_(table, generator=torch.Generator().manual_seed(3))
    sums = position.t[:4, None, None] + position.h[None, :4, None] + position.w[None, None, :4]
    rms = (sums.double().square().mean(-1, keepdim=True).sqrt() + 1e-6).float()
    expected = (sums / rms.bfloat16()).flatten(0, 2).unsqueeze(1)
    assert torch.equal(position((4, 4, 4)), expected)
