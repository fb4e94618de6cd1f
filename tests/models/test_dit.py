"""The DiT computes what diffusers' port of the released models computes, and says what it can not take."""

import math
from collections.abc import Callable

import pytest
import torch
from support.diffusers_dit import diffusers_twin, twin_names
from torch import Tensor

from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.models.dit.model import DiT
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.layers import native_layers
from cosmos_train.parallel.mcore import transformer_config
from cosmos_train.parallel.pipeline import plan_stage
from cosmos_train.parallel.shard import layout_independent_fill

SMALL = {"num_blocks": 2, "num_heads": 4, "head_dim": 24, "adaln_rank": 16, "text_width": 32, "latent_channels": 4}


@pytest.fixture(scope="module")
def make() -> Callable[..., DiT]:
    """make(**sizes): a DiT in one process, with weights in which nothing is zero."""
    mesh = init.start(ParallelConfig(), seed=0)

    def build(**sizes: object) -> DiT:
        config = DiTConfig(**(SMALL | sizes))
        mcore = transformer_config(
            ParallelConfig(),
            dtype=torch.float32,
            num_layers=config.num_blocks,
            width=config.width,
            num_heads=config.num_heads,
        )
        dit = DiT(config, native_layers(mcore, mesh), plan_stage(config.num_blocks, mesh))
        if torch.get_default_device().type == "meta":
            return dit
        dit.init_weights(layout_independent_fill(mesh, seed=1))
        with torch.no_grad():
            for param in dit.parameters():
                param.add_(torch.randn(param.shape, generator=torch.Generator().manual_seed(param.numel())) * 0.05)
        return dit

    return build


def inputs(batch: int, frames: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, c_noise, text."""
    g = torch.Generator().manual_seed(5)
    return (
        torch.randn(batch, 4, frames, height, width, generator=g),
        torch.randn(batch, generator=g),
        torch.randn(batch, 7, 32, generator=g),
    )


@pytest.mark.parametrize(
    ("frames", "height", "width", "fps", "masked"),
    [(3, 6, 10, 24.0, False), (1, 4, 6, 30.0, False), (2, 10, 4, 7.5, True), (1, 6, 4, 24.0, True)],
)
def test_same_as_diffusers(make: Callable[..., DiT], frames: int, height: int, width: int, fps: float, masked: bool):
    dit = make(condition_mask=masked, rope_scale_t=2.0, rope_scale_h=1.5)
    twin = diffusers_twin(dit)
    x, c_noise, text = inputs(2, frames, height, width)
    x.requires_grad_(True)
    pixels = torch.zeros(1, 1, height * 8, width * 8)
    pixels[..., width * 4 :] = 1  # the right half is padding
    padding = torch.nn.functional.interpolate(pixels, (height, width)).expand(2, -1, -1, -1)
    mask = None
    if masked:
        mask = torch.zeros(2, 1, frames, height, width)
        mask[:, :, 0] = 1
    ours = dit(x, c_noise, text, fps_B=[fps, fps], condition_mask_B1THW=mask, padding_mask_B1HW=padding)
    theirs = twin(
        x, c_noise, text, fps=None if frames == 1 else fps, condition_mask=mask, padding_mask=pixels, return_dict=False
    )[0]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)

    ours.square().mean().backward()
    theirs.square().mean().backward()
    gradients = twin_names(dit.config, {name: param.grad for name, param in dit.named_parameters()})
    for name, param in twin.named_parameters():
        assert param.grad is not None
        error = (gradients[name] - param.grad).abs().max() / param.grad.abs().max().clamp_min(1e-12)
        assert error < 1e-3, f"gradient of {name} differs by {error:.1e} of its largest value"


def test_frame_rates_in_a_batch(make: Callable[..., DiT]):
    dit = make()
    x, c_noise, text = inputs(2, 3, 4, 6)
    together = dit(x, c_noise, text, fps_B=[24.0, 10.0])
    alone = [dit(x[i : i + 1], c_noise[i : i + 1], text[i : i + 1], fps_B=[fps]) for i, fps in enumerate((24.0, 10.0))]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)
    assert (dit(x, c_noise, text, fps_B=[24.0, 24.0]) - together)[1].abs().max() > 1e-3, "the frame rate is used"


def test_refuses_what_it_can_not_take(make: Callable[..., DiT]):
    dit = make(max_latent_frames=2, max_latent_size=8)
    x, c_noise, text = inputs(1, 3, 4, 4)
    with pytest.raises(ValueError, match=r"3 positions along T, but the learnable table holds 2"):
        dit(x, c_noise, text, fps_B=[24.0])
    with pytest.raises(ValueError, match="5 x 4 cells can not be cut into patches of 2 x 2"):
        dit(torch.zeros(1, 4, 1, 5, 4), c_noise, text, fps_B=[24.0])
    with pytest.raises(ValueError, match="3 channels, the model takes 4"):
        dit(torch.zeros(1, 3, 1, 4, 4), c_noise, text, fps_B=[24.0])
    with pytest.raises(ValueError, match="a condition mask was given"):
        dit(x[:, :, :1], c_noise, text, fps_B=[24.0], condition_mask_B1THW=torch.zeros(1, 1, 1, 4, 4))


def test_first_weights(make: Callable[..., DiT]):
    dit = make()
    dit.init_weights(layout_independent_fill(init.start(ParallelConfig(), seed=0), seed=2))
    for name, param in dit.named_parameters():
        if name.startswith("blocks.") and name.endswith("modulation.up.weight"):
            assert not param.any(), name
        elif "norm" in name:
            assert (param == 1).all(), name
    width = dit.config.width
    bound = math.sqrt(6 / (2 * width))  # of one of the three matrices that lie in qkv, not of all of it
    qkv = dit.get_parameter("blocks.0.self_attention.qkv.weight")
    assert 0.97 * bound < qkv.abs().max() <= bound
    assert dit.get_parameter("final.modulation.up.weight").any(), "the released final layer is not silent at first"


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
    with torch.device("meta"):
        dit = make(
            num_blocks=blocks,
            num_heads=heads,
            head_dim=128,
            adaln_rank=256,
            text_width=1024,
            latent_channels=16,
            condition_mask=masked,
        )
    assert sum(param.numel() for param in dit.parameters()) == count
