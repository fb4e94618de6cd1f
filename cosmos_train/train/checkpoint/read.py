"""Reading the files of a checkpoint straight into the tensors that they belong in.

Upstream reads each tensor that a rank needs anything of, whole, into fresh memory, and copies from there: the pages of
that memory cost as much as reading does. Here no more is read than is needed, whatever layout wrote the file, and what
is wanted in main memory and in the stored format is read to where it belongs.
"""

import itertools
from contextlib import AbstractContextManager
from dataclasses import replace
from io import IOBase
from typing import cast

import torch
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.futures import Future

from cosmos_train.parallel.flat_range import runs
from cosmos_train.parallel.mcore_private import reading_with
from cosmos_train.parallel.torch_private import StorageInfo, first_byte
from cosmos_train.train.checkpoint.metadata import PlainReader


class InPlaceReader(PlainReader):
    """Reads what checkpoint.files.write_file wrote: every tensor in the order of its rows, with nothing around it."""

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Read tensors, in the order of the files, and leave what are none to upstream.

        Raises:
            OSError, RuntimeError: a file is gone or damaged, or ends before what is to be read of it.
        """
        tensors = [item for item in plan.items if item.type is LoadItemType.TENSOR]
        tensors.sort(key=lambda item: (self._where(item).relative_path, self._where(item).offset))
        for name, of_file in itertools.groupby(tensors, lambda item: self._where(item).relative_path):
            with self.fs.create_stream(self.fs.concat_path(self.path, name), "rb") as file:
                for item in of_file:
                    self._read(cast(IOBase, file), item, planner)
        return super().read_data(
            replace(plan, items=[i for i in plan.items if i.type is LoadItemType.BYTE_IO]), planner
        )

    def _where(self, item: ReadItem) -> StorageInfo:
        return self.storage_data[item.storage_index]

    def _read(self, file: IOBase, item: ReadItem, planner: LoadPlanner) -> None:
        """One box of a stored tensor."""
        stored = self.read_metadata().state_dict_metadata[item.storage_index.fqn]
        assert isinstance(stored, TensorStorageMetadata)
        chunk = next(chunk for chunk in stored.chunks if chunk.offsets == item.storage_index.offset)
        target, where, dtype = planner.resolve_tensor(item).detach(), self._where(item), stored.properties.dtype
        is_in_place = target.dtype == dtype and target.device.type == "cpu" and target.is_contiguous()
        values = target if is_in_place else torch.empty(item.lengths, dtype=dtype)
        begin = first_byte(file, where)
        left = values.view(-1).view(torch.uint8).numpy().data
        for run in runs(chunk.sizes, (tuple(item.storage_offsets), tuple(item.lengths))):
            file.seek(begin + run.start * dtype.itemsize)
            num_bytes = (run.stop - run.start) * dtype.itemsize
            _fill(left[:num_bytes], file)
            left = left[num_bytes:]
        if not is_in_place:
            target.copy_(values)
        planner.commit_tensor(item, target)


def _fill(left: memoryview, file: IOBase) -> None:
    while left:
        count = file.readinto(left)  # pyright: ignore[reportAttributeAccessIssue] of files that are opened to be read
        if not count:
            raise OSError("a file of the checkpoint ends too early")
        left = left[count:]


def reading_in_place() -> AbstractContextManager[None]:
    """megatron-core reads with InPlaceReader inside, in all threads."""
    return reading_with(InPlaceReader)
