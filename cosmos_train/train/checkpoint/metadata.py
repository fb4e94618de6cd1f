"""Reading what upstream pickles of a checkpoint, its `.metadata`, so that a file from outside can not run code.

It says which tensors there are and where they lie; the tensors themselves are read with weights_only upstream.
"""

import pickle
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, StorageMeta

from cosmos_train.conditions.action_statistics import ACTIONS
from cosmos_train.parallel.torch_private import StorageInfo
from cosmos_train.train.checkpoint.folder import CheckpointError

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
        """Read once, and kept. Raises CheckpointError where the file can not be read, or asks for more than values."""
        if self._metadata is None:
            found = _read(Path(self.path) / METADATA)
            if found.storage_meta is None:
                found.storage_meta = StorageMeta()
            found.storage_meta.load_id = self.load_id
            self._metadata = found
        return self._metadata


def _read(path: Path) -> Metadata:
    try:
        with path.open("rb") as file:
            found = _Unpickler(file).load()
    except OSError as error:
        raise CheckpointError(
            f"{path} can not be read ({error.strerror}); take the checkpoint from another copy"
        ) from error
    except Exception as error:  # pickle raises almost anything for bytes that are not its own
        raise CheckpointError(
            f"{path} is damaged, or holds more than a checkpoint's metadata, and is not read, since a "
            f"pickle can run code: {error}; take the checkpoint from another copy"
        ) from error
    parts = {"state_dict_metadata": dict, "storage_data": dict, "storage_meta": StorageMeta | None}
    wrong = [name for name, kind in parts.items() if not isinstance(getattr(found, name, ""), kind)]
    if not isinstance(found, Metadata) or wrong:
        raise CheckpointError(
            f"{path} is damaged: it is no checkpoint's metadata; take the checkpoint from another copy"
        )
    return found


def files_of(folder: Path, kinds: Collection[str]) -> set[str]:
    """Names of the files that one opens to read tensors of these kinds, such as model, ema or optimizer.

    What actions are normalised with is among them, which only models that read actions have.

    Raises:
        CheckpointError: the metadata are damaged.
    """
    stored: dict[MetadataIndex, StorageInfo] = PlainReader(folder).read_metadata().storage_data
    try:
        tensors = {where.relative_path for index, where in stored.items() if index.fqn.partition(".")[0] in kinds}
    except (AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{folder / METADATA} is damaged: {error}; take the checkpoint from another copy"
        ) from error
    return {METADATA, "metadata.json", "common.pt", "run.yaml", ACTIONS, *tensors}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or name in ALLOWED.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")
