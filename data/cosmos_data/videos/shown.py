"""How pictures are to be shown: what a file says of them beyond their samples, and frames brought into that form.

A file may want its pictures turned or mirrored, its pixels not square, its light of high range, its lines of two
moments, its background see-through. `Meaning` is what the probe finds; `Rules` say what the user wants made of it, and
the manifest's columns what is made of it (`Pictures.treatment`), so whatever is made of a manifest is a function of it.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

import av
import av.error
import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import Type
from av.video.plane import VideoPlane
from av.video.reformatter import Interpolation, VideoReformatter

from cosmos_data.errors import DataError
from cosmos_data.manifests.clip import Pictures
from cosmos_data.videos.opened import BadVideoError
from cosmos_data.videos.tone_mapping import to_standard_range

# Chroma interpolated and rounded to nearest: within half a level of the formula (the default is up to 11 levels off
# and 1.3 too dark on average), and of even heights bit for bit what DALI's CPU decoder computes.
ACCURATE = (
    Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)
SCALED = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)
# Names of AVColorTransferCharacteristic, AVColorPrimaries and AVColorRange; 2 (0 of the range) is "unspecified".
TRANSFERS = {1: "bt709", 4: "gamma22", 5: "gamma28", 6: "bt601", 7: "smpte240m", 8: "linear", 13: "srgb"}
TRANSFERS |= {14: "bt2020", 15: "bt2020", 16: "pq", 18: "hlg"}
PRIMARIES = {
    1: "bt709",
    4: "bt470m",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    9: "bt2020",
    11: "p3dci",
    12: "p3d65",
}
RANGES = {1: "limited", 2: "full"}
HIGH_RANGE = ("pq", "hlg")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """They say what is made of unusual pictures. Kept: their samples are taken as if they were plain."""

    pixels: Literal["square", "stored"] = "square"
    """square: pictures are made as wide as they are to be shown, where pixels are not square."""
    hdr: Literal["tone_map", "refuse", "keep"] = "tone_map"
    """PQ and HLG: shown as a screen of standard range shows them (BT.2390), or not taken."""
    interlaced: Literal["deinterlace", "refuse", "keep"] = "deinterlace"
    """Pictures of two moments: made those of one by FFmpeg's bwdif, or not taken."""
    background: str = "000000"
    """RRGGBB of what lies behind transparent pictures, or keep: colours as they are stored."""

    def __post_init__(self) -> None:
        if self.background != "keep" and _colour(self.background) is None:
            raise DataError(f"background={self.background!r} is no colour; use six hexadecimal digits, or keep")


class Orientation(NamedTuple):
    """Stored pictures are mirrored (left and right change places), then turned counter-clockwise."""

    rotation_deg: int
    is_mirrored: bool

    def upright_size(self, height_px: int, width_px: int) -> tuple[int, int]:
        """Return height and width as shown, of those as stored."""
        return (width_px, height_px) if self.rotation_deg % 180 else (height_px, width_px)


AS_STORED = Orientation(rotation_deg=0, is_mirrored=False)


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """Return the frame's display matrix as one of eight orientations.

    Raises `BadVideoError` where it turns by no quarter turns.
    """
    matrix = frame.side_data.get(Type.DISPLAYMATRIX)  # pyright: ignore[reportArgumentType, reportCallIssue]
    if matrix is None:
        return Orientation(frame.rotation % 360, False)
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    is_mirrored = a * d - b * c < 0
    if is_mirrored:  # rows are of the stored x and y: with x reversed it is a plain rotation
        a, b = -a, -b
    turned_deg = -math.degrees(math.atan2(b, a))
    if abs(turned_deg - 90 * round(turned_deg / 90)) > 1:
        raise BadVideoError(f"it is to be shown turned by {turned_deg:.0f} degrees; only quarter turns can be read")
    return Orientation(90 * round(turned_deg / 90) % 360, is_mirrored)


