"""The loss over a vocabulary equals torch's. That dividing it changes nothing is shown by test_engine.py."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.vocabulary import is_most_likely, mean_square, token_nll


@pytest.fixture(scope="module")
def tp() -> Iterator[dist.ProcessGroup]:
    yield init.start(ParallelConfig(), seed=0).tp
    init.stop()


@pytest.fixture
def logits() -> torch.Tensor:
    """[L, B, V], so large that their exponentials overflow."""
    return torch.randn(4, 3, 7, generator=torch.Generator().manual_seed(1)) * 200


@pytest.fixture
def targets() -> torch.Tensor:
    return torch.randint(7, (4, 3), generator=torch.Generator().manual_seed(2))


def test_likelihood_and_its_gradient(tp: dist.ProcessGroup, logits: torch.Tensor, targets: torch.Tensor):
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    nll, logsumexp = token_nll(ours, targets, tp)
    wanted = F.cross_entropy(theirs.flatten(0, 1), targets.flatten(), reduction="none").view(4, 3)
    torch.testing.assert_close(nll, wanted)
    torch.testing.assert_close(logsumexp, logits.logsumexp(-1))
    weights = torch.randn(4, 3, generator=torch.Generator().manual_seed(3))
    (nll * weights + logsumexp.square()).sum().backward()
    (wanted * weights + theirs.logsumexp(-1).square()).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_in_bf16_it_is_computed_in_fp32(tp: dist.ProcessGroup, logits: torch.Tensor, targets: torch.Tensor):
    rounded = logits.bfloat16()
    nll, logsumexp = token_nll(rounded, targets, tp)
    assert nll.dtype == logsumexp.dtype == torch.float32
    torch.testing.assert_close(logsumexp, rounded.float().logsumexp(-1))


def test_hits(tp: dist.ProcessGroup, logits: torch.Tensor, targets: torch.Tensor):
    best = logits.argmax(-1)
    assert is_most_likely(logits, best, tp).all()
    assert torch.equal(is_most_likely(logits, targets, tp), best == targets)


def test_mean_square(tp: dist.ProcessGroup, logits: torch.Tensor):
    torch.testing.assert_close(mean_square(logits, tp), logits.square().mean(-1))
