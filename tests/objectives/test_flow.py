"""The flow term: where OpenCV says things move, and that errors which move along are not punished."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cosmos_train.config.errors import ConfigError
from cosmos_train.objectives import flow
from cosmos_train.objectives.config import MotionConfig, ReconstructionConfig, TermConfig
from cosmos_train.objectives.flow import FlowNetwork, flow_consistency, warp
from cosmos_train.objectives.reconstruction import ReconstructionTerms


def drifting(num_frames: int = 4, dx: int = 2, dy: int = 1, size: int = 48) -> Tensor:
    """[1, 3, T, H, W]: a smooth texture that moves dx to the right and dy down with each frame."""
    noise = torch.rand(1, 1, 80, 80, generator=torch.Generator().manual_seed(0))
    texture = F.avg_pool2d(noise, 5, 1)[0, 0]
    texture = (texture - texture.min()) / (texture.max() - texture.min()) * 2 - 1
    frames = [texture[12 - t * dy :, 12 - t * dx :][:size, :size] for t in range(num_frames)]
    return torch.stack(frames).expand(1, 3, num_frames, size, size).contiguous()


def test_flow_is_where_things_go():
    forth_N2HW, back_N2HW = flow.dis_flows(drifting())
    assert forth_N2HW.shape == back_N2HW.shape == (3, 2, 48, 48)
    inner = (slice(None), slice(None), slice(8, -8), slice(8, -8))
    for found, wanted in ((forth_N2HW, (2.0, 1.0)), (back_N2HW, (-2.0, -1.0))):
        medians = found[inner].transpose(0, 1).flatten(1).median(dim=1).values
        assert medians.tolist() == pytest.approx(wanted, abs=0.1)


def test_warp_brings_the_next_frame_back():
    clip = drifting(2)
    forth = torch.tensor([2.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, 48, 48)
    assert torch.allclose(warp(clip[:, :, 1], forth)[..., :-1, :-2], clip[:, :, 0, :-1, :-2], atol=1e-4)


def test_warp_by_parts_of_a_pixel_and_at_the_edge():
    ramp = torch.arange(5.0).expand(1, 1, 4, 5)
    half = torch.tensor([0.5, 0.0]).view(1, 2, 1, 1).expand(1, 2, 4, 5)
    assert torch.allclose(warp(ramp, half)[0, 0, 0], torch.tensor([0.5, 1.5, 2.5, 3.5, 4.0]), atol=1e-5)
    assert torch.allclose(warp(ramp, torch.zeros(1, 2, 4, 5)), ramp, atol=1e-5)


def test_term_by_its_definition(monkeypatch: pytest.MonkeyPatch):
    """With a flow of whole pixels a warp is a shift; of (y_t - W y_{t+1}) - (x_t - W x_{t+1}) as it is written."""
    generator = torch.Generator().manual_seed(2)
    x, y = (torch.rand(2, 3, 3, 8, 9, generator=generator) for _ in range(2))
    forth, back = (torch.tensor([d, 0.0]).view(1, 2, 1, 1).expand(4, 2, 8, 9) for d in (1.0, -2.0))
    monkeypatch.setattr(flow, "dis_flows", lambda _: (forth, back))

    def shifted(frame: Tensor, dx: int) -> Tensor:
        return frame[..., (torch.arange(9) + dx).clamp(0, 8)]

    sums = []
    for t in range(2):
        along = (y[:, :, t] - shifted(y[:, :, t + 1], 1)) - (x[:, :, t] - shifted(x[:, :, t + 1], 1))
        against = (y[:, :, t + 1] - shifted(y[:, :, t], -2)) - (x[:, :, t + 1] - shifted(x[:, :, t], -2))
        sums.append((along.abs().mean() + against.abs().mean()) / 2)
    assert flow_consistency(x, y).item() == pytest.approx(torch.stack(sums).mean().item(), rel=1e-5)


def test_an_error_that_moves_along_costs_less_than_one_that_flickers():
    clip = drifting()
    moving = drifting().roll(7, dims=-2) * 0.2
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 1, 4, 1, 1)
    along, flickering = flow_consistency(clip, clip + moving), flow_consistency(clip, clip + moving * signs)
    assert flow_consistency(clip, clip).item() == 0
    assert along.item() < flickering.item() / 3


def test_gradient_goes_to_the_reconstruction():
    clip = drifting()
    fake = (clip + 0.1 * torch.randn(clip.shape, generator=torch.Generator().manual_seed(3))).requires_grad_()
    flow_consistency(clip, fake).backward()
    assert fake.grad is not None and (fake.grad.abs().sum(dim=(0, 1, 3, 4)) > 0).all(), "in every frame"


def test_a_single_frame_does_not_flicker():
    clip = drifting(1)
    term = flow_consistency(clip, clip + 1)
    assert term.item() == 0 and term.dtype == torch.float32


# By a network.


class Differences(torch.nn.Module):
    """A flow that can be written down: brightness gained, and the first frame's redness, after coarser guesses."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(3.0))

    def forward(self, first: Tensor, second: Tensor) -> list[Tensor]:
        if first.shape[2] % 8 or first.shape[3] % 8 or first.shape[2] < 8:
            raise ValueError("height and width must be multiples of 8")
        flow = torch.stack([(second - first).mean(1) * self.scale, first[:, 0]], dim=1)
        return [torch.zeros_like(flow), flow]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("flow") / "network.pt"
    torch.jit.script(Differences()).save(str(file))
    return file


