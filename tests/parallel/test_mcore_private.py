"""Each name that megatron-core keeps private is there, and does what is relied upon.

The generator's state that cpu.py puts in the place of CUDA's is tried in test_cpu.py.
"""

import inspect
from collections.abc import Callable
from queue import SimpleQueue

import pytest
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies import torch as mcore_torch
from megatron.core.tensor_parallel import random as mcore_random
from support import layouts
from support.ranks import RankPool
from torch.distributed.checkpoint import FileSystemReader

from cosmos_train.parallel import mcore_private
from cosmos_train.parallel.config import ParallelConfig


def test_megatron_reads_with_another_reader_inside_alone():
    """Also after an error."""
    upstream = mcore_torch._get_filesystem_reader
    assert upstream.__module__ == mcore_torch.__name__

    class OtherReader(FileSystemReader):
        pass

    with pytest.raises(KeyError), mcore_private.reading_with(OtherReader):
        assert isinstance(mcore_torch._get_filesystem_reader("folder"), OtherReader)
        raise KeyError
    assert mcore_torch._get_filesystem_reader is upstream


def test_megatron_takes_the_queue_that_is_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(filesystem_async, "_results_queue", None)
    mcore_private.keep_results_in_process()
    assert isinstance(filesystem_async._get_write_results_queue(), SimpleQueue)


def test_where_no_state_is_named_the_one_of_tensor_parallel_ranks_is_drawn_from():
    assert mcore_private.RNG_TRACKER_NAME == "model-parallel-rng"
    named = inspect.signature(mcore_random.CudaRNGStatesTracker.fork).parameters["name"]
    assert named.default == mcore_private.RNG_TRACKER_NAME


def test_groups_that_were_made_can_be_left(ranks: Callable[[int], RankPool]):
    assert ranks(1).run(layouts.groups_left, ParallelConfig()) == [[True, False]]


def test_ranks_update_slices_that_make_up_each_parameter(ranks: Callable[[int], RankPool]):
    found = ranks(2).run(layouts.slices_updated)
    assert found[0].keys() | found[1].keys() == {"weight", "bias"}
    sizes = {"weight": 15, "bias": 5}
    for name, size in sizes.items():
        numbers = [number for rank in found for number in range(size)[rank.get(name, slice(0))]]
        assert sorted(numbers) == list(range(size)), name
