"""A model that was read computes what diffusers computes, the released objective, and the released samplers."""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.official_dit import official_state, small_config, write_official
from torch import Tensor

from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import load_sampling
from cosmos_train.interop.compare import diffusers_network
from cosmos_train.interop.official_dit import official_arguments
from cosmos_train.interop.source import open_source
from cosmos_train.objectives.config import EdmConfig
from cosmos_train.parallel import init
from cosmos_train.worlds.diffusion import DiffusionWorld
from cosmos_train.worlds.opening import open_world


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def world(folder: Path, *, objective: EdmConfig | None = None, **sizes: Any) -> DiffusionWorld:
    config = small_config(**sizes)
    source = write_official(folder / "model.pt", config)
    return open_world(source, arguments=official_arguments(config), objective=objective)


def first_frame(batch: int, frames: int, height: int, width: int) -> Tensor:
    mask = torch.zeros(batch, 1, frames, height, width)
    mask[:, :, 0] = 1
    return mask


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("frames", "height", "width", "fps"), [(3, 6, 10, 24.0), (5, 2, 22, 7.5), (2, 14, 4, 60.0), (1, 6, 4, None)]
)
def test_same_as_diffusers(
    tmp_path: Path, frames: int, height: int, width: int, fps: float | None, masked: bool
) -> None:
    config = small_config(condition_mask=masked, rope_scale_t=2.0, rope_scale_h=1.5, rope_scale_w=3.0)
    source = write_official(tmp_path / "model.pt", config)
    arguments = official_arguments(config)
    x, c_noise, text = drawn(1, 2, 4, frames, height, width), drawn(2, 2), drawn(3, 2, 7, 32)
    pixels = torch.zeros(1, 1, height * 8 + 4, width * 8 - 4)  # no multiple of the latents' size
    pixels[..., width * 4 :] = 1
    mask = first_frame(2, frames, height, width) if masked else None
    network = diffusers_network(open_source(source, arguments))
    wanted = network(x, c_noise, text, fps=fps, condition_mask=mask, padding_mask=pixels, return_dict=False)[0]
    conditions = {"condition_mask_B1THW": mask, "padding_mask_B1HW": pixels}
    found = open_world(source, arguments=arguments)(x, c_noise, text, fps=fps, **conditions)
    assert (found - wanted).abs().max() < 1e-4 < wanted.abs().max()


def test_one_noise_level_and_tensors_of_frame_rates(tmp_path: Path) -> None:
    """The official samplers pass a 0-d timestep, and its batches a tensor of frame rates."""
    model, x, text = world(tmp_path), drawn(1, 2, 4, 2, 4, 4), drawn(3, 2, 7, 32)
    one = model(x, torch.tensor(0.3), text, fps=24)
    torch.testing.assert_close(one, model(x, torch.tensor([0.3, 0.3]), text, fps=torch.tensor([24.0, 24.0])))
    with pytest.raises(ConfigError, match=r"fps is missing, and 2 latent frames need one"):
        model(x, torch.tensor(0.3), text)
    for fps, said in (
        (0.0, "greater than 0"),
        ([24, -1], "greater than 0"),
        ([1, 2, 3], "2"),
    ):
        with pytest.raises(ConfigError, match=said):
            model(x, torch.tensor(0.3), text, fps=fps)


def test_a_video_without_a_frame_rate(tmp_path: Path) -> None:
    """Positions in time are the frames' numbers: the angles of a head's first pair, as its attention is given them."""
    model, x, text = world(tmp_path), drawn(1, 1, 4, 5, 2, 2), drawn(3, 1, 7, 32)
    angles: list[Tensor] = []
    attention = model.network.get_submodule("blocks.0.self_attention")
    attention.register_forward_pre_hook(
        lambda _module, _args, named: angles.append(torch.atan2(named["cond"].rope_sin, named["cond"].rope_cos)),
        with_kwargs=True,
    )
    outputs = [model(x, torch.tensor(0.3), text, fps=fps) for fps in (None, 24, 12)]
    first = [found[:, 0, 0, 0] for found in angles]  # of time's highest frequency, 1 a position
    index = torch.arange(5.0)
    torch.testing.assert_close(first[0].remainder(2 * math.pi), index, atol=1e-5, rtol=0)
    torch.testing.assert_close(first[2].remainder(2 * math.pi), (2 * index).remainder(2 * math.pi))
    assert torch.equal(outputs[0], outputs[1]) and (outputs[0] - outputs[2]).abs().max() > 1e-3
    config = replace(load_sampling("released"), num_steps=2)
    samples = [model.sample_latents(x, text, fps=fps, config=config) for fps in (None, 24)]
    assert torch.equal(*samples)
    given = x, drawn(2, 1, 4, 5, 2, 2), torch.tensor([0.7]), text
    assert torch.equal(model.loss(*given, fps=None)[0], model.loss(*given, fps=24)[0])


