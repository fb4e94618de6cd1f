"""Finds what steers the windows of a run before anything is encoded or built: whether all have the conditions
that the model reads, and what their actions are normalised with.

    RUN/action_statistics.json                       the statistics of each embodiment
    RUN/checkpoints/step-00000200/                   and in each checkpoint the same file, which is what counts

A run that goes on takes what it began with. A run that starts from another's weights keeps that one's embodiments,
their rows and their statistics, since its network has learned what their numbers mean; new ones come after them.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from cosmos_data.caches.latents import LatentStore
from cosmos_data.sample_plan.plan import read_parts
from cosmos_data.sample_plan.window import stride_of
from cosmos_data.sample_plan.window_conditions import WindowConditions
from cosmos_train.conditions.action_rms import ActionRms
from cosmos_train.conditions.action_statistics import ACTIONS, Embodiments
from cosmos_train.conditions.conditioner import Conditioner, ConditionTensors, reads_of
from cosmos_train.conditions.config import ACTION_KEYS, CAMERA_KEYS
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import load_run
from cosmos_train.config.schema import WorldARRun, WorldDiTRun
from cosmos_train.interop.source import find_action_statistics, open_source
from cosmos_train.parallel.mesh import Mesh, from_main
from cosmos_train.train.checkpoint.folder import find_checkpoint, newest_checkpoint
from cosmos_train.windows.stream import WindowBatch, WindowFacts

log = logging.getLogger(__name__)

MOST_LOOKED_AT = 10_000
"""Clips or windows that are read before a run starts, spread evenly over all of them."""


class WindowSteering:
    """A window steering makes what a network reads of a run's windows, and tells how large their actions are there."""

    def __init__(self, conditioner: Conditioner) -> None:
        """Take what makes the tensors of a model that is steered."""
        self.conditioner = conditioner
        self.action_rms = ActionRms()

    def tensors(self, batch: WindowBatch, facts: WindowFacts, padding_B1HW: Tensor | None = None) -> ConditionTensors:
        """Return what steers the windows of a batch.

        Args:
            facts: of the stream that the windows are of.
            padding_B1HW: 1 where a latent cell is padding.

        Raises:
            ConfigError, DataError: as Conditioner.tensors does.
        """
        _, frames, height, width = batch.windows[0].z_CTHW.shape
        conditions = [window.conditions for window in batch.windows]
        found = self.conditioner.tensors(
            conditions,
            num_latent_frames=frames,
            latent_HW=(height, width),
            num_pixel_frames=facts.num_pixel_frames,
            fps_B=[window.fps for window in batch.windows],
            padding_B1HW=padding_B1HW,
        )
        if found.action_BTRA is not None and batch.kind == "video":
            actions = [one.action for one in conditions if one.action is not None]
            pairs = zip(actions, batch.windows, strict=True)
            steps = [self.conditioner.steps_of_latent(action.embodiment, window.fps) for action, window in pairs]
            self.action_rms.note(actions, steps, found.action_BTRA)
        return found


def find_embodiments(run: WorldDiTRun | WorldARRun, mesh: Mesh) -> Embodiments | None:
    """Return the statistics of a run's actions, on every rank, all of which call this; None where it reads none.

    Raises:
        ConfigError, DataError: the model reads a condition that training clips lack, or actions of one embodiment
            differ.
    """
    return from_main(mesh, lambda: _find(run))


def conditioner_of(run: WorldDiTRun | WorldARRun, embodiments: Embodiments | None, facts: WindowFacts) -> Conditioner:
    """Return what makes the tensors of a run's windows.

    Args:
        facts: of its videos.

    Raises:
        ConfigError: the network has no place for the embodiments, or for the steps of a latent frame.
    """
    further = facts.num_frames - 1
    rate = (facts.num_pixel_frames - 1) // further if further else 1  # of images alone there is nothing to count
    conditioner = Conditioner(run.condition, run.model, embodiments, temporal_rate=rate, fps=facts.fps)
    conditioner.check_frames(facts.num_frames)
    conditioner.check_width()
    return conditioner


