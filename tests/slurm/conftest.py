"""Two nodes of a real Slurm on this host, and a run to submit to them. They need slurm-wlm and munge, and root."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import tiny_world, training
from support.ranks import RankPool
from support.slurm import CLUSTER, Job, submit

from cosmos_train.config.load import to_yaml
from cosmos_train.parallel.config import ParallelConfig

NUM_STEPS = 60
SETTINGS = {"num_steps": NUM_STEPS, "global_batch_size": 8}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder is marked, and skipped where there is no Slurm."""
    missing = subprocess.run([CLUSTER, "missing"], capture_output=True, text=True, check=True).stdout.split()
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.slurm)
            if missing:
                reason = f"not here: {', '.join(missing)} (apt-get install slurm-wlm munge)"
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cluster")
    for parent in (folder, *folder.parents):
        if parent != Path("/tmp") and parent.is_relative_to("/tmp"):
            parent.chmod(0o711)  # munged, which is not root, finds its socket
    ports = {"FIRST_PORT": str(10000 + os.getpid() % 2000 * 3)}  # beside the cluster of another checkout
    subprocess.run([CLUSTER, "start", folder], check=True, timeout=60, env=os.environ | ports)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        yield folder
        subprocess.run([CLUSTER, "stop", folder], check=True)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_world.write_cache(tmp_path_factory.mktemp("latents") / "cache", is_steered=True)


@pytest.fixture(scope="session")
def undisturbed(
    ranks: Callable[[int], RankPool], cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, float]:
    """Losses of the same run on two ranks that nobody disturbs."""
    run_dir = tmp_path_factory.mktemp("undisturbed")
    settings = SETTINGS | {"checkpoint": {"every_steps": NUM_STEPS}}
    ranks(2).run(training.run_loop, cache, run_dir, ParallelConfig(), settings)
    return training.losses(run_dir)


@pytest.fixture
def submit_world(cluster: Path, cache: Path, tmp_path: Path) -> Callable[..., Job]:
    """submit_world(nodes, *overrides): queue the tiny world's run, which saves every 20 steps."""

    def queue(nodes: str, *overrides: str) -> Job:
        run_dir = tmp_path / "run"
        (tmp_path / "run.yaml").write_text(to_yaml(tiny_world.make_run(cache, run_dir, ParallelConfig(), **SETTINGS)))
        return Job(submit(tmp_path, "run.yaml", "--nodes", nodes, "checkpoint.every_steps=20", *overrides), run_dir)

    return queue
