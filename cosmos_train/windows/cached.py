"""Windows of a finished latent cache, which `cosmos-train tokenize` has made."""

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

from cosmos_data.caches.encoded import EncodedWindow
from cosmos_data.caches.latents import LatentStore
from cosmos_data.sample_plan.order import Alternation, IndexPlan
from cosmos_tok.whitening import load_statistics
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import WorldRun
from cosmos_train.windows.kept import STATISTICS, origin_of
from cosmos_train.windows.stream import Kind, WindowFacts


class CachedWindows:
    """The training windows of one cache (see stream.WindowStream). A latent is small, and read when it is wanted."""

    def __init__(self, folder: str, seed: int, *, step_size: int) -> None:
        """step_size: places that follow each other and have windows of one shape."""
        self.store, self._step_size = LatentStore(folder), step_size
        self.digest = self.store.digest
        self._ranges = {shape: self.store.indices("train", shape) for shape in self.store.shapes}
        self._ranges = {shape: numbers for shape, numbers in self._ranges.items() if numbers}
        self._plans = [IndexPlan(len(numbers), self._name(shape), seed) for shape, numbers in self._ranges.items()]
        total = sum(map(len, self._ranges.values()))
        shares = {shape: Fraction(len(numbers), total) for shape, numbers in self._ranges.items()}
        self._turns = Alternation(list(shares.values()))
        self.origin = origin_of(self.store)
        first = self.store.window(0)
        is_latents = first.z_CTHW.is_floating_point()
        self.facts = WindowFacts(
            where=f"the latent cache {folder}",
            shapes=shares,
            num_pixel_frames=self.store.metadata.window_frames,
            fps=self.origin.fps,
            num_codes=None if is_latents else int(first.z_CTHW.max()) + 1,
            text_width=first.text_SE.shape[1],
            statistics=load_statistics(self.store.folder / STATISTICS) if is_latents else None,
        )

    def windows(self, place_lists: Iterable[Sequence[int]]) -> Iterator[list[EncodedWindow]]:
        """See WindowStream."""
        for places in place_lists:
            yield [self.at(place) for place in places]

    def at(self, place: int) -> EncodedWindow:
        """The window at one place."""
        return self.store.window(self.number(place))

    def number(self, place: int) -> int:
        """Number in the cache of the window at a place."""
        group, offset = divmod(place, self._step_size)
        which, group = self._turns.turn(group)
        return list(self._ranges.values())[which][self._plans[which].item(group * self._step_size + offset)]

    def _name(self, shape: tuple[int, ...]) -> str:
        """Return what an order's draws are keyed by."""
        return self.digest if len(self._ranges) == 1 else f"{self.digest}/{'x'.join(map(str, shape))}"


def open_cached(run: WorldRun) -> dict[Kind, CachedWindows]:
    """The streams of the caches that the run names. Raises ConfigError where the one of images holds videos."""
    size, latents = run.train.global_batch_size, run.latents
    streams: dict[Kind, CachedWindows] = {"video": CachedWindows(latents.folder, run.seed, step_size=size)}
    if latents.image_folder is None:
        return streams
    streams["image"] = CachedWindows(latents.image_folder, run.seed, step_size=size * run.images_per_video)
    num_frames = streams["image"].facts.num_frames
    if num_frames != 1:
        raise ConfigError(
            f"latents.image_folder={latents.image_folder} holds windows of {num_frames} latent frames, not images; "
            "tokenize it with data.num_frames=1"
        )
    return streams