@dataclass(frozen=True, kw_only=True, slots=True)
class Meaning:
    """A file says this of its pictures; see `Pictures` for the fields of the same names."""

    rotation_deg: int
    is_mirrored: bool
    pixel_aspect: str
    transfer: str
    primaries: str
    color_range: str
    field_order: str
    has_alpha: bool

    @classmethod
    def of(cls, frame: av.VideoFrame, pixel_aspect: Fraction | None, *, field_order: str) -> "Meaning":
        """Read it off a decoded frame and what its stream says."""
        orientation = orientation_of(frame)
        aspect = pixel_aspect if pixel_aspect and pixel_aspect > 0 else Fraction(1)
        return cls(
            rotation_deg=orientation.rotation_deg,
            is_mirrored=orientation.is_mirrored,
            pixel_aspect=f"{aspect.numerator}:{aspect.denominator}",
            transfer=TRANSFERS.get(int(frame.color_trc), ""),
            primaries=PRIMARIES.get(int(frame.color_primaries), ""),
            color_range=RANGES.get(int(frame.color_range), ""),
            field_order=field_order,
            has_alpha=_has_alpha(frame),
        )


class Treatment(NamedTuple):
    """This is made of a file's pictures, which come out of this size, [height_px, width_px]."""

    height_px: int
    width_px: int
    is_squared: bool
    is_tone_mapped: bool
    is_deinterlaced: bool
    background: str


def treatment_of(meaning: Meaning, height_px: int, width_px: int, rules: Rules) -> Treatment:
    """Decide what the rules make of a file whose stored pictures are of this size.

    Raises `BadVideoError` where a rule refuses it.
    """
    is_hdr, is_interlaced = meaning.transfer in HIGH_RANGE, meaning.field_order != "progressive"
    if is_hdr and rules.hdr == "refuse":
        raise BadVideoError(f"it is of high dynamic range ({meaning.transfer}), which is refused (hdr)")
    if is_interlaced and rules.interlaced == "refuse":
        raise BadVideoError("it is interlaced, which is refused (interlaced)")
    is_squared = rules.pixels == "square" and meaning.pixel_aspect != "1:1"
    if is_squared:
        width_px = _square_width(width_px, meaning.pixel_aspect)
    if meaning.rotation_deg % 180:
        height_px, width_px = width_px, height_px
    return Treatment(
        height_px,
        width_px,
        is_squared=is_squared,
        is_tone_mapped=is_hdr and rules.hdr == "tone_map",
        is_deinterlaced=is_interlaced and rules.interlaced == "deinterlace",
        background=rules.background if meaning.has_alpha and rules.background != "keep" else "",
    )


def _square_width(width_px: int, pixel_aspect: str) -> int:
    """Return the width of square pixels, to the nearest even number, which 4:2:0 video needs; pixels that are square
    already keep theirs."""
    if pixel_aspect == "1:1":
        return width_px
    return max(2, 2 * round(width_px * Fraction(pixel_aspect.replace(":", "/")) / 2))


