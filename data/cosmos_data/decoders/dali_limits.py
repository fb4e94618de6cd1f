"""Which clips NVIDIA DALI can not decode to the frames that PyAV gives, and why: judged clip by clip, and counted for
whole manifests from their columns.

BT.709 is left to PyAV. This was tried with DALI 2.4 on a CPU (figures in benchmarks/RESULTS.md): `fn.decoders.video`
gives RGB only and has no option for its colours; it obeys the tag for the range of levels and ignores that for the
matrix.
`fn.experimental.readers.video` offers YCbCr, which fails there ("could not convert frame data"), and takes neither
bytes nor frame numbers. RGB that was made by BT.601 can be turned into that of BT.709 within one level where no colour
was cut off at 0 or 255, and by up to 13 levels of 255 wrong, in natural pictures, where one was.
"""

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cosmos_data.manifests.clip import Pictures
from cosmos_data.manifests.manifest import Manifest

# What `fn.decoders.video` of DALI 2.4 decodes.
DALI_CPU_CODECS = frozenset({"mjpeg", "vp8", "vp9"})
DALI_PIXEL_FORMATS = frozenset({"yuv420p", "yuvj420p"})
DALI_GPU_CODECS = DALI_CPU_CODECS | {"av1", "h264", "hevc", "mpeg4"}


class Traits(NamedTuple):
    """DALI's ability hangs on these alone; see `Pictures` for the fields of the same names."""

    codec: str
    pixel_format: str
    color_matrix: str
    color_range: str
    is_turned: bool
    is_one_of_several: bool
    """The file has other videos too (a cover, a preview)."""
    is_mirrored: bool
    is_squared: bool
    is_tone_mapped: bool
    is_deinterlaced: bool
    has_background: bool
    is_numbered: bool
    """The k-th frame has the k-th time stamp of a steady rate, and none is stamped before zero."""

    @classmethod
    def of(cls, pictures: Pictures) -> "Traits":
        """Read them off a clip, or a view of one."""
        return cls(
            codec=pictures.codec,
            pixel_format=pictures.pixel_format,
            color_matrix=pictures.color_matrix,
            color_range=pictures.color_range,
            is_turned=pictures.rotation_deg != 0,
            is_one_of_several=pictures.stream_index is not None,
            is_mirrored=pictures.is_mirrored,
            is_squared=pictures.is_squared,
            is_tone_mapped=pictures.is_tone_mapped,
            is_deinterlaced=pictures.is_deinterlaced,
            has_background=pictures.background != "",
            is_numbered=pictures.seek == "rate" and pictures.first_pts is not None and pictures.first_pts >= 0,
        )

    @classmethod
    def columns_of(cls, clips: Manifest) -> dict[str, Any]:
        """Read [rows] of each trait of the rows' own pictures (their first view). No text becomes a Python object."""
        plain = ("codec", "pixel_format", "color_matrix", "color_range")
        flags = ("is_mirrored", "is_squared", "is_tone_mapped", "is_deinterlaced")
        columns: dict[str, Any] = {name: clips.arrow_column(name) for name in (*plain, *flags)}
        columns["is_turned"] = clips.column("rotation_deg") != 0
        columns["is_one_of_several"] = ~np.isnan(clips.column("stream_index").astype(float))
        columns["has_background"] = pc.not_equal(clips.arrow_column("background"), "")  # pyright: ignore[reportAttributeAccessIssue]
        # A missing stamp becomes NaN, which is no number from zero on.
        first_pts_N = clips.column("first_pts").astype(float)
        has_rate_N = pc.equal(clips.arrow_column("seek"), "rate").to_numpy()  # pyright: ignore[reportAttributeAccessIssue]
        columns["is_numbered"] = has_rate_N & (first_pts_N >= 0)
        return {name: columns[name] for name in cls._fields}


def dali_obstacle(pictures: Pictures, device_type: str) -> str | None:
    """Say why DALI cannot decode this clip, or view of one, on a device of this type (cpu, cuda); None if it can."""
    return _obstacle(Traits.of(pictures), device_type)


def count_obstacles(manifests: Iterable[Manifest], device_type: str) -> Counter[str | None]:
    """Count the clips that each obstacle keeps from DALI; None: those that none does. No clip is made for it: rows are
    counted by their traits, of which a data set has few different ones."""
    counts: Counter[str | None] = Counter()
    for manifest in manifests:
        if not len(manifest):
            continue
        table = pa.table(Traits.columns_of(manifest))
        for row in table.group_by(list(Traits._fields)).aggregate([([], "count_all")]).to_pylist():
            num_clips = row.pop("count_all")
            counts[_obstacle(Traits(**row), device_type)] += num_clips
    return counts


@lru_cache(maxsize=1024)
def _obstacle(traits: Traits, device_type: str) -> str | None:
    codecs = DALI_GPU_CODECS if device_type == "cuda" else DALI_CPU_CODECS
    if traits.codec not in codecs:
        return f"DALI on {device_type} has no decoder for {traits.codec}"
    if traits.pixel_format not in DALI_PIXEL_FORMATS:
        return f"DALI is trusted with 8-bit 4:2:0 video only, not with {traits.pixel_format}"
    if traits.is_turned:
        return "DALI does not turn pictures upright"
    treatments = {
        "one video of several in a file": traits.is_one_of_several,
        "mirrored": traits.is_mirrored,
        "with square pixels": traits.is_squared,
        "tone-mapped": traits.is_tone_mapped,
        "deinterlaced": traits.is_deinterlaced,
        "on a background": traits.has_background,
    }
    if any(treatments.values()):
        wanted = ", ".join(name for name, applies in treatments.items() if applies)
        return f"DALI gives pictures as they are stored, not {wanted}"
    # On a CPU its frames are those of PyAV for both ranges.
    if device_type == "cuda" and traits.color_range == "full" and not traits.pixel_format.startswith("yuvj"):
        return f"DALI on {device_type} is not trusted with full-range {traits.pixel_format}"
    # It ignores the tag and reads every stream as BT.601; PyAV obeys it.
    if traits.color_matrix != "bt601":
        return f"DALI reads {traits.color_matrix} colours as bt601"
    # It drops frames that are stamped before zero, which would shift all others.
    if not traits.is_numbered:
        return "the time stamps do not number the frames"
    return None