@pytest.mark.parametrize("halve", [False, True])
def test_flows_of_both_videos_are_compared(network: Path, halve: bool):
    """At sizes that the network does not take, so they are padded; in both directions of time."""
    generator = torch.Generator().manual_seed(4)
    x, y = (torch.rand(2, 3, 3, 20, 36, generator=generator) for _ in range(2))
    small = [v.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).mean((-1, -3)) for v in (x, y)] if halve else [x, y]
    gained_x, gained_y = (v.diff(dim=2).mean(1) * 3 for v in small)
    red = (small[1] - small[0])[:, 0].abs()
    wanted = ((gained_y - gained_x).abs().mean() + (red[:, :-1].mean() + red[:, 1:].mean()) / 2) / 2
    found = FlowNetwork(network, torch.device("cpu"), halve=halve).difference(x, y)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_a_networks_gradient_goes_to_the_reconstruction_alone(network: Path):
    motion = FlowNetwork(network, torch.device("cpu"), halve=True)
    fake = (drifting() + 0.1).requires_grad_()
    motion.difference(drifting(), fake * 1.1).backward()
    assert fake.grad is not None and (fake.grad.abs().sum(dim=(0, 1, 3, 4)) > 0).all()
    assert motion.difference(drifting(1), drifting(1) + 1).item() == 0
    assert motion.difference(drifting(), drifting()).item() == 0


def test_a_configured_network_is_the_term(network: Path):
    config = ReconstructionConfig(flow=TermConfig(weight=1.0), motion=MotionConfig(file=str(network)))
    x, y = drifting(), drifting() * 0.9
    found = ReconstructionTerms(config, torch.device("cpu"), torch.float32)(x, y, 0)["flow"]
    torch.testing.assert_close(found, FlowNetwork(network, torch.device("cpu"), halve=True).difference(x, y))


def test_what_is_no_network_is_refused(network: Path, tmp_path: Path):
    wrong = tmp_path / "weights.pt"
    torch.save({"weight": torch.zeros(2)}, wrong)
    for file in (wrong, tmp_path / "nowhere.pt"):
        with pytest.raises(
            ConfigError,
            match=r"loss\.motion\.file: .* (is no TorchScript network|cannot be read): .*leave it out for DIS",
        ):
            FlowNetwork(file, torch.device("cpu"), halve=True)
    mouthful = tmp_path / "picky.pt"
    torch.jit.script(Picky()).save(str(mouthful))
    with pytest.raises(ConfigError, match=r"can not take frames of 24x24 px: .*train on larger ones"):
        FlowNetwork(mouthful, torch.device("cpu"), halve=True).difference(drifting(), drifting())


class Picky(torch.nn.Module):
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        if first.shape[2] < 128:
            raise ValueError("feature maps are too small")
        return first[:, :2]
