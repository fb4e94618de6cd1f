"""The flow term: where OpenCV says things move, and that errors which move along are not punished."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cosmos_train.objectives import flow
from cosmos_train.objectives.flow import flow_consistency, warp

pytest.importorskip("cv2", reason="pip install 'cosmos-train[losses]'")


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
