"""The windows that a world model is judged on, and its rival learns from: the regular ones of the manifest's clips."""

from dataclasses import dataclass, replace
from pathlib import Path

from cosmos_data.caches.shard_plan import RegularWindows
from cosmos_data.manifests.clip import Split
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.sample_plan.plan import Sample, usable_clips
from cosmos_train.config.errors import ConfigError
from cosmos_train.windows.kept import trained_with
from cosmos_train.worlds.file import WorldFile
from cosmos_train.worlds.opening import trained_run
from cosmos_train.worlds.run import RunCheckpoint, find_run
from cosmos_train.worlds.world import TrainedRun


@dataclass(frozen=True, slots=True)
class RegularWindow:
    """A window, and what the model may know of it."""

    number: int
    """Among those of its split."""
    sample: Sample
    caption: str


def run_to_be_judged_on(path: Path, judged: RunCheckpoint | WorldFile) -> TrainedRun:
    """Find the run on whose windows another run's model is judged: how good it was before a post-training, or how good
    a post-trained model still is where it came from.

    Args:
        path: a run or one of its checkpoints; its weights are not read.
        judged: the model.

    Raises:
        CheckpointError, ConfigError: there is no such run, or its windows are of another size than the model's.
    """
    found = find_run(path)
    other = trained_run(found, trained_with(found.folder, found.run)[0])
    for key in ("num_frames", "height_px", "width_px"):
        own_value, value = getattr(judged.run.data, key), getattr(other.run.data, key)
        if value != own_value:
            raise ConfigError(
                f"--windows-of {path} has data.{key}={value}, and {judged.path} was trained on {own_value}; name a "
                "run with windows of that size"
            )
    return other


def regular_windows(trained: TrainedRun, split: Split, max_windows: int) -> list[RegularWindow]:
    """Return at most so many, evenly spread, one every latents.hop_frames of each clip of the split.

    Raises:
        ConfigError: there are none, or the run was trained on another manifest.
    """
    run, data, manifest = trained.run, trained.run.data, Manifest.read(trained.run.data.manifest)
    if trained.manifest_digest not in ("", manifest.digest):
        raise ConfigError(
            f"data.manifest={data.manifest} has digest {manifest.digest[:12]}, but {run.run_dir} was trained on "
            f"{trained.manifest_digest[:12]}, whose held-out clips may be others; put that manifest back"
        )
    clips = usable_clips(manifest, replace(data, buckets="one"), frozenset()).select(split)
    windows = RegularWindows(clips, data, hop_frames=run.latents.hop_frames)
    if not len(windows):
        raise ConfigError(f"{data.manifest} has no {split} windows; build the manifest with --heldout-every")
    numbers = range(0, len(windows), max(1, len(windows) // max_windows))[:max_windows]
    samples = [windows[number] for number in numbers]
    return [RegularWindow(number, sample, sample.caption) for number, sample in zip(numbers, samples, strict=True)]