def test_a_given_augment_noise(tmp_path: Path) -> None:
    """The network is given c_in(augment_sigma) (frame + augment_sigma * noise) in the conditioning frame."""
    model = world(tmp_path, condition_mask=True)
    noise, text, given = drawn(5, 2, 4, 3, 4, 4), drawn(3, 2, 7, 32), drawn(6, 2, 4, 3, 4, 4) / 2
    config = replace(load_sampling("released"), num_steps=2, guidance=0.0, augment_sigma=0.3)
    seen: list[Tensor] = []
    model.network.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    for augment_noise in (drawn(7, 2, 4, 3, 4, 4), drawn(8, 1, 4, 3, 4, 4)):
        seen.clear()
        model.sample_latents(noise, text, fps=24, config=config, given_BCTHW=given, augment_noise_BCTHW=augment_noise)
        wanted = (given + 0.3 * augment_noise) / math.sqrt(0.3**2 + 0.5**2)
        torch.testing.assert_close(seen[0][:, :, 0], wanted[:, :, 0])
    with pytest.raises(ConfigError, match=r"augment_noise_BCTHW is of shape \[2, 4, 1, 4, 4\]; give \[1 or 2, 4, 3, 4"):
        model.sample_latents(noise, text, fps=24, config=config, given_BCTHW=given, augment_noise_BCTHW=noise[:, :, :1])


def test_a_text_mask(tmp_path: Path) -> None:
    """States that are masked are as if they were not there: each sample alone with a text that ends before them."""
    model, x, c_noise = world(tmp_path), drawn(1, 2, 4, 2, 4, 4), torch.tensor(0.3)
    text, negative, mask = drawn(3, 2, 7, 32), drawn(4, 2, 7, 32), torch.zeros(2, 7)
    lengths = (3, 7)
    for row, length in enumerate(lengths):
        mask[row, :length] = 1
    found = model(x, c_noise, text, fps=24, text_mask_BS=mask)
    alone = [model(x[i : i + 1], c_noise, text[i : i + 1, :n], fps=24) for i, n in enumerate(lengths)]
    torch.testing.assert_close(found, torch.cat(alone))
    assert (found - model(x, c_noise, text, fps=24))[0].abs().max() > 1e-3
    shared = model(x, c_noise, text, fps=24, text_mask_BS=mask[:1].bool())
    torch.testing.assert_close(shared, model(x, c_noise, text[:, :3], fps=24))

    config = replace(load_sampling("released"), num_steps=3)
    masks = {"text_mask_BS": mask[:1], "negative_text_mask_BS": mask[:1].flip(1)}
    sampled = model.sample_latents(x, text, fps=24, config=config, negative_text_BSE=negative, **masks)
    wanted = model.sample_latents(x, text[:, :3], fps=24, config=config, negative_text_BSE=negative[:, -3:])
    torch.testing.assert_close(sampled, wanted, atol=1e-4, rtol=1e-4)
    given = x, drawn(2, 2, 4, 2, 4, 4), torch.tensor([0.7, 0.2])
    masked = model.loss(*given, text, fps=24, text_mask_BS=mask[:1])
    torch.testing.assert_close(masked, model.loss(*given, text[:, :3], fps=24))
    for wrong, said in ((mask[:, :6], r"shape \[2, 6\] was given for 7 text states"), (mask * 0, "a row of zeros")):
        with pytest.raises(ConfigError, match=said):
            model(x, c_noise, text, fps=24, text_mask_BS=wrong)
    with pytest.raises(ConfigError, match="a row of zeros"):
        model.sample_latents(x, text, fps=24, config=config, text_mask_BS=mask * 0)


