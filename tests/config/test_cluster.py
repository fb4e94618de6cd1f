"""The cluster file: every key checked before a job is queued, and the GPU it names decides what a run may compute."""

from pathlib import Path

import pytest

from cosmos_launch.cli.main import main
from cosmos_train.config.cluster import ClusterConfig, ContainerConfig
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.gpus import GPUS
from cosmos_train.config.load import configs_dir, load_cluster, load_run_on_cluster

SHIPPED = sorted(path.stem for path in configs_dir().glob("cluster/*.yaml"))
DIT = "run/pretrain/dit_7b_720p"


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_files_are_valid(name: str):
    cluster = load_cluster(name)
    assert cluster.name == name
    assert cluster == load_cluster(str(configs_dir() / "cluster" / f"{name}.yaml"))


@pytest.mark.parametrize(("gpu", "capability"), [(name, gpu.capability) for name, gpu in GPUS.items()])
def test_capability_is_known_by_the_name(gpu: str, capability: tuple[int, int]):
    assert ClusterConfig(name="x", gpu=f"NVIDIA {gpu}", gpus_per_node=8).compute_capability == capability


def test_what_is_stated_stands_over_what_is_known():
    cluster = load_cluster("h100_slurm", ["cluster.capability=[9,1]", "cluster.peaks.fp8=1500"])
    gpu = cluster.described_gpu()
    assert gpu is not None and (gpu.capability, gpu.bf16, gpu.fp8, gpu.fp4) == ((9, 1), 989.4, 1500, None)


@pytest.mark.parametrize(
    ("limit", "seconds"), [("1-00:00:00", 86400), ("0-12:30:05", 45005), ("02:00:01", 7201), ("2-01:00:00", 176400)]
)
def test_time_limit_in_seconds(limit: str, seconds: int):
    assert ClusterConfig(name="x", time_limit=limit).time_limit_sec == seconds


def test_ranks_of_a_node():
    assert load_cluster("h100_slurm").num_ranks_per_node == 8
    assert load_cluster("h100_slurm", ["cluster.ranks_per_node=2"]).num_ranks_per_node == 2
    assert load_cluster("cpu_two_nodes").num_ranks_per_node == 1


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["cluster.partitoin=x"], "unknown key cluster.partitoin; the nearest: cluster.partition"),
        (["cluster.gpus_per_node=x"], "cluster.gpus_per_node=x is not a whole number"),
        (["cluster.environment=3"], "cluster.environment=3 is not a mapping of names to texts"),
        (["cluster.environment={A: [1]}"], "cluster.environment.A=[1] is not text; put it in quotes"),
        (["cluster.environment={A-B: 1}"], "cluster.environment.A-B is no name of a variable"),
        (["cluster.environment.WANDB_API_KEY=abc"], "cluster.environment.WANDB_API_KEY looks like a secret"),
        (["cluster.environment.hf_token=abc"], "cluster.environment.hf_token looks like a secret"),
        (["cluster.environment.AWS_ACCESS_KEY_ID=abc"], "cluster.environment.AWS_ACCESS_KEY_ID looks like a secret"),
        (["cluster.setup=['export WANDB_API_KEY=\"s3same\"']"], "cluster.setup sets WANDB_API_KEY, which looks like"),
        (["cluster.sbatch_options=['--export=WANDB_API_KEY=s3same']"], "cluster.sbatch_options sets WANDB_API_KEY"),
        (["cluster.sbatch_options=['--export=ALL,A=1,HF_TOKEN=s3same']"], "cluster.sbatch_options sets HF_TOKEN"),
        (["cluster.health_check_sec=0"], "cluster.health_check_sec=0 must be at least 1"),
        (["cluster.stop_before_limit_sec=29"], "cluster.stop_before_limit_sec=29 must be at least 30"),
        (["cluster.gpus_per_node=0"], "cluster.gpu=NVIDIA H100 80GB HBM3 with cluster.gpus_per_node=0: name the GPU"),
        (["cluster.ranks_per_node=9"], "cluster.ranks_per_node=9, but cluster.gpus_per_node=8"),
        (["cluster.ranks_per_node=0"], "cluster.ranks_per_node=0 must be at least 1"),
        (["cluster.gpu=H300"], "cluster.gpu='H300' is none of the known GPUs (A100, H100 HBM3"),
        (["cluster.gpu=null", "cluster.gpus_per_node=0", "cluster.peaks.bf16=1"], "describe a GPU"),
        (["cluster.peaks.bf16=0"], "cluster.peaks.bf16=0.0 must be greater than 0"),
        # Slurm takes a number for minutes.
        (["cluster.time_limit=43200"], "cluster.time_limit=43200 is not of the form D-HH:MM:SS"),
        (["cluster.time_limit=0-00:05:00"], "cluster.stop_before_limit_sec=600 leaves nothing of cluster.time_limit"),
        (["cluster.max_retries=-1"], "cluster.max_retries=-1 must be at least 0"),
        (["cluster.sbatch_options=[-p x]"], "cluster.sbatch_options has '-p x'; write options as --name"),
        (['cluster.sbatch_options=["--a\\nrm"]'], "which is several lines"),
        (['cluster.setup=["a\\nb"]'], "which is several lines"),
        (["cluster.container.runtime=none"], "cluster.container.runtime=none with image='/shared"),
    ],
)
def test_wrong_files(overrides: list[str], said: str):
    with pytest.raises(ConfigError) as caught:
        load_cluster("h100_slurm", overrides)
    assert said in str(caught.value) and "\n" not in str(caught.value) and "h100_slurm.yaml: " in str(caught.value)
    assert "s3same" not in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        "cluster.environment={NCCL_IB_PKEY: 1, TOKENIZERS_PARALLELISM: 'false', KEYBOARD: us}",
        "cluster.setup=['export WANDB_API_KEY=$(cat ~/.key)', 'export WANDB_API_KEY=\"$MINE\"', 'module load a']",
        "cluster.sbatch_options=['--export=ALL,NCCL_IB_PKEY=3', '--comment=TOKENIZER=x']",
    ],
)
def test_what_is_no_secret_is_taken(override: str):
    load_cluster("h100_slurm", [override])


