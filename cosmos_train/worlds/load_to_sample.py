"""A trained world model of either kind, loaded when what is asked of it is found to suit it."""

from pathlib import Path

from cosmos_train.config.environment import own_ranks
from cosmos_train.config.schema import WorldARRun, WorldDiTRun
from cosmos_train.config.validate import check_code_sampling, check_sampling
from cosmos_train.worlds.trained import TrainedWorld
from cosmos_train.worlds.trained_ar import load_ar
from cosmos_train.worlds.trained_dit import load_dit


def load_to_sample(
    folder: Path,
    run: WorldDiTRun | WorldARRun,
    *,
    num_videos: int,
    num_frames: int,
    has_input: bool,
    has_prompt: bool = False,
) -> TrainedWorld:
    """Load what `open_run` found, in the layout of run.parallel.

    Args:
        num_videos: those that are sampled, of all ranks.
        num_frames: pixel frames of each.
        has_input: whether first frames are given.
        has_prompt: whether a text is given to a model that may not read any.

    Raises:
        CheckpointError, ConfigError, DataError, TokenizerError: it can not be sampled so, or something is missing.
    """
    world_size = own_ranks().world_size
    if isinstance(run, WorldARRun):
        check_code_sampling(
            run,
            world_size,
            num_videos=num_videos,
            num_frames=num_frames,
            has_input=has_input,
            has_prompt=has_prompt,
        )
        return load_ar(folder, run)
    check_sampling(run, world_size, num_videos=num_videos, num_frames=num_frames, has_input=has_input)
    return load_dit(folder, run)
