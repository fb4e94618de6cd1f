"""Known mistakes of parallel training, made on purpose on every rank: what the parity harness must be able to see.

Each is one that users of other frameworks have met. A mistake changes one function of ours and leaves the rest alone.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from support import tiny_world
from torch import Tensor

from cosmos_train.models.dit import world
from cosmos_train.parallel import shard
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.context import TokenSplit
from cosmos_train.recipes import world_dit


def answers_with(mistake: str, cache: Path, run_dir: Path, parallel: ParallelConfig, micro_batch_size: int) -> Any:
    """tiny_world.answers with the mistake in force."""
    with MISTAKES[mistake]():
        return tiny_world.answers(cache, run_dir, parallel, micro_batch_size, 1)


def no_sequence_reduction() -> contextlib.AbstractContextManager:
    """Undivided parameters keep the gradient of this rank's tokens alone."""
    return mock.patch.object(world, "mark_partial_gradients", lambda network: None)


@contextlib.contextmanager
def wrong_order_of_context() -> Iterator[None]:
    """The chunks of the ranks are put together in another order than they were taken apart."""
    leave = TokenSplit.leave

    def rotated(self: TokenSplit, x_lBD: Tensor) -> Tensor:
        return leave(self, x_lBD).roll(1, dims=0)

    with mock.patch.object(TokenSplit, "leave", rotated):
        yield


@contextlib.contextmanager
def context_averaged_twice() -> Iterator[None]:
    """The loss is divided by cp, although the reduction of gradients already averages."""
    forward_loss = world_dit.WorldDiTTask.forward_loss

    def averaged(self: world_dit.WorldDiTTask, *args: Any) -> Any:
        result = forward_loss(self, *args)
        return result if isinstance(result, Tensor) else (result[0] / self.mesh.cp.size(), result[1])

    with mock.patch.object(world_dit.WorldDiTTask, "forward_loss", averaged):
        yield


def same_draws_on_tensor_ranks() -> contextlib.AbstractContextManager:
    """Every tensor-parallel rank fills its part with the same numbers."""
    return mock.patch.object(shard, "local_slice", _first_slice)


def _first_slice(whole: Tensor, param: Tensor, _mesh: Any) -> Tensor:
    dim = shard.partition_dim(param)
    return whole if dim is None else whole.narrow(dim, 0, param.shape[dim])


MISTAKES: dict[str, Callable[[], contextlib.AbstractContextManager]] = {
    "no sequence reduction": no_sequence_reduction,
    "wrong order of context": wrong_order_of_context,
    "context averaged twice": context_averaged_twice,
    "same draws on tensor ranks": same_draws_on_tensor_ranks,
}