def test_a_camera_path(tmp_path: Path) -> None:
    """Channels lie as latent, condition mask, camera, padding mask; frames past T are left out."""
    model = world(tmp_path, condition_mask=True, extra_channels=6)
    plain = world(tmp_path / "wide", latent_channels=4)
    x, text, camera = drawn(1, 1, 4, 2, 4, 4), drawn(3, 1, 7, 32), drawn(4, 1, 6, 3, 4, 4)
    mask = first_frame(1, 2, 4, 4)
    conditions = {"condition_mask_B1THW": mask, "extra_BCTHW": camera}
    found = model(x, torch.tensor(0.3), text, fps=24, **conditions)
    weight = official_state(model.config)["net.x_embedder.proj.1.weight"].unflatten(1, (12, 4))
    captured: list[Tensor] = []
    assert model.network.embed is not None
    model.network.embed.register_forward_hook(lambda _m, _i, output: captured.append(output))
    again = model(x, torch.tensor(0.3), text, fps=24, condition_mask_B1THW=mask, extra_BCTHW=camera[:, :, :2])
    assert torch.equal(found, again)
    channels = torch.cat((x, mask, camera[:, :, :2], torch.zeros(1, 1, 2, 4, 4)), dim=1)
    first_patch = channels[0, :, 0, :2, :2].flatten(1)
    torch.testing.assert_close(captured[0][0, 0], torch.einsum("dcp,cp->d", weight, first_patch))
    with pytest.raises(ValueError, match=r"model.extra_channels=0, but 6 were given"):
        plain(x, torch.tensor(0.3), text, fps=24, extra_BCTHW=camera)


