"""Hinge losses, the adaptive weight, and who gets gradients of whom."""

import pytest
import torch
from torch import Tensor, nn

from cosmos_train.objectives.adversarial import (
    MAX_ADAPTIVE_WEIGHT,
    PatchDiscriminator,
    adaptive_weight,
    discriminator_hinge,
    frozen,
    generator_hinge,
)
from cosmos_train.objectives.config import DiscriminatorConfig

SMALL = DiscriminatorConfig(channels=8, num_halvings=2)


def discriminator() -> PatchDiscriminator:
    torch.manual_seed(0)
    return PatchDiscriminator(SMALL)


def video(*shape_BTHW: int) -> Tensor:
    b, t, h, w = shape_BTHW
    return torch.rand(b, 3, t, h, w, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_hinge_by_hand():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 1.5])
    assert discriminator_hinge(real, fake).item() == pytest.approx(((0 + 0.5 + 2) / 3 + (0 + 1 + 2.5) / 3) / 2)
    assert generator_hinge(fake).item() == pytest.approx(0.5)


def test_each_side_pulls_its_way():
    """A step down the gradient: the discriminator parts the logits, the tokenizer raises those of its own."""
    real, fake = torch.zeros(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    discriminator_hinge(real, fake).backward()
    assert real.grad is not None and fake.grad is not None
    assert (real.grad < 0).all() and (fake.grad > 0).all()
    logits = torch.zeros(4, requires_grad=True)
    generator_hinge(logits).backward()
    assert logits.grad is not None and (logits.grad < 0).all()


def test_beyond_the_margin_nothing_is_learnt():
    real, fake = torch.full((4,), 1.5, requires_grad=True), torch.full((4,), -1.5, requires_grad=True)
    discriminator_hinge(real, fake).backward()
    assert real.grad is not None and fake.grad is not None
    assert not real.grad.any() and not fake.grad.any()


def test_adaptive_weight_by_hand():
    """y = w x: of 3 sum(y) the gradient is 3 sum(x), of -mean(y) it is -mean(x)."""
    w, x = torch.tensor([2.0], requires_grad=True), torch.tensor([1.0, 2.0, 6.0])
    y = w * x
    others, adversarial = 3 * y.sum(), -y.mean()
    weight = adaptive_weight(others, adversarial, w)
    assert weight.item() == pytest.approx(27 / 3, rel=1e-5)
    assert not weight.requires_grad and w.grad is None
    (others + weight * adversarial).backward()  # the graph is still there
    assert w.grad is not None and w.grad.item() == pytest.approx(27 - 9 * 3, abs=1e-4)


def test_adaptive_weight_has_an_end():
    w = torch.tensor([2.0], requires_grad=True)
    assert adaptive_weight(w.sum() * 5, (w * 0).sum(), w).item() == MAX_ADAPTIVE_WEIGHT


def test_frozen_passes_gradients_through_and_keeps_none():
    judge, fake = discriminator(), video(2, 5, 16, 16).requires_grad_()
    logits = frozen(judge, fake)
    assert torch.equal(logits, judge(fake))
    generator_hinge(logits).backward()
    assert fake.grad is not None and fake.grad.abs().sum() > 0
    assert all(param.grad is None and param.requires_grad for param in judge.parameters())


@pytest.mark.parametrize(("frames", "grid"), [(1, (1, 4, 6)), (5, (3, 4, 6)), (9, (5, 4, 6))])
def test_patches_lie_on_a_grid(frames: int, grid: tuple[int, ...]):
    assert discriminator()(video(2, frames, 16, 24)).shape == (2, 1, *grid)


def test_a_judgement_is_about_a_patch_of_space_and_time():
    """Far from a changed pixel only the norms, which are over the whole sample, carry the change: far less of it."""
    judge, clip = discriminator(), video(1, 9, 64, 64)
    changed = clip.clone()
    changed[:, :, 8, :8, :8] += 1
    change_THW = (judge(changed) - judge(clip))[0, 0].abs()
    assert change_THW[-1, :2, :2].max() > 10 * change_THW[:, 8:, 8:].max()
    assert change_THW[-1].max() > 10 * change_THW[0].max()


def test_samples_are_judged_by_themselves():
    judge, clips = discriminator(), video(3, 5, 16, 16)
    together = judge(clips)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], judge(clips[i : i + 1]), rtol=1e-4, atol=1e-5)
    assert not [module for module in judge.modules() if isinstance(module, nn.BatchNorm3d)]
    assert not list(judge.buffers()), "nothing to save beside the parameters"
