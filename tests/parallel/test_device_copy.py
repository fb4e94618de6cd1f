"""Copies on a CPU: there are none. What CUDA does: tests/gpu/test_copies.py."""

import torch

from cosmos_train.parallel.device_copy import DeviceCopier


def test_tensors_are_handed_on_as_they_are():
    copier = DeviceCopier(torch.device("cpu"))
    given = [torch.arange(6, dtype=torch.uint8).view(2, 3).T, torch.zeros(0), torch.tensor(3.0, requires_grad=True)]
    sent = copier.send(given)
    for found in (sent.wait(), sent.wait(), copier.fetch(given)):
        assert len(found) == 3 and all(one is other for one, other in zip(found, given, strict=True))
    with copier.stream():
        assert copier.fetch(copier.send([]).wait()) == []