class Show:
    """Brings frames of a clip into the form in which its manifest row says they are shown. One per thread."""

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures
        self._reformatter = VideoReformatter()
        turned = pictures.rotation_deg % 180 != 0
        self._width_px, self._height_px = pictures.width_px, pictures.height_px
        if turned:
            self._width_px, self._height_px = pictures.height_px, pictures.width_px

    def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Give the frame itself where it is a plain one; else one in RGB, upright and of the size to be shown."""
        pictures = self._pictures
        # A file of another size than the manifest says is told so by whoever reads it, and not made to fit.
        size = (_square_width(frame.width, pictures.pixel_aspect), frame.height)
        is_scaled = pictures.is_squared and size == (self._width_px, self._height_px)
        if not (is_scaled or pictures.is_tone_mapped or pictures.background):
            return frame
        size_px = (self._width_px, self._height_px) if is_scaled else (frame.width, frame.height)
        if pictures.is_tone_mapped:
            deep_HW3 = np.stack(self._planes(frame, size_px, "gbrp16le", np.uint16), axis=-1)
            rgb_HW3 = to_standard_range(deep_HW3, pictures.transfer)
        elif pictures.background:
            rgb_HW3 = _composited(self._planes(frame, size_px, "gbrap", np.uint8), pictures.background)
        else:
            rgb_HW3 = np.stack(self._planes(frame, size_px, "gbrp", np.uint8), axis=-1)
        orientation = orientation_of(frame)
        shown = av.VideoFrame.from_ndarray(np.ascontiguousarray(upright(rgb_HW3, orientation)), format="rgb24")
        shown.pts, shown.time_base = frame.pts, frame.time_base
        return shown

    def _planes(
        self, frame: av.VideoFrame, size_px: tuple[int, int], format_name: str, dtype: type
    ) -> list[np.ndarray]:
        """Return red, green, blue and what else there is, [H, W] each, of a picture of size_px = (W, H)."""
        made = self._reformatter.reformat(frame, *size_px, format=format_name, interpolation=SCALED, threads=1)
        green, blue, red, *more = (plane_pixels(plane, dtype) for plane in made.planes)
        return [red, green, blue, *more]


def upright(picture: np.ndarray, orientation: Orientation) -> np.ndarray:
    """Turn pictures [H, W, ...] as they are stored to how they are shown."""
    if orientation == AS_STORED:
        return picture
    mirrored = picture[:, ::-1] if orientation.is_mirrored else picture
    return np.rot90(mirrored, orientation.rotation_deg // 90)


def plane_pixels(plane: VideoPlane, dtype: type = np.uint8) -> np.ndarray:
    """Return the pixels [height_px, width_px] of a plane, where they lie."""
    width = plane.line_size // np.dtype(dtype).itemsize
    return np.frombuffer(memoryview(plane), dtype).reshape(plane.height, width)[:, : plane.width]


def deinterlaced(frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """Yield as many frames, those of two moments brought to one by FFmpeg's bwdif, which looks at the frames beside
    each."""
    graph: Graph | None = None
    for number, frame in enumerate(frames):
        graph = graph or filter_graph(frame, {"bwdif": "mode=send_frame:deint=interlaced"})
        frame.pts, frame.time_base = number, Fraction(1, 1)
        graph.push(frame)
        yield from _pulled(graph)
    if graph is not None:
        graph.push(None)
        yield from _pulled(graph)


def filter_graph(frame: av.VideoFrame, filters: Mapping[str, str]) -> Graph:
    """Return a graph of FFmpeg's filters of these names and arguments, one after the other, for frames like this
    one."""
    graph = Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1))
    between = [graph.add(name, arguments) for name, arguments in filters.items()]
    graph.link_nodes(source, *between, graph.add("buffersink")).configure()
    return graph


def _pulled(graph: Graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            pulled = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        assert isinstance(pulled, av.VideoFrame)
        yield pulled


def _has_alpha(frame: av.VideoFrame) -> bool:
    return frame.format.name == "pal8" or any(component.is_alpha for component in frame.format.components)


def _composited(planes: list[np.ndarray], background: str) -> np.ndarray:
    """Lay red, green, blue and alpha, uint8 [H, W] each and not multiplied by it, on the background: uint8 [H, W,
    3]."""
    behind, (*colours, alpha_HW) = _colour(background), planes
    assert behind is not None, "rules are checked when they are made"
    share = alpha_HW.astype(np.float32) / 255
    mixed = [colour * share + level * (1 - share) for colour, level in zip(colours, behind, strict=True)]
    return np.stack(mixed, axis=-1).round().astype(np.uint8)


def _colour(digits: str) -> tuple[int, int, int] | None:
    try:
        red, green, blue = bytes.fromhex(digits)
    except ValueError:
        return None
    return red, green, blue
