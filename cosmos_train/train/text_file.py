"""Small files that others read at any moment: complete or absent. No torch in here."""

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write aside and rename. A disk that is full leaves what was there."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
