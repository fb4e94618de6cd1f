"""The held-out windows that a world model is judged on: of its finished cache, or, of a run that filled its cache as it
went, the regular windows of the manifest's held-out clips, as a finished cache would have them."""

from collections.abc import Iterator
from dataclasses import dataclass

from cosmos_data.manifest import Manifest
from cosmos_data.plan import Sample, cover_windows
from cosmos_launch.trained import TrainedWorld
from cosmos_train.config.errors import ConfigError


@dataclass(frozen=True, slots=True)
class HeldOutWindow:
    """A window, and what the model may know of it."""

    number: int
    """In the finished cache, or else among the held-out windows."""
    sample: Sample
    caption: str


def held_out_windows(world: TrainedWorld, max_windows: int) -> list[HeldOutWindow]:
    """At most so many, evenly spread. Raises ConfigError where there are none."""
    found = list(_held_out(world))
    if not found:
        raise ConfigError(f"{world.run.data.manifest} has no held-out windows; build the manifest with --heldout-every")
    return found[:: max(1, len(found) // max_windows)][:max_windows]


def _held_out(world: TrainedWorld) -> Iterator[HeldOutWindow]:
    data, manifest = world.run.data, Manifest.read(world.run.data.manifest)
    regular = cover_windows(manifest, data, hop_frames=world.run.latents.hop_frames)
    of_clips = [sample for sample in regular if sample.clip.split == "heldout"]
    if world.store is None:
        yield from (HeldOutWindow(number, sample, sample.caption) for number, sample in enumerate(of_clips))
        return
    world.store.require(manifest_digest=manifest.digest)
    by_place = {(sample.clip.clip_id, sample.start_frame): sample for sample in of_clips}
    for number in world.store.indices("heldout"):
        window = world.store.describe(number)
        yield HeldOutWindow(number, by_place[window.clip_id, window.start_frame], window.caption)
