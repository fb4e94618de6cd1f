"""`cosmos-train sample RUN`: sample here, or in a process of this command for each rank that is asked for."""

import sys
from collections.abc import Sequence
from pathlib import Path

from cosmos_launch.cli.commands import Invocation
from cosmos_launch.cli.sample_request import SampleRequest
from cosmos_launch.jobs import spawn
from cosmos_launch.jobs.stopping import end_with_launcher
from cosmos_train.config.environment import own_ranks


def sample_on_ranks(
    path: Path,
    overrides: Sequence[str],
    *,
    out: Path,
    config: str | None,
    prompt: str,
    input_path: Path | None,
    crop_input: bool,
    cameras: Sequence[str],
    actions: Sequence[str],
    keys_path: Path | None,
    embodiment: str | None,
    draw_conditions: bool,
    seed: int,
    num_videos: int,
    num_frames: int | None,
    fps: float | None,
    adapters: Sequence[str],
    alpha: float | None,
    nproc: int | None,
    invocation: Invocation,
) -> int:
    """Write the videos into `out` and return the exit code.

    Raises ConfigError where the options or the environment's ranks are wrong, before torch is imported.
    """
    request = SampleRequest(
        prompt=prompt,
        input_path=input_path,
        crop_input=crop_input,
        cameras=cameras,
        actions=actions,
        keys_path=keys_path,
        embodiment=embodiment,
        draw_conditions=draw_conditions,
        seed=seed,
        num_videos=num_videos,
        num_frames=num_frames,
        fps=fps,
        adapters=adapters,
        alpha=alpha,
        num_ranks=1 if nproc is None else nproc,
    )
    ranks = own_ranks(nproc)
    if request.num_ranks > 1 and not ranks.is_given:
        command = [sys.executable, "-m", "cosmos_launch.cli", *invocation.argv]
        return spawn.run_ranks(command, request.num_ranks)
    from cosmos_launch.cli.sample import sample
    from cosmos_train.parallel import init

    end_with_launcher()
    exit_code = sample(path, overrides, request, out=out, config=config)
    init.stop()
    return exit_code
