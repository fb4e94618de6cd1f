"""Reading the files of a checkpoint straight into the tensors that they belong in.

Upstream reads each tensor into fresh memory and copies it from there: the pages of that memory cost as much as reading
does. What is wanted as it is stored, in main memory, needs neither.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from io import IOBase
from typing import IO, cast

import torch
from megatron.core.dist_checkpointing.strategies import torch as mcore_torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.utils import _create_file_view
from torch.futures import Future

from cosmos_train.train.checkpoint_metadata import PlainReader

RECORD = "data/0"
"""Where torch.save puts the bytes of a tensor that is all there is to save."""


class InPlaceReader(PlainReader):
    """Reads what checkpoint_files.write_file wrote: every tensor in the order of its rows, with nothing around it."""

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Read in place what can be, in the order of the files, and leave the others to upstream.

        Raises:
            OSError: a file ends before what is to be read of it.
        """
        others = []
        items = sorted(plan.items, key=lambda item: (self._where(item).relative_path, self._where(item).offset))
        for name, of_file in itertools.groupby(items, lambda item: self._where(item).relative_path):
            with self.fs.create_stream(self.fs.concat_path(self.path, name), "rb") as file:
                others += [item for item in of_file if not self._read_in_place(cast(IOBase, file), item, planner)]
        return super().read_data(replace(plan, items=others), planner)

    def _where(self, item: ReadItem) -> _StorageInfo:
        return self.storage_data[item.storage_index]

    def _read_in_place(self, file: IOBase, item: ReadItem, planner: LoadPlanner) -> bool:
        """Whether it could be."""
        stored = self.read_metadata().state_dict_metadata[item.storage_index.fqn]
        if item.type is LoadItemType.BYTE_IO or not isinstance(stored, TensorStorageMetadata):
            return False
        chunk = next(chunk for chunk in stored.chunks if chunk.offsets == item.storage_index.offset)
        target, where = planner.resolve_tensor(item).detach(), self._where(item)
        is_as_stored = item.lengths == chunk.sizes and target.dtype == stored.properties.dtype
        if not (is_as_stored and target.device.type == "cpu" and target.is_contiguous()):
            return False
        archive = torch._C.PyTorchFileReader(cast(IO[bytes], _create_file_view(file, where.offset, where.length)))
        offset_of: Callable[[str], int] = archive.get_record_offset  # pyright: ignore[reportAttributeAccessIssue]
        file.seek(where.offset + offset_of(RECORD))
        _fill(target, file)
        planner.commit_tensor(item, target)
        return True


def _fill(target: Tensor, file: IOBase) -> None:
    left = target.view(-1).view(torch.uint8).numpy().data
    while left:
        count = file.readinto(left)  # pyright: ignore[reportAttributeAccessIssue] of files that are opened to be read
        if not count:
            raise OSError("a file of the checkpoint ends too early")
        left = left[count:]


def read_in_place() -> None:
    """Have megatron-core read with InPlaceReader from now on: it has no way to be given one."""
    mcore_torch._get_filesystem_reader = lambda folder, cache_metadata=False: InPlaceReader(folder)
