"""Small files that others read at any moment: complete or absent. No torch in here."""

import os
import platform
import uuid
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write aside and rename. A disk that is full leaves what was there."""
    aside = _beside(path)
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_new(path: Path, text: str) -> bool:
    """Write it where there is nothing of that name, whole at once; whether that was so. Of several, one does."""
    aside = _beside(path)
    try:
        aside.write_text(text, encoding="utf-8")
        path.hardlink_to(aside)
        return True
    except FileExistsError:
        return aside.stat().st_nlink > 1  # over NFS the answer to a call that was made may be lost
    except PermissionError:  # what a file system without such links says
        return _write_first(path, text)
    finally:
        aside.unlink(missing_ok=True)


def _write_first(path: Path, text: str) -> bool:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        return False
    return True


def _beside(path: Path) -> Path:
    """A name that no other process has, on any node."""
    return path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
