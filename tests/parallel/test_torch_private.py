"""Each name that torch keeps private is there, and does what is relied upon."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support import layouts
from support.ranks import RankPool
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.planner import WriteItem, WriteItemType
from torch.overrides import TorchFunctionMode

from cosmos_train.parallel import torch_private
from cosmos_train.parallel.config import ParallelConfig


def updated(update: torch_private.FusedUpdate) -> float:
    """What a first step makes of a weight of 2 whose gradient is 1."""
    param, gradient, mean, square = (torch.tensor([value]) for value in (2.0, 1.0, 0.0, 0.0))
    kernel_options = {"maximize": False, "grad_scale": None, "found_inf": None, "amsgrad": False}
    settings = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.5, "eps": 0.0}
    update([param], [gradient], [mean], [square], [], [torch.tensor(1.0)], **settings, **kernel_options)
    return param.item()


def test_adam_adds_weight_decay_to_the_gradient_and_adamw_to_the_weight():
    torch.testing.assert_close(updated(torch_private.fused_adam), 2.0 - 0.1)
    torch.testing.assert_close(updated(torch_private.fused_adamw), 2.0 - 0.1 * 0.5 * 2.0 - 0.1)


def test_lists_are_copied_and_moved_in_place():
    targets, sources = [torch.zeros(2), torch.zeros(1)], [torch.tensor([4.0, 8.0]), torch.tensor([2.0])]
    torch_private.copy_each(targets, sources)
    assert [target.tolist() for target in targets] == [[4.0, 8.0], [2.0]]
    torch_private.lerp_each(targets, [torch.zeros(2), torch.zeros(1)], 0.25)
    assert [target.tolist() for target in targets] == [[3.0, 6.0], [1.5]]


class Counting(TorchFunctionMode):
    """Counts the calls that pass through it."""

    num_calls = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.num_calls += 1
        return func(*args, **(kwargs or {}))


def test_function_modes_are_off_inside():
    with Counting() as mode:
        torch.ones(1)
        assert mode.num_calls == 1
        with torch_private.without_function_modes():
            torch.ones(1)
        assert mode.num_calls == 1


def test_all_gloo_groups_listen_through_one_device(ranks: Callable[[int], RankPool]):
    """A thread for each would wake a hundred times a second for as long as the group lives."""
    assert ranks(2).run(layouts.listening_threads, ParallelConfig(tp=2)) == [[1, 1], [1, 1]]


@pytest.mark.parametrize(("named", "num_devices"), [(None, 1), ("lo", 1), ("lo,lo", 2)])
def test_gloo_listens_where_the_environment_says(named: str | None, num_devices: int, monkeypatch: pytest.MonkeyPatch):
    if named is None:
        monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    else:
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", named)
    assert len(torch_private._gloo_devices.__wrapped__()) == num_devices


def test_the_fake_store_is_one_that_the_fake_backend_takes():
    assert isinstance(torch_private.fake_store(), torch.distributed.Store)
    assert torch.distributed.is_backend_available("fake")


def test_a_written_tensor_is_found_again_by_its_first_byte(tmp_path: Path):
    tensors, path = [torch.arange(5.0), torch.arange(7, dtype=torch.int16)], tmp_path / "file"
    with path.open("wb") as stream:
        results = [
            torch_private.write_item(stream, WriteItem(MetadataIndex(f"{i}"), WriteItemType.TENSOR), tensor, path.name)
            for i, tensor in enumerate(tensors)
        ]
    for tensor, result in zip(tensors, results, strict=True):
        where = result.storage_data
        assert isinstance(where, torch_private.StorageInfo) and where.relative_path == path.name
        with path.open("rb", buffering=0) as file:
            begin = torch_private.first_byte(file, where)
            file.seek(begin)
            assert file.read(tensor.nbytes) == tensor.numpy().tobytes()
            file.seek(where.offset)
            assert torch.equal(torch.load(io.BytesIO(file.read(where.length)), weights_only=True), tensor)
