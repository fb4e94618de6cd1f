"""Small files that others read at any moment: complete or absent. No torch in here."""

from pathlib import Path

from cosmos_data.whole_file import aside_name, whole_file


def write_whole(path: Path, text: str) -> None:
    """Write aside and rename. A disk that is full leaves what was there."""
    with whole_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_new(path: Path, text: str) -> bool:
    """Write it where there is nothing of that name, whole at once; whether that was so. Of several, one does."""
    aside = aside_name(path)
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