def test_folders_of_a_container():
    container = ContainerConfig(runtime="pyxis", image="x.sqsh", mounts=("/lustre/data:/data:ro", "/home"))
    outside = [container.outside(Path(path)) for path in ("/data/a/b", "/home/me", "/opt/x", "/database")]
    assert outside == [Path("/lustre/data/a/b"), Path("/home/me"), None, None]
    assert ContainerConfig().outside(Path("/opt/x")) == Path("/opt/x")


def test_a_container_has_an_image_and_an_image_a_runtime():
    for fields in ({"runtime": "pyxis"}, {"image": "x.sif"}):
        with pytest.raises(ConfigError, match="set both, or neither"):
            ContainerConfig(**fields)


@pytest.mark.parametrize(
    ("cluster", "recipe", "said"),
    [
        (
            "a100_slurm",
            "fp8_current",
            "of 8.9 or more, but NVIDIA A100-SXM4-40GB of cluster",
        ),
        ("h100_slurm", "mxfp8", "needs a compute capability of 10.0 or more and less than 12.0"),
        ("h100_slurm", "nvfp4", "use none, fp8_delayed, fp8_current, fp8_blockwise"),
        ("cpu_two_nodes", "fp8_current", "needs a GPU, and cluster cpu_two_nodes has none"),
    ],
)
def test_a_recipe_that_the_gpu_lacks_is_refused(cluster: str, recipe: str, said: str):
    with pytest.raises(ConfigError) as caught:
        load_run_on_cluster(DIT, cluster, [f"parallel.precision.recipe={recipe}"])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("cluster", "recipe", "peak"),
    [
        ("h100_slurm", "none", 989.4),
        ("h100_slurm", "fp8_current", 1978.9),
        ("gb200_slurm", "nvfp4", 10000),
        ("cpu_two_nodes", "none", None),
    ],
)
def test_a_run_is_measured_by_the_clusters_peak(cluster: str, recipe: str, peak: float | None):
    run, _ = load_run_on_cluster(DIT, cluster, [f"parallel.precision.recipe={recipe}"])
    assert run.train.peak_tflops == peak


def test_the_files_peak_and_the_runs_own_stand_over_the_tables():
    assert load_run_on_cluster(DIT, "h100_slurm", ["cluster.peaks.bf16=800"])[0].train.peak_tflops == 800
    own = ["cluster.peaks.bf16=800", "train.peak_tflops=700"]
    assert load_run_on_cluster(DIT, "h100_slurm", own)[0].train.peak_tflops == 700
    assert load_run_on_cluster(DIT, "h100_slurm", ["train.precision=fp32"])[0].train.peak_tflops is None


def test_the_command_checks_for_a_cluster(capsys: pytest.CaptureFixture[str]):
    line = ["train", DIT, "--check", "--nproc", "8", "--cluster"]
    assert main([*line, "h100_slurm"]) == 0
    capsys.readouterr()
    assert main([*line, "a100_slurm", "parallel.precision.recipe=fp8_delayed"]) == 2
    assert capsys.readouterr().err.startswith("cosmos-train: parallel.precision.recipe=fp8_delayed needs a compute")
    assert main(["train", DIT, "--cluster", "h100_slurm"]) == 2
    assert "--cluster belongs to --check and --dry-run" in capsys.readouterr().err
    assert main(["train", DIT, "--check", "cluster.partition=x"]) == 2
    assert "cluster is no key of a world_dit run, but of a cluster file" in capsys.readouterr().err
