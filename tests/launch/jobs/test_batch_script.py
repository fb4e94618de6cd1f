"""Functions of slurm/train.sbatch in a real bash, where Slurm would be too slow, or too lucky, to show what they do."""

import re
import subprocess
from pathlib import Path

import torch

from cosmos_data.caches import window_cache
from cosmos_data.caches.keyed_shards import KeyedShards
from cosmos_launch.jobs.batch_script import template_path


def run_bash(program: str, *functions: str) -> str:
    """What a program prints that may call these functions of the script."""
    script = template_path().read_text()
    found = [re.search(rf"^{name}\(\) {{\n.*?^}}\n", script, re.MULTILINE | re.DOTALL) for name in functions]
    source = "".join(match[0] for match in found if match is not None)
    done = subprocess.run(["bash", "-uc", f"{source}\n{program}"], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.stdout


def test_ranks_that_end_while_the_signal_is_handled_keep_their_exit_code():
    """bash says of a wait that USR1 ended that it ended with 138, which would be a crash."""
    program = """
        SLURM_NNODES=1 SRUN_OPTIONS=()
        srun() { sleep 0.5; return 75; }
        trap 'sleep 1' USR1
        (sleep 0.2; kill -USR1 $$) &
        on_nodes; echo $?
    """
    assert run_bash(program, "on_nodes") == "75\n"


def test_each_step_asks_for_the_job_s_cpus():
    """srun does not take --cpus-per-task from the job since Slurm 22.05, and binds a rank to a single core."""
    program = """
        SLURM_NNODES=2 SRUN_OPTIONS=(--container-image="a b")
        srun() { printf '<%s>' "$@"; }
        SLURM_CPUS_PER_TASK=96
        on_nodes python -m x
        unset SLURM_CPUS_PER_TASK
        on_nodes
    """
    nodes = "<--nodes=2><--ntasks=2><--ntasks-per-node=1>"
    image = "<--container-image=a b>"
    assert run_bash(program, "on_nodes") == f"{nodes}<--cpus-per-task=96>{image}<python><-m><x>{nodes}{image}"


def test_a_cache_has_come_further_with_each_shard(tmp_path: Path):
    """What is half-written does not count, or a job that crashes at the same window would be tried for ever."""
    (tmp_path / "windows").mkdir()
    for name in ("windows/a.arrow", "windows/b.arrow", "windows/.c.arrow.x.partial", "index.json"):
        (tmp_path / name).touch()
    assert run_bash(f"CACHE={tmp_path}; progress", "progress") == "2\n"


def test_a_cache_that_runs_fill_has_come_further_with_each_shard(tmp_path: Path):
    shards = KeyedShards(tmp_path / window_cache.FOLDER, kind=window_cache.KIND, facts={})
    for number in range(3):
        assert run_bash(f"CACHE={tmp_path}; progress", "progress") == f"{number}\n"
        shards.write(f"{number:064x}", torch.zeros(1, 4))
        shards.flush()


def test_a_damaged_checkpoint_is_not_the_newest(tmp_path: Path):
    folders = ("step-00000300", "step-00000400.damaged", "step-00000500.partial", "step-00000200", "step-00000600")
    for name in folders:
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        if name != "step-00000600":
            (tmp_path / "checkpoints" / name / "complete.json").touch()
    found = run_bash(f"RUN_DIR={tmp_path}; newest_checkpoint", "newest_checkpoint")
    assert found == f"{tmp_path}/checkpoints/step-00000300/complete.json\n"