def test_without_low_rank(tmp_path: Path) -> None:
    """E comes out of the timestep MLP, and each sub-layer has its own matrix of it.

    Seen from the low-rank network: with rank D, a first matrix of 1 and no shared part it is the same function of E.
    """
    config = small_config(adaln_rank=0)
    plain = world(tmp_path / "plain", adaln_rank=0)
    d, state = config.width, official_state(config)
    lora = world(tmp_path / "lora", adaln_rank=d)
    with torch.no_grad():
        shared = {name: tensor for name, tensor in plain.model.state_dict().items() if "timestep" not in name}
        missing = lora.model.load_state_dict(shared, strict=False).missing_keys
        for name in missing:
            if name.endswith("down.weight"):
                lora.model.get_parameter(name).copy_(torch.eye(d))
        assert {name.split(".")[-2] for name in missing} == {"down", "hidden", "out", "norm"}

    c_noise = torch.tensor([0.7])
    angle = c_noise[:, None] * 10000 ** (-torch.arange(d // 2) / (d // 2))
    hidden = torch.cat((angle.cos(), angle.sin()), -1) @ state["net.t_embedder.1.linear_1.weight"].T
    hidden = torch.nn.functional.silu(hidden + state["net.t_embedder.1.linear_1.bias"])
    out = hidden @ state["net.t_embedder.1.linear_2.weight"].T + state["net.t_embedder.1.linear_2.bias"]
    e = out / (out.square().mean() + 1e-6).sqrt() * state["net.affline_norm.weight"]
    lora.network.timestep.forward = lambda c_noise_B, action_FBD: (e[None], torch.zeros(1, 1, 3 * d))
    x, text = drawn(1, 1, 4, 2, 4, 4), drawn(3, 1, 7, 32)
    found, wanted = plain(x, c_noise, text, fps=24), lora(x, c_noise, text, fps=24)
    assert (found - wanted).abs().max() < 1e-4 < wanted.abs().max()


def test_denoise_is_the_preconditioned_network(tmp_path: Path) -> None:
    model, x, text = world(tmp_path), drawn(1, 2, 4, 2, 4, 4) * 3, drawn(3, 2, 7, 32)
    sigma = torch.tensor([2.0, 0.1])
    found = model.denoise(x, sigma, text, fps=24)
    for i, s in enumerate(sigma.tolist()):
        norm = math.sqrt(s**2 + 0.25)
        output = model(x[i : i + 1] / norm, torch.tensor(math.log(s) / 4), text[i : i + 1], fps=24)
        wanted = 0.25 / norm**2 * x[i] + s * 0.5 / norm * output[0]
        assert (found[i] - wanted).abs().max() < 1e-5


def test_loss(tmp_path: Path) -> None:
    """lambda |D - x0|^2 e^-u + u, the mean over elements or their sum; u counts once an element."""
    model = world(tmp_path, objective=EdmConfig(loss_scale=10.0))
    state = official_state(model.config)
    x0, noise, text = drawn(1, 2, 4, 2, 4, 4) / 2, drawn(2, 2, 4, 2, 4, 4), drawn(3, 2, 7, 32)
    sigma = torch.tensor([1.5, 0.4])
    over = sigma[:, None, None, None, None]
    error = (model.denoise(x0 + over * noise, sigma, text, fps=24) - x0).square()
    weighted = (over**2 + 0.25) / (over * 0.5) ** 2 * error
    features = (sigma.log() / 4)[:, None] * state["logvar.0.freqs"] + state["logvar.0.phases"]
    u = (features.cos() * math.sqrt(2) @ state["logvar.1.weight"].T).reshape(2, 1, 1, 1, 1)
    elements = weighted * torch.exp(-u) + u
    loss, plain = model.loss(x0, noise, sigma, text, fps=24)
    assert loss.item() == pytest.approx(10 * elements.mean().item(), rel=1e-5)
    assert plain.item() == pytest.approx(weighted.mean().item(), rel=1e-5)
    total, _ = model.loss(x0, noise, sigma, text, fps=24, reduction="sum")
    assert total.item() == pytest.approx(10 * elements.flatten(1).sum(1).mean().item(), rel=1e-5)
    with pytest.raises(ValueError, match="neither mean nor sum"):
        model.loss(x0, noise, sigma, text, fps=24, reduction="none")


def test_loss_with_conditions(tmp_path: Path) -> None:
    """Conditioning frames carry lightly noised data at their own scale, have no error, and stay in the mean."""
    model = world(tmp_path, condition_mask=True)
    x0, noise, text = drawn(1, 1, 4, 3, 4, 4) / 2, drawn(2, 1, 4, 3, 4, 4), drawn(3, 1, 7, 32)
    light, sigma, light_sigma = drawn(4, 1, 4, 3, 4, 4), torch.tensor([1.5]), torch.tensor([0.2])
    mask = first_frame(1, 3, 4, 4)
    noisy = x0 + 1.5 * noise
    net_input = noisy / math.sqrt(1.5**2 + 0.25)
    net_input[:, :, 0] = ((x0 + 0.2 * light) / math.sqrt(0.2**2 + 0.25))[:, :, 0]
    output = model(net_input, sigma.log() / 4, text, fps=24, condition_mask_B1THW=mask)
    denoised = 0.25 / 2.5 * noisy + 1.5 * 0.5 / math.sqrt(2.5) * output
    weighted = 2.5 / 0.75**2 * ((denoised - x0) * (1 - mask)).square()
    _, error = model.loss(
        x0, noise, sigma, text, fps=24, num_condition_frames=1, augment_noise_BCTHW=light, augment_sigma_B=light_sigma
    )
    assert error.item() == pytest.approx(weighted.mean().item(), rel=1e-5)


def test_the_released_sampler(tmp_path: Path) -> None:
    """Euler from 80 to 0.0002 and to the clean sample; deviation sqrt(80^2 + 1); zeros as negative prompt."""
    model, noise, text = world(tmp_path), drawn(5, 1, 4, 2, 4, 4), drawn(3, 1, 7, 32)
    config = replace(load_sampling("released"), num_steps=6)
    found = model.sample_latents(noise, text, fps=24, config=config)
    ramp = torch.linspace(0, 1, 6, dtype=torch.float64)
    sigmas = (80 ** (1 / 7) + ramp * (0.0002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    x = noise.double() * math.sqrt(80**2 + 1)
    for sigma, following in zip(sigmas.tolist(), [*sigmas[1:].tolist(), 0.0], strict=True):
        with_text, without = (model.denoise(x.float(), sigma, t, fps=24).double() for t in (text, text * 0))
        x0 = with_text + 7 * (with_text - without)
        x = x + (following - sigma) * (x - x0) / sigma
    assert (found - x).abs().max() < 1e-3 < x.abs().max()
    assert [load_sampling(f"released_{solver}").sampler for solver in ("2ab", "2mid")] == ["2ab", "2mid"]
    assert load_sampling("diffusers").sigma_min == 0.002


UNTOUCHED = """
import cosmos_train.worlds.opening, cosmos_train.train.checkpoint.load, torch
from megatron.core.dist_checkpointing.strategies import torch as strategies
assert not torch.distributed.is_initialized()
assert strategies._get_filesystem_reader.__module__ == strategies.__name__
assert torch.cuda.current_device.__module__ == "torch.cuda"
assert torch.get_default_device() == torch.device("cpu") and torch.zeros(1).type() == "torch.FloatTensor"
"""


def test_importing_changes_nothing_in_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", UNTOUCHED], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="what it says of processes without a GPU")
def test_reading_a_model_changes_the_process_as_it_says(tmp_path: Path) -> None:
    model, x, text = world(tmp_path), drawn(1, 1, 4, 2, 4, 4), drawn(3, 1, 7, 32)
    before = model(x, torch.tensor(0.3), text, fps=24)
    assert torch.distributed.is_initialized() and torch.distributed.get_world_size() == 1
    init.stop()
    assert not torch.distributed.is_initialized()
    assert torch.equal(model(x, torch.tensor(0.3), text, fps=24), before), "the model still computes"
    assert str(torch.cuda.current_device()) == "cpu" and torch.zeros(1, device="cuda").device.type == "cpu"


def test_says_what_it_took(tmp_path: Path) -> None:
    source = write_official(tmp_path / "model.pt", small_config())
    model = open_world(source)
    assert "no tensor tells the rotary extrapolation" in model.notes[0] and model.config == small_config()
