"""Tars of given members."""

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path


def write_tar(
    path: Path, members: Mapping[str, bytes] | Iterable[tuple[str, bytes]], kind: bytes = tarfile.REGTYPE, **fields
) -> Path:
    """kind, fields: of every member's header."""
    items = members.items() if isinstance(members, Mapping) else members
    with tarfile.open(path, "w") as tar:
        for name, content in items:
            info = tarfile.TarInfo(name)
            info.size, info.type = len(content), kind
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(content))
    return path
