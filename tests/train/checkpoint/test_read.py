"""What is read is what was stored, no more of it than is asked for, and in its place where it can be."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from megatron.core.dist_checkpointing.strategies import torch as mcore_torch
from support import saving
from support.ranks import RankPool
from torch import Tensor

from cosmos_train.train.checkpoint.read import InPlaceReader, reading_in_place

SHAPES = {"matrix": (30, 7), "single": (), "large": (300, 400)}


def made() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    return tensors | {"half": torch.randn(9, generator=generator).bfloat16(), "columns": torch.rand(5, 6).t()}


def zeros_like(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in tensors.items()}


def test_every_tensor_is_read_into_its_place(ranks: Callable[[int], RankPool], tmp_path: Path):
    tensors = made()
    [said] = ranks(1).run(saving.read_into, tmp_path, tensors, zeros_like(tensors), 1.0)
    assert said["in place"]
    for name, tensor in tensors.items():
        assert torch.equal(said["found"][name], tensor), name


def test_other_formats_and_orders_are_converted(ranks: Callable[[int], RankPool], tmp_path: Path):
    tensors = {"wider": torch.arange(6.0).bfloat16(), "columns": torch.arange(12.0).view(4, 3), "same": torch.ones(3)}
    targets = {"wider": torch.zeros(6), "columns": torch.zeros(3, 4).t(), "same": torch.zeros(3)}
    [said] = ranks(1).run(saving.read_into, tmp_path, tensors, targets, 1.0)
    for name, tensor in tensors.items():
        assert torch.equal(said["found"][name], tensor.to(targets[name].dtype)), name


def test_of_boxes_no_byte_more_is_read_than_asked_for(ranks: Callable[[int], RankPool], tmp_path: Path):
    tensor = torch.arange(120.0).view(6, 5, 4)
    written = [((0, 0, 0), (2, 5, 4)), ((2, 0, 0), (4, 3, 4)), ((2, 3, 0), (4, 2, 4))]
    wanted = [((0, 0, 0), (6, 5, 4)), ((1, 2, 0), (4, 2, 4)), ((1, 1, 1), (3, 3, 2)), ((5, 4, 3), (1, 1, 1))]
    [found] = ranks(1).run(saving.read_boxes, tmp_path, tensor, written, wanted)
    for (begin, sizes), (read, num_bytes) in zip(wanted, found, strict=True):
        expected = tensor[tuple(slice(first, first + size) for first, size in zip(begin, sizes, strict=True))]
        assert torch.equal(read, expected) and num_bytes == expected.numel() * 4


def test_a_file_that_ends_too_early_is_told(ranks: Callable[[int], RankPool], tmp_path: Path):
    tensors = made()
    [said] = ranks(1).run(saving.read_into, tmp_path, tensors, zeros_like(tensors), 0.5)
    assert said["raised"]


def test_megatron_reads_with_its_own_reader_outside():
    """Also after an error."""
    upstream = mcore_torch._get_filesystem_reader
    assert upstream.__module__ == mcore_torch.__name__
    with pytest.raises(KeyError), reading_in_place():
        assert isinstance(mcore_torch._get_filesystem_reader("folder"), InPlaceReader)
        raise KeyError
    assert mcore_torch._get_filesystem_reader is upstream
