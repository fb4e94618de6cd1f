"""What a job reads that must be there before it is queued: data, caches, other runs. Looked for without torch."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from cosmos_launch.jobs.batch_script import Stage
from cosmos_train.config.cluster import ContainerConfig
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import RunConfig, TokenizerRun, WorldRun
from cosmos_train.train.checkpoint.folder import CHECKPOINTS, newest_checkpoint


def check_inputs(
    run: RunConfig, container: ContainerConfig, *, stage: Stage = "train", made_before: Sequence[Path] = ()
) -> None:
    """Raises ConfigError for the first that is not there.

    Args:
        container: paths inside its image are not looked for.
        stage: what is to be done with the run.
        made_before: folders of runs, and of caches, that are made before this one starts; as the node knows them.
    """
    for key, name in inputs_of(run) if stage == "train" else inputs_of_cache(run):
        path = container.outside(Path(name).absolute())
        if path is None or any(path.resolve().is_relative_to(folder.resolve()) for folder in made_before):
            continue
        if not path.exists():
            how = ", with `tokenize` and data.num_frames=1" if key == "latents.image_folder" else ""
            raise ConfigError(
                f"{key}={name} is not there ({path}); make it first{how}, correct the path, or name the job that makes "
                "it with --after"
            )
        if key.startswith("checkpoint.") and (path / CHECKPOINTS).is_dir() and newest_checkpoint(path) is None:
            raise ConfigError(
                f"{key}={name} is a run that has no complete checkpoint yet; wait for one, or name its job with --after"
            )


def inputs_of(run: RunConfig) -> Iterator[tuple[str, str]]:
    """(key, path) of all files and folders that training reads."""
    for key, name in (("init_from", run.checkpoint.init_from), ("resume_from", run.checkpoint.resume_from)):
        if name is not None:
            yield f"checkpoint.{key}", name
    if isinstance(run, TokenizerRun):
        yield from run.data.files()
        if run.tokenizer_from:
            yield "tokenizer_from", run.tokenizer_from
    elif isinstance(run, WorldRun):
        yield from run.window_files()


def inputs_of_cache(run: RunConfig) -> Iterator[tuple[str, str]]:
    """(key, path) of all files and folders that a run's latent cache is made of."""
    if isinstance(run, WorldRun):
        yield from run.cache_files()
