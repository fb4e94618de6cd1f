"""Picture files as people see them: upright, in RGB of 8 bits, on a background where they are transparent."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

from cosmos_data.errors import DataError
from cosmos_data.videos.shown import Rules

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What is tried. By content, whatever a file is called; Pillow knows more, some of which run other programs."""
ANIMATED = ("AVIF", "GIF", "PNG", "WEBP")
"""Where further pictures are the ones to show next, and not pages, previews or depths."""
BACKGROUND_RGB = tuple(bytes.fromhex(Rules().background))
"""Behind what is transparent: the same as behind a film's, where nothing else is asked for."""


def read_pictures(path: Path, num_frames: int) -> list[np.ndarray] | None:
    """Return the first pictures, at most `num_frames`, of a file, uint8 [H, W, 3]; None where it is not in FORMATS.

    Raises DataError where it is damaged, or of numbers that are no colours.
    """
    try:
        with Image.open(path, formats=FORMATS) as file:
            if file.format not in ANIMATED:
                return [rgb_of(file)]
            frames = zip(range(num_frames), ImageSequence.Iterator(file), strict=False)
            return [rgb_of(frame) for _, frame in frames]
    except UnidentifiedImageError:
        return None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as a picture: {error}; save it again as PNG") from error


def rgb_of(image: Image.Image) -> np.ndarray:
    """Return what people see, upright, uint8 [H, W, 3]. Raises ValueError where its numbers are no colours."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I") or upright.mode == "F":
        return _from_wide_gray(upright)
    if not upright.has_transparency_data:
        return np.array(upright.convert("RGB"))
    seen = upright.convert("RGBA")
    behind = Image.new("RGBA", seen.size, (*BACKGROUND_RGB, 255))
    return np.array(Image.alpha_composite(behind, seen).convert("RGB"))


def _from_wide_gray(image: Image.Image) -> np.ndarray:
    """Read a gray picture of 16 bits, of which 65535 is white. Pillow itself would cut off all that is above 255."""
    gray_HW = np.asarray(image)
    if gray_HW.dtype.kind == "f" or gray_HW.min() < 0 or gray_HW.max() > 65535:
        raise ValueError(f"its pixels are {gray_HW.dtype} numbers, and none of a gray of 8 or 16 bits")
    return np.repeat((gray_HW / 257).round().astype(np.uint8)[..., None], 3, axis=2)
