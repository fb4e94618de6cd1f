"""Names that torch keeps private: each stands here and nowhere else, as it was seen in torch 2.13.0.

torch promises none of them. tests/parallel/test_torch_private.py says of each that it is there and does what is relied
upon, so that an upgrade which takes one away fails by its name.
"""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from io import BytesIO, IOBase
from typing import IO, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import filesystem
from torch.distributed.checkpoint.planner import WriteItem
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.checkpoint.utils import _create_file_view

from cosmos_train.config.environment import gloo_interfaces

StorageInfo = filesystem._StorageInfo
"""Where an item lies in a file of a checkpoint. It has no public name, and a checkpoint's metadata hold it."""
FusedUpdate = Callable[..., None]
"""Adam's kernel over lists of parameters, gradients, both moments, their maxima, and steps."""

# torch.optim's fused Adam calls these kernels, but counts the steps of each parameter (see cosmos_train.parallel.adam).
fused_adam: FusedUpdate = torch._fused_adam_  # pyright: ignore[reportPrivateImportUsage]
fused_adamw: FusedUpdate = torch._fused_adamw_  # pyright: ignore[reportPrivateImportUsage]

SHARES_DEVICES = "_shares_devices"
"""The mark of a constructor that `share_gloo_devices` has put in the place of torch's."""
OPTIMIZERS_BOOKKEEPING = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
NOT_COMPILED = "__dynamo_disable"
"""Under this name torch keeps, on a function that is not to be compiled, what the compiler made of it."""
TENSOR_RECORD = "data/0"
"""Where torch.save puts the bytes of a tensor that is all there is to save."""


def copy_each(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Copy each source into its target, in one call that holds the interpreter for none of them."""
    torch._foreach_copy_(targets, sources)  # pyright: ignore[reportPrivateImportUsage]


def lerp_each(starts: list[Tensor], ends: list[Tensor], weight: float) -> None:
    """Move each start by `weight` of its way to its end, in place, in one call for all of a model's tensors."""
    if not starts:  # of a stage that has nothing to train
        return
    torch._foreach_lerp_(starts, ends, weight)  # pyright: ignore[reportPrivateImportUsage]


def without_function_modes() -> AbstractContextManager[None]:
    """Switch torch function modes off inside: the public switch stops overrides of tensor classes alone."""
    return torch._C.DisableTorchFunction()


def fake_store() -> dist.Store:  # pyright: ignore[reportPrivateImportUsage]
    """Return a store for the backend "fake", which this import registers: its ranks need not be there."""
    from torch.testing._internal.distributed.fake_pg import FakeStore  # of torch's tests: only a plan needs it

    return FakeStore()


def share_gloo_devices() -> None:
    """Have all gloo groups that this process makes from here on listen through the same devices.

    torch opens devices of its own for each group, and each is a thread that wakes a hundred times a second for as long
    as the group lives. megatron-core makes some fifty groups a layout, on GPUs too. A second call does nothing.
    """
    ours: Any = dist.ProcessGroupGloo
    open_alone = ours.__init__
    if hasattr(open_alone, SHARES_DEVICES):
        return

    @functools.wraps(open_alone)
    def open_shared(group: Any, store: Any, rank: int, size: int, timeout: timedelta) -> None:
        options = ours._Options()
        options._devices = _gloo_devices()
        options._threads = 2 * len(options._devices)
        options._timeout = timeout
        open_alone(group, store, rank, size, options)  # its other form

    setattr(open_shared, SHARES_DEVICES, True)
    ours.__init__ = open_shared


@functools.cache
def _gloo_devices() -> list[dist.ProcessGroupGloo.Device]:
    """Open what a group of torch's own would: the named interfaces, or the one that the host's name leads to."""
    gloo = dist.ProcessGroupGloo
    return [gloo.create_device(interface=name) for name in gloo_interfaces()] or [gloo.create_default_device()]


def keep_compiler_from_optimizers() -> None:
    """Have torch's optimizers run without loading torch's compiler, which takes a process seconds of its start.

    torch marks their bookkeeping as not to be compiled, and on its first call the mark loads the compiler. Nothing here
    compiles an optimizer, so each function stands for itself where the mark keeps what it found. A second call does
    nothing.
    """
    for name in OPTIMIZERS_BOOKKEEPING:
        marked = getattr(torch.optim.Optimizer, name).__wrapped__
        if not hasattr(marked, NOT_COMPILED):
            setattr(marked, NOT_COMPILED, marked)


def write_item(stream: IO[bytes], item: WriteItem, data: Tensor | BytesIO, file_name: str) -> WriteResult:
    """Append one item to a file as torch.distributed.checkpoint reads it. The public writer makes its own files."""
    transforms, tensors_by = filesystem._StorageWriterTransforms(), filesystem.SerializationFormat.TORCH_SAVE
    stream_ = cast(IOBase, stream)
    return filesystem._write_item(transforms, stream_, data, item, file_name, serialization_format=tensors_by)


def first_byte(file: IOBase, where: StorageInfo) -> int:
    """Return where the values of a stored tensor begin in a checkpoint's file. torch.load copies what it reads.

    Raises:
        RuntimeError: the bytes there are not what torch.save wrote.
    """
    view = cast(IO[bytes], _create_file_view(file, where.offset, where.length))
    archive = torch._C.PyTorchFileReader(view)
    offset_of: Callable[[str], int] = archive.get_record_offset  # pyright: ignore[reportAttributeAccessIssue]
    return where.offset + offset_of(TENSOR_RECORD)
