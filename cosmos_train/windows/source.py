"""The one source of a world model's windows: of videos, or of images, by the step's number.

Steps are of one kind and alternate (arXiv 2501.03575): every rank agrees, and so does a run that was resumed. An image
is a video of one frame; in an image step each sample of the run stands for `images_per_video` of them. Whether windows
lie in a finished cache or are encoded when they are first wanted is the matter of their streams: here, and in all that
is trained on them, nothing depends on it.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import tee
from pathlib import Path
from typing import NamedTuple

from cosmos_data.sample_plan.order import Alternation
from cosmos_train.config.schema import WorldARRun, WorldDiTRun, WorldRun
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.windows.cached import open_cached
from cosmos_train.windows.filled import open_filled
from cosmos_train.windows.kept import keep
from cosmos_train.windows.stream import KINDS, Kind, Shape, WindowBatch, WindowFacts, WindowStream


class Turn(NamedTuple):
    """Says what a micro-batch reads."""

    kind: Kind
    places: Sequence[int]
    """In the stream of that kind."""
    numbers: Sequence[int]
    """See WindowBatch."""


class WindowSource:
    """The windows of each sample of the run."""

    def __init__(self, run: WorldRun, streams: Mapping[Kind, WindowStream]) -> None:
        """streams: of videos, and of images where run.image_share has any."""
        self._run, self.streams = run, streams
        share = image_share(run)
        self._turns = Alternation([share, 1 - share])

    @property
    def digest(self) -> str:
        """Return the name of all that sample indices point into."""
        videos = self.streams["video"].digest
        if "image" not in self.streams:
            return videos
        both = f"{videos}/{self.streams['image'].digest}/{self._run.image_share}"
        return hashlib.sha256(both.encode()).hexdigest()

    @property
    def facts(self) -> dict[Kind, WindowFacts]:
        """Return what is known of the windows of each kind that there is."""
        return {kind: stream.facts for kind, stream in self.streams.items()}

    @property
    def shapes(self) -> dict[Kind, Mapping[Shape, Fraction]]:
        """[C, T, H, W] of the windows of each kind, and their share."""
        return {kind: stream.facts.shapes for kind, stream in self.streams.items()}

    def keep(self, run_dir: Path) -> None:
        """Write down what the run is trained with (cosmos_train.windows.kept)."""
        keep(run_dir, self.streams)

    def batches(self, micro_batches: Iterable[Sequence[int]]) -> Iterator[WindowBatch]:
        """The windows of micro-batches of sample indices, each of one step of the run, in their order."""
        order, *copies = tee(self.turns(micro_batches), 1 + len(self.streams))
        windows = {
            kind: stream.windows(places_of(kind, turns))
            for (kind, stream), turns in zip(self.streams.items(), copies, strict=True)
        }
        for turn in order:
            yield WindowBatch(turn.kind, next(windows[turn.kind]), turn.numbers)

    def turns(self, micro_batches: Iterable[Sequence[int]]) -> Iterator[Turn]:
        """Return where the windows of micro-batches are found."""
        return map(self._turn, micro_batches)

    def _turn(self, indices: Sequence[int]) -> Turn:
        size = self._run.train.global_batch_size
        number, turns_before = self._turns.turn(indices[0] // size)
        places = [turns_before * size + index % size for index in indices]
        if KINDS[number] == "video":
            return Turn("video", places, indices)
        per_video = self._run.images_per_video
        return Turn("image", _each(places, per_video), _each(indices, per_video))


def open_source(run: WorldDiTRun | WorldARRun, mesh: Mesh, check: Callable[[WindowFacts], None]) -> WindowSource:
    """The run's windows, on every rank: out of finished caches, or encoded when first wanted (latents.fill).

    check: raises ConfigError where windows do not fit the model.

    Raises:
        ConfigError, DataError, TokenizerError: what is read is missing, damaged, or does not fit the run.
    """
    if run.latents.fill:
        return WindowSource(run, open_filled(run, mesh, check))
    streams = open_cached(run)
    for stream in streams.values():
        check(stream.facts)
    return WindowSource(run, streams)


def image_share(run: WorldRun) -> Fraction:
    """Return the share of image steps among all steps."""
    return Fraction(run.image_share).limit_denominator(10**6)


def places_of(kind: Kind, turns: Iterable[Turn]) -> Iterator[Sequence[int]]:
    """The places in the stream of one kind."""
    return (turn.places for turn in turns if turn.kind == kind)


def _each(numbers: Sequence[int], times: int) -> list[int]:
    """Return what stands in the place of each number: so many that follow each other."""
    found = list[int]()
    for number in numbers:
        found += range(number * times, (number + 1) * times)
    return found
