"""Finds what steers a run's model, as its checkpoint says it, before any weights are loaded."""

from cosmos_tok.store import load_config
from cosmos_train.conditions.action_statistics import ACTIONS
from cosmos_train.conditions.conditioner import Conditioner, reads_of
from cosmos_train.config.errors import ConfigError
from cosmos_train.windows.kept import trained_with
from cosmos_train.windows.steering import read_embodiments
from cosmos_train.worlds.run import RunCheckpoint


def conditioner_of_checkpoint(found: RunCheckpoint) -> Conditioner | None:
    """Return what makes the tensors that the model reads besides latents and text; None where it reads none.

    Raises:
        ConfigError: the checkpoint does not say what its actions are normalised with.
        TokenizerError: the tokenizer can not be read.
    """
    run = found.run
    if not reads_of(run.model).names:
        return None
    embodiments = read_embodiments(found.folder)
    if reads_of(run.model).action and embodiments is None:
        raise ConfigError(
            f"{found.folder} is of a model that reads actions, and its {ACTIONS} is missing, which says what they are "
            "normalised with; copy the whole checkpoint again"
        )
    rate = load_config(run.latents.tokenizer).temporal_rate
    origin, _ = trained_with(found.folder, run)
    return Conditioner(run.condition, run.model, embodiments, temporal_rate=rate, fps=origin.fps)
