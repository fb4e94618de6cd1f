"""Terms against independent formulas, and when each of them counts."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from cosmos_train.objectives import reconstruction
from cosmos_train.objectives.config import FeaturesConfig, ReconstructionConfig, TermConfig
from cosmos_train.objectives.features import Features
from cosmos_train.objectives.reconstruction import (
    ReconstructionTerms,
    features_of,
    gram,
    gram_matrix,
    l1,
    perceptual,
    weighted_sum,
)

WEIGHTS = (0.5, 2.0)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def two_layers(seed: int) -> list[Tensor]:
    return [random(2, 3, 4, 6, 8, seed=seed), random(2, 5, 4, 3, 4, seed=seed + 1)]


def test_l1_by_hand():
    assert l1(torch.tensor([0.0, 1.0, -1.0]), torch.tensor([0.5, 1.0, 1.0])).item() == pytest.approx(2.5 / 3)


def test_perceptual_by_hand():
    real, fake = two_layers(1), two_layers(7)
    wanted = 0.5 * (real[0] - fake[0]).abs().mean() + 2 * (real[1] - fake[1]).abs().mean()
    assert perceptual(real, fake, WEIGHTS).item() == pytest.approx(wanted.item(), rel=1e-6)


def test_gram_matrix_pixel_by_pixel():
    f = random(2, 3, 2, 2, 3)
    wanted = torch.zeros(2, 3, 3)
    for t in range(2):
        for h in range(2):
            for w in range(3):
                wanted += torch.einsum("bi,bj->bij", f[:, :, t, h, w], f[:, :, t, h, w])
    torch.testing.assert_close(gram_matrix(f), wanted / 12)


def test_gram_by_hand_and_blind_to_places():
    real, fake = two_layers(1), two_layers(7)
    wanted = sum(
        weight * (gram_matrix(r) - gram_matrix(f)).pow(2).sum() / (2 * r.shape[1] ** 2)
        for weight, r, f in zip(WEIGHTS, real, fake, strict=True)
    )
    assert gram(real, fake, WEIGHTS).item() == pytest.approx(float(wanted), rel=1e-5)
    moved = [f.roll((1, 2, 3), dims=(2, 3, 4)) for f in real]
    assert gram(real, moved, WEIGHTS).item() == pytest.approx(0, abs=1e-10)
    assert perceptual(real, moved, WEIGHTS).item() > 0.1


class Means(Features):
    """Five layers a test can foresee: averages over squares of pixels."""

    layer_weights = (1.0, 2.0, 3.0, 4.0, 5.0)

    def forward(self, frames_N3HW: Tensor) -> list[Tensor]:
        return [torch.nn.functional.avg_pool2d(frames_N3HW, 2**i) for i in range(5)]


def test_features_are_of_each_frame():
    video = random(2, 3, 4, 16, 32)
    found = features_of(Means(), video)
    assert [tuple(f.shape) for f in found][-1] == (2, 3, 4, 1, 2)
    for b in range(2):
        for t in range(4):
            assert torch.equal(found[2][b, :, t], Means()(video[b : b + 1, :, t])[2][0])


@pytest.fixture
def foreseen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(reconstruction, "load_features", lambda _: Means())
    return


def terms_of(config: ReconstructionConfig) -> ReconstructionTerms:
    return ReconstructionTerms(config, torch.device("cpu"), torch.float32)


def test_each_term_counts_from_its_start(foreseen: None):
    config = ReconstructionConfig(
        l1=TermConfig(weight=2.0),
        perceptual=TermConfig(weight=0.5, start_step=3),
        gram=TermConfig(weight=0.25, start_step=5),
    )
    terms, video, fake = terms_of(config), random(2, 3, 3, 16, 16), random(2, 3, 3, 16, 16, seed=9)
    assert [sorted(terms(video, fake, step)) for step in (0, 2, 3, 4, 5)] == [
        ["l1"],
        ["l1"],
        ["l1", "perceptual"],
        ["l1", "perceptual"],
        ["gram", "l1", "perceptual"],
    ]
    all_of_them = terms(video, fake, 5)
    real, false = features_of(Means(), video), features_of(Means(), fake)
    wanted = (
        2.0 * (video - fake).abs().mean()
        + 0.5 * sum((i + 1) * (real[i] - false[i]).abs().mean() for i in range(5))
        + 0.25 * sum((i + 1) * (gram_matrix(real[i]) - gram_matrix(false[i])).square().mean() for i in range(5))
    )
    assert weighted_sum(all_of_them, config, 5).item() == pytest.approx(wanted.item(), rel=1e-5)
    assert weighted_sum(terms(video, fake, 4), config, 4).item() < wanted.item()


def test_gradient_reaches_pixels_through_features_alone(foreseen: None):
    config = ReconstructionConfig(l1=TermConfig(), perceptual=TermConfig(weight=1.0))
    video, fake = random(1, 3, 2, 16, 16), random(1, 3, 2, 16, 16, seed=4).requires_grad_()
    weighted_sum(terms_of(config)(video, fake, 0), config, 0).backward()
    assert fake.grad is not None and fake.grad.abs().min() > 0


def test_flow_is_one_of_the_terms(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reconstruction, "import_cv2", lambda: None)
    monkeypatch.setattr(reconstruction, "flow_consistency", lambda video, fake: (fake - video).square().sum())
    config = ReconstructionConfig(flow=TermConfig(weight=0.5, start_step=1))
    video, fake = random(1, 3, 2, 8, 8), random(1, 3, 2, 8, 8, seed=4)
    assert "flow" not in terms_of(config)(video, fake, 0)
    assert terms_of(config)(video, fake, 1)["flow"].item() == pytest.approx((video - fake).square().sum().item())


def test_bf16_reconstructions_are_compared_in_fp32(tmp_path: Path, foreseen: None):
    config = ReconstructionConfig(perceptual=TermConfig(weight=1.0), gram=TermConfig(weight=1.0))
    terms = ReconstructionTerms(config, torch.device("cpu"), torch.bfloat16)
    video = random(1, 3, 2, 16, 16)
    found = terms(video, video.bfloat16(), 0)
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert found["l1"].item() == pytest.approx((video - video.bfloat16().float()).abs().mean().item())


def test_without_a_term_its_network_is_not_looked_for(tmp_path: Path):
    config = ReconstructionConfig(features=FeaturesConfig(file=str(tmp_path / "nothing.safetensors")))
    assert terms_of(config).features is None


def test_the_network_is_that_of_the_file(tmp_path: Path):
    blocks, state, narrow, number = (1, 1, 1, 1, 1), {}, 3, 0
    for _ in blocks:
        state |= {f"features.{number}.weight": random(4, narrow, 3, 3), f"features.{number}.bias": torch.zeros(4)}
        narrow, number = 4, number + 3
    save_file(state, tmp_path / "vgg.safetensors")
    config = ReconstructionConfig(
        perceptual=TermConfig(weight=1.0), features=FeaturesConfig(file=str(tmp_path / "vgg.safetensors"))
    )
    assert terms_of(config)(random(1, 3, 2, 16, 16), random(1, 3, 2, 16, 16, seed=4), 0)["perceptual"].item() > 0


# What can not be.


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ({"gram": TermConfig(weight=-1.0)}, r"loss\.gram\.weight=-1\.0"),
        ({"flow": TermConfig(weight=1.0, start_step=-1)}, r"loss\.flow\.start_step=-1 must be at least 0"),
        ({"l1": TermConfig()}, "leave the first step without a term"),
        ({"l1": TermConfig(weight=1.0, start_step=1)}, "start_step=0"),
    ],
)
def test_bad_terms_are_named(terms: dict[str, TermConfig], said: str):
    with pytest.raises(ValueError, match=said):
        ReconstructionConfig(**terms)


def test_bad_layer_weights_are_named():
    with pytest.raises(ValueError, match="is not five numbers"):
        FeaturesConfig(layer_weights=(1.0, 2.0))