def read_embodiments(folder: Path) -> Embodiments | None:
    """Read the statistics of a checkpoint or of a run; return None where it has none."""
    path = folder / ACTIONS
    return Embodiments.from_json(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else None


def texts_of(embodiments: Embodiments | None) -> dict[str, str]:
    """Return what is kept of them: name of the file -> its text."""
    return {} if embodiments is None else {ACTIONS: embodiments.to_json()}


def _find(run: WorldDiTRun | WorldARRun) -> Embodiments | None:
    reads = reads_of(run.model)
    if not reads.names:
        return None
    _check_as_before(run)
    windows = list(_windows(run))
    conditions = [known for known, _ in windows]
    for name in reads.names:
        lacking = [number for number, one in enumerate(conditions) if getattr(one, name) is None]
        if lacking:
            raise ConfigError(
                f"the model is steered by {' and '.join(reads.names)}, and of {len(conditions)} training clips or "
                f"windows {len(lacking)} come without {name}; leave them out of the manifest, or build it from a "
                f"source that has {name}"
            )
    if not reads.action:
        return None
    begun = _begun(run)
    if begun is not None and _goes_on(run):
        return begun
    actions = [one.action for one in conditions if one.action is not None]
    if begun is not None and not reads.num_embodiments:  # without a table of rows the weights know one robot at a time
        named = {action.embodiment for action in actions}
        begun = Embodiments({name: one for name, one in begun.statistics.items() if name in named})
    for name in () if begun is None else begun.statistics:
        log.info("actions of embodiment %r are normalised as in checkpoint.init_from", name)
    found = Embodiments.of(actions, run.condition, begun)
    return found.at_frame_rates((known.action, fps) for known, fps in windows if known.action is not None and fps)


def _windows(run: WorldDiTRun | WorldARRun) -> Iterator[tuple[WindowConditions, float | None]]:
    """Yield what training clips, or the windows of a finished cache, come with, and the frames per second of a window;
    None where the frames of a clip do not serve one."""
    if not run.latents.fill:
        store = LatentStore(run.latents.folder)
        for number in _spread(store.indices("train")):
            window = store.describe(number)
            yield window.conditions, window.fps
        return
    for part in read_parts(run.data, "train", verify=False):
        for row in _spread(range(len(part.clips))):
            for view in part.clips[row].each_view():
                stride = stride_of(view, run.data)
                yield WindowConditions(camera=view.camera, action=view.action), view.fps / stride if stride else None


def _spread(numbers: Sequence[int]) -> Sequence[int]:
    return numbers[:: max(1, -(-len(numbers) // MOST_LOOKED_AT))]


def _goes_on(run: WorldDiTRun | WorldARRun) -> bool:
    return newest_checkpoint(Path(run.run_dir)) is not None or run.checkpoint.resume_from is not None


def _begun(run: WorldDiTRun | WorldARRun) -> Embodiments | None:
    """Return the statistics of what this start goes on with, or takes its weights from."""
    own = newest_checkpoint(Path(run.run_dir))
    if own is not None:
        return read_embodiments(own)
    other = _other(run)
    if other is None:
        return None
    found = find_action_statistics(other)
    if found is not None:
        return read_embodiments(found.parent)
    if reads_of(open_source(other, verify=False).config).action:
        log.warning(
            "%s reads actions, and no %s lies there: they are normalised with this run's own statistics, under which "
            "the same number is another command; copy the file there",
            other,
            ACTIONS,
        )
    return None


def _other(run: WorldDiTRun | WorldARRun) -> Path | None:
    """Return where a run without a checkpoint of its own takes its weights from."""
    other = run.checkpoint.resume_from or run.checkpoint.init_from
    return None if other is None else Path(other)


def _check_as_before(run: WorldDiTRun | WorldARRun) -> None:
    """Raise ConfigError where weights of another run would read a condition in another way than they learned it."""
    other = _other(run)
    folder = None if other is None else find_checkpoint(other)
    if folder is None or newest_checkpoint(Path(run.run_dir)) is not None:
        return
    before = load_run(str(folder / "run.yaml"))
    if not isinstance(before, WorldDiTRun | WorldARRun):
        return  # which is refused where its weights are read
    read_before, reads = reads_of(before.model), reads_of(run.model)
    keys = [*CAMERA_KEYS] if read_before.camera and reads.camera else []
    keys += ACTION_KEYS if read_before.action and reads.action else []
    for key in keys:
        theirs, ours = getattr(before.condition, key), getattr(run.condition, key)
        if theirs != ours:
            raise ConfigError(
                f"{folder} was trained with condition.{key}={theirs}, this run has {ours}; set the former"
            )
