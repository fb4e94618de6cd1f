"""Reading what upstream pickles of a checkpoint, its `.metadata`, so that a file from outside can not run code.

It says which tensors there are and where they lie; the tensors themselves are read with weights_only upstream.
"""

import pickle
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, StorageMeta

from cosmos_train.train.checkpoint_folder import CheckpointError

METADATA = ".metadata"
ALLOWED = {
    "pathlib": {"PosixPath"},
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.planner": {
        "BytesIOWriteData",
        "SavePlan",
        "TensorWriteData",
        "WriteItem",
        "WriteItemType",
    },
}
"""All that may be named in it, besides torch's number types: classes of plain values, and torch.layout by its name."""


class PlainReader(FileSystemReader):
    """Reads a checkpoint's files as upstream does, and its metadata as a file of plain values."""

    _metadata: Metadata | None = None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Read once, and kept. Raises CheckpointError where the file asks for more than plain values."""
        if self._metadata is None:
            path = Path(self.path) / METADATA
            with path.open("rb") as file:
                try:
                    found: Metadata = _Unpickler(file).load()
                except (pickle.UnpicklingError, EOFError) as error:
                    raise CheckpointError(
                        f"{path} is damaged, or holds more than a checkpoint's metadata, and is not read, since a "
                        f"pickle can run code: {error}; take the checkpoint from another copy"
                    ) from error
            if found.storage_meta is None:
                found.storage_meta = StorageMeta()
            found.storage_meta.load_id = self.load_id
            self._metadata = found
        return self._metadata


def files_of(folder: Path, kinds: Collection[str]) -> set[str]:
    """Names of the files that one opens to read tensors of these kinds, such as model, ema or optimizer.

    Raises:
        CheckpointError: the metadata are damaged.
    """
    stored: dict[MetadataIndex, _StorageInfo] = PlainReader(folder).read_metadata().storage_data
    tensors = {where.relative_path for index, where in stored.items() if index.fqn.partition(".")[0] in kinds}
    return {METADATA, "metadata.json", "common.pt", "run.yaml", *tensors}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or name in ALLOWED.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")
