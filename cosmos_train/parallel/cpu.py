"""All that makes megatron-core 0.16.1 run on a CPU with gloo. Nothing else in the project knows.

megatron-core names CUDA in places where any device would do. `activate()` answers each of them once per process, says
so in the log, and refuses to run where a CUDA device is in use. tests/parallel/test_cpu.py has one test per point:

  1. tensors made with device="cuda" or torch.cuda.current_device()   -> a torch function mode that says "cpu"
  2. Tensor.cuda(), Module.cuda(), torch.cuda.synchronize()           -> nothing to do
  3. gradient clipping and the distributed optimizer compare          -> the mode spells CPU types the CUDA way
     tensor.type() with "torch.cuda.FloatTensor"
  4. RNG states per region (dropout, recompute) live on the device    -> the same tracker over the CPU generator
  5. the optimizer expects TransformerEngine's or apex' FusedAdam     -> cosmos_train.parallel.adam's
"""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from megatron.core.tensor_parallel import random as mcore_random
from torch.overrides import TorchFunctionMode

from cosmos_train.parallel import adam, mcore_private
from cosmos_train.parallel.torch_private import without_function_modes

log = logging.getLogger(__name__)
_CPU = torch.device("cpu")
_active: "CudaMeansCpu | None" = None


def is_active() -> bool:
    """Whether this process runs megatron-core on the CPU through this module."""
    return _active is not None


def torch_alone() -> contextlib.AbstractContextManager[None]:
    """torch without point 1 inside, where megatron-core makes no tensor: it costs each operation some microseconds, of
    which a small model that generates code by code has as many as it has work (benchmarks/generation.py)."""
    return without_function_modes() if is_active() else contextlib.nullcontext()


def activate() -> None:
    """Answer every point above, for the rest of the process. A second call does nothing.

    Raises:
        RuntimeError: a CUDA context exists in this process; its tensors would be mistaken for CPU tensors.
    """
    global _active
    if _active is not None:
        return
    if torch.cuda.is_initialized():
        raise RuntimeError(
            "the CPU adapter was asked for in a process that already uses a CUDA device; "
            "decide on the device before the first tensor is made"
        )
    _active = CudaMeansCpu()
    _active.__enter__()  # for the life of the process: megatron-core makes tensors at any time

    # A function of its own for each name: torch.compile keeps a rule per function and refuses one with two rules.
    torch.cuda.current_device = lambda: _CPU  # pyright: ignore[reportAttributeAccessIssue]
    torch.cuda.synchronize = lambda device=None: None
    torch.cuda.set_device = lambda device: None

    mcore_private.replace_cuda_rng_state(
        lambda *_args, **_kwargs: torch.default_generator.get_state(),
        lambda state, *_args, **_kwargs: torch.default_generator.set_state(state) and None,
    )
    mcore_random.CudaRNGStatesTracker = CpuRngStatesTracker
    torch.cuda.get_rng_state = lambda device="cuda": torch.default_generator.get_state()
    torch.cuda.manual_seed = lambda seed: torch.default_generator.manual_seed(seed) and None

    adam.use_own_adam()
    for message in ("When using async grad allreduce", "Apex is not installed", "The .grad attribute of a Tensor"):
        warnings.filterwarnings("ignore", message)  # advice for GPUs, and an internal look-up of the schedules
    log.info("no CUDA device: megatron-core runs on the CPU (cosmos_train.parallel.cpu)")


class CudaMeansCpu(TorchFunctionMode):
    """While active, a CUDA device in a torch call means the CPU, and CPU tensors give their type the CUDA way."""

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.Tensor.type and len(args) == 1 and not kwargs:
            return func(*args).replace("torch.", "torch.cuda.", 1)
        device = kwargs.get("device")
        if device is not None and _is_cuda(device):
            kwargs = {**kwargs, "device": _CPU}
        return func(*args, **kwargs)


def _is_cuda(device: Any) -> bool:
    return (isinstance(device, str) and device.startswith("cuda")) or (
        isinstance(device, torch.device) and device.type == "cuda"
    )


class CpuRngStatesTracker(mcore_random.CudaRNGStatesTracker):
    """Named RNG states that take turns in the CPU generator.

    On a GPU these states belong to another generator than the process's own, and upstream's `fork` warns when the CPU
    generator moved meanwhile. Here it is the one that has to move, and to come back.
    """

    @contextlib.contextmanager
    def fork(self, name: str = mcore_private.RNG_TRACKER_NAME) -> Iterator[None]:
        """Draw from the state `name` inside; the generator continues outside as if nothing had been drawn."""
        if name not in self.states_:
            raise KeyError(f"RNG state {name!r} was not added; there are {sorted(self.states_)}")
        outside = torch.default_generator.get_state()
        torch.default_generator.set_state(self.states_[name])
        try:
            yield
        finally:
            self.states_[name] = torch.default_generator.get_state()
            torch.default_generator.set_state(outside)
