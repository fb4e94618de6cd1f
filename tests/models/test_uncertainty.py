"""The learned uncertainty: a fixed draw of Fourier features, a linear layer that starts at zero."""

import math

import torch

from cosmos_train.models.common.uncertainty import LearnedUncertainty
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.shard import layout_independent_fill

C_NOISE = torch.tensor([-1.5, 0.0, 0.25, 1.1])


def test_formula():
    """sum_i w_i sqrt(2) cos(f_i c_noise + p_i), here in fp64 and one number at a time."""
    model = LearnedUncertainty(num_features=5)
    weight, frequency, phase = model.linear.weight[0].tolist(), model.frequency.tolist(), model.phase.tolist()
    wanted = [
        sum(w * math.sqrt(2) * math.cos(f * c + p) for w, f, p in zip(weight, frequency, phase, strict=True))
        for c in C_NOISE.tolist()
    ]
    torch.testing.assert_close(model(C_NOISE), torch.tensor(wanted), atol=1e-5, rtol=1e-5)


def test_features_are_one_draw_for_all_and_in_the_checkpoint():
    first, second = LearnedUncertainty(), LearnedUncertainty()
    assert not torch.equal(first.linear.weight, second.linear.weight)
    assert torch.equal(first.frequency, second.frequency) and torch.equal(first.phase, second.phase)
    assert first.state_dict().keys() == {"frequency", "phase", "linear.weight"}
    # N(0, (2 pi)^2) and U(0, 2 pi), as far as 128 numbers tell
    assert abs(first.frequency.std() / (2 * math.pi) - 1) < 0.15
    assert 0 <= first.phase.min() < 0.5 and 5.8 < first.phase.max() <= 2 * math.pi


def test_starts_with_the_objectives_own_weighting(mesh: Mesh):
    model = LearnedUncertainty()
    assert model(C_NOISE).abs().min() > 0
    model.init_weights(layout_independent_fill(mesh, seed=0))
    assert torch.equal(model(C_NOISE), torch.zeros(4))


def test_answers_in_fp32():
    """Whatever the weights are kept in: the loss adds it to fp32 terms."""
    model, rough = LearnedUncertainty(), LearnedUncertainty()
    rough.load_state_dict(model.state_dict())
    rough.linear.bfloat16()
    answer = rough(C_NOISE)
    assert answer.dtype == torch.float32
    torch.testing.assert_close(answer, model(C_NOISE), atol=0.02, rtol=0)
