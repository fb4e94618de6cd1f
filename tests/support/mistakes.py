"""Known mistakes of parallel training, made on purpose on every rank: what the parity harness must be able to see.

Each is one that users of other frameworks have met. A mistake changes one function of ours and leaves the rest alone.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from megatron.core import tensor_parallel
from megatron.core.optimizer import optimizer
from support import tiny_world
from torch import Tensor

from cosmos_train.models.dit import world
from cosmos_train.models.dit.model import SelfAttention
from cosmos_train.parallel import layers, lora, shard
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.context import TokenSplit
from cosmos_train.parallel.lora import Adapter
from cosmos_train.recipes import world_dit


def answers_with(mistake: str, cache: Path, run_dir: Path, parallel: ParallelConfig, micro_batch_size: int) -> Any:
    """tiny_world.answers with the mistake in force."""
    with MISTAKES[mistake]():
        return tiny_world.answers(cache, run_dir, parallel, micro_batch_size, 1)


@dataclass(frozen=True)
class Made:
    """Answers of another model with a mistake in force."""

    mistake: str
    answers: Callable[..., Any]

    def __call__(self, cache: Path, run_dir: Path, parallel: ParallelConfig, micro_batch_size: int) -> Any:
        with MISTAKES[self.mistake]():
            return self.answers(cache, run_dir, parallel, micro_batch_size, 1)


def answers_of_renamed(cache: Path, run_dir: Path, parallel: ParallelConfig) -> Any:
    """tiny_world.answers of a DiT whose self-attention calls the norm of its queries another name. It is no mistake."""
    made = tiny_world.make_task

    def renamed(*args: Any) -> Any:
        task = made(*args)
        for module in task.pieces[0].modules():
            if isinstance(module, SelfAttention):
                module.query_norm = module._modules.pop("q_layernorm")
        return task

    of_new_name = property(lambda attention: attention.query_norm)
    with (
        mock.patch.object(tiny_world, "make_task", renamed),
        mock.patch.object(SelfAttention, "q_layernorm", of_new_name, create=True),
    ):
        return tiny_world.answers(cache, run_dir, parallel, 1, 1)


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


def head_norms_not_summed() -> contextlib.AbstractContextManager:
    """A weight that sees the heads of one tensor-parallel rank keeps their part of its gradient."""
    return mock.patch.object(layers, "mark_own_heads", lambda module: module)


def copies_counted_in_norm() -> contextlib.AbstractContextManager:
    """The gradient norm counts what tensor-parallel ranks have alike once a rank."""
    return mock.patch.object(tensor_parallel, "param_is_not_tensor_parallel_duplicate", lambda *_args, **_kwargs: True)


def shared_counted_in_norm() -> contextlib.AbstractContextManager:
    """The gradient norm counts what pipeline stages share once a stage."""
    return mock.patch.object(optimizer, "param_is_not_shared", lambda _param: True)


@contextlib.contextmanager
def adapters_added_on_each_tensor_rank() -> Iterator[None]:
    """A whole B is added by each rank before the sum over the ranks of a layer's columns, so it counts tp times."""
    forward = Adapter.forward

    def summed(self: Adapter, x_LBD: Tensor) -> Tensor:
        added = forward(self, x_LBD)
        return added * self.tp.size() if self.divided_dim == 1 else added

    with mock.patch.object(Adapter, "forward", summed):
        yield


def adapters_gradients_not_summed() -> contextlib.AbstractContextManager:
    """The whole one of an adapter's matrices keeps the gradient of this rank's tokens alone."""
    return mock.patch.object(lora, "mark_sees_part", lambda param: None)


def adapters_gradients_not_passed_on_whole() -> contextlib.AbstractContextManager:
    """A whole A has the gradient that this rank's rows of B give."""
    return mock.patch.object(lora, "copy_to_tensor_model_parallel_region", lambda h_LBR, group: h_LBR)


MISTAKES: dict[str, Callable[[], contextlib.AbstractContextManager]] = {
    "no sequence reduction": no_sequence_reduction,
    "wrong order of context": wrong_order_of_context,
    "context averaged twice": context_averaged_twice,
    "same draws on tensor ranks": same_draws_on_tensor_ranks,
    "head norms not summed": head_norms_not_summed,
    "copies counted in the norm": copies_counted_in_norm,
    "shared counted in the norm": shared_counted_in_norm,
    "adapters added on each tensor rank": adapters_added_on_each_tensor_rank,
    "adapters' gradients not summed": adapters_gradients_not_summed,
    "adapters' gradients not passed on whole": adapters_gradients_not_passed_on_whole,
}
