"""Names that megatron-core keeps private: each stands here and nowhere else, as it was seen in megatron-core 0.16.1.

megatron-core promises none of them. tests/parallel/test_mcore_private.py says of each that it is there and does what is
relied upon, so that an upgrade which takes one away fails by its name.
"""

import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.tensor_parallel import random as mcore_random
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystemReader

RNG_TRACKER_NAME = mcore_random._MODEL_PARALLEL_RNG_TRACKER_NAME
"""The random state from which `fork` draws where none is named."""


def made_groups() -> list[dist.ProcessGroup]:
    """Return the process groups that megatron-core has made. It has a function to forget them, and none to end them."""
    groups = parallel_state._global_process_group_list or []
    return [group for group in groups if group is not None]  # None stands for the default group


def replace_cuda_rng_state(get_state: Callable[..., Tensor], set_state: Callable[..., None]) -> None:
    """Have recompute and the tracker of random states ask these two instead of the CUDA generator."""
    mcore_random._get_cuda_rng_state = get_state
    mcore_random._set_cuda_rng_state = set_state


def slice_updated_here(optimizer: DistributedOptimizer, param: nn.Parameter) -> slice:
    """Return which slice of a flattened parameter this rank updates; the public state has it without names."""
    where = optimizer._get_model_param_range_map(param)["param"]
    return slice(where.start, where.end)


@contextmanager
def reading_with(make_reader: Callable[[str | Path], FileSystemReader]) -> Iterator[None]:
    """Read checkpoints with another reader inside, in all threads: `load` has no way to be given one."""
    from megatron.core.dist_checkpointing.strategies import torch as mcore_torch  # only who reads and writes needs it

    upstream = mcore_torch._get_filesystem_reader
    mcore_torch._get_filesystem_reader = lambda folder, cache_metadata=False: make_reader(folder)
    try:
        yield
    finally:
        mcore_torch._get_filesystem_reader = upstream


def keep_results_in_process() -> None:
    """Have the next save put what it wrote into a queue of this process, which is at both its ends.

    megatron-core would start a manager process for one between processes.
    """
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    filesystem_async._results_queue = queue.SimpleQueue()  # pyright: ignore[reportAttributeAccessIssue]
