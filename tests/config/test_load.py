"""A YAML file and overrides become a run, or one sentence with the key, the value and the rule; no torch is needed.

Every error is a single line that stands behind the name of the file, because a person reads it in a terminal.
"""

import dataclasses
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from cosmos_data.config import DataConfig
from cosmos_tok.config import TokenizerConfig
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import configs_dir, find_yaml, load_run, to_dict, to_yaml
from cosmos_train.config.protocol import ProtocolConfig
from cosmos_train.config.schema import RUNS, TokenizerRun, WorldDiTRun
from cosmos_train.config.validate import check_run
from cosmos_train.generate.config import SampleConfig
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.models.world_ar.config import WorldARConfig

WORLD, TOKENIZER = "run/demo_world", "run/demo_tokenizer"
SHIPPED_RUNS = sorted(path.relative_to(configs_dir()).as_posix() for path in configs_dir().glob("run/**/*.yaml"))
SHIPPED_SECTIONS = {
    "evaluate/*.yaml": ProtocolConfig,
    "data/*.yaml": DataConfig,
    "model/dit_*.yaml": DiTConfig,
    "model/world_ar_*.yaml": WorldARConfig,
    "sample/*.yaml": SampleConfig,
    "tokenizer/*.yaml": TokenizerConfig,
}
"""Files under configs/ -> the dataclass that each of them fills."""


def sentence(name: str, *overrides: str) -> str:
    """What is said of a run that can not be loaded."""
    with pytest.raises(ConfigError) as caught:
        load_run(name, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def write(tmp_path: Path):
    """write(name, text): a file in the test's own folder; returns its path as a user would give it."""

    def write(name: str, text: str | bytes) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


# What a run is made of.


@pytest.mark.parametrize("name", SHIPPED_RUNS)
def test_every_shipped_run_is_valid(name: str):
    run = load_run(name)
    check_run(run, run.parallel.ranks_per_replica)


@pytest.mark.parametrize("pattern", SHIPPED_SECTIONS)
def test_every_shipped_section_fills_its_dataclass(pattern: str):
    files = sorted(configs_dir().glob(pattern))
    assert files
    for path in files:
        merged = OmegaConf.merge(OmegaConf.structured(SHIPPED_SECTIONS[pattern]), OmegaConf.load(path))
        assert isinstance(OmegaConf.to_object(merged), SHIPPED_SECTIONS[pattern]), path


def test_no_shipped_file_is_untested():
    elsewhere = ("run/**/*.yaml", "cluster/*.yaml")  # above, and in test_cluster.py
    tested = set(chain.from_iterable(map(configs_dir().glob, (*elsewhere, *SHIPPED_SECTIONS))))
    assert set(configs_dir().rglob("*.yaml")) <= tested


def test_include_then_file_then_overrides(write):
    write("sizes.yaml", "{num_blocks: 1, num_heads: 1, head_dim: 12, adaln_rank: 5}")
    name = write("run.yaml", f"include: {{model: sizes}}\nmodel: {{num_heads: 2, head_dim: 24}}\n{_rest()}")
    model = load_run(name, ["model.head_dim=36"]).model
    assert (model.num_blocks, model.num_heads, model.head_dim, model.adaln_rank) == (1, 2, 36, 5)
    assert model.mlp_ratio == DiTConfig(num_blocks=1, num_heads=1).mlp_ratio, "what nobody names keeps its default"


def test_the_last_override_wins():
    assert load_run(WORLD, ["seed=1", "seed=2"]).seed == 2


def test_a_file_beside_the_run_stands_before_a_shipped_one(write):
    write("model/dit_demo.yaml", "{num_blocks: 2, num_heads: 1}")
    name = write("run.yaml", f"include: {{model: model/dit_demo}}\n{_rest()}")
    assert load_run(name).model.num_blocks == 2


def test_the_suffix_may_be_left_out_and_names_may_have_dots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert find_yaml("tokenizer/cv8x8x8_0.1") == configs_dir() / "tokenizer/cv8x8x8_0.1.yaml"
    assert find_yaml("run/demo_world") == find_yaml("run/demo_world.yaml")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "demo_world.yaml").touch()
    assert find_yaml("run/demo_world") == Path("run/demo_world.yaml"), "a file of the user's own comes first"


def test_types_are_those_of_the_dataclasses():
    run = load_run(WORLD, ["optim.betas=[0,0.5]", "checkpoint.resume_from=null", "optim.lr=1e-3", "run_dir=17"])
    assert isinstance(run, WorldDiTRun)
    assert run.optim.betas == (0.0, 0.5) and isinstance(run.optim.betas, tuple)
    assert (run.checkpoint.resume_from, run.optim.lr, run.run_dir) == (None, 0.001, "17")


def test_a_value_may_refer_to_another():
    assert load_run(WORLD, ["latents.folder=${run_dir}/z", "run_dir=here"]).latents.folder == "here/z"


@pytest.mark.parametrize("name", SHIPPED_RUNS)
def test_the_resolved_yaml_gives_the_same_run(name: str, write):
    run = load_run(name, ["run_dir='with: colon # and hash'", "checkpoint.init_from=''", "optim.betas=[0.5, 0.25]"])
    resolved = write("resolved.yaml", to_yaml(run))
    assert load_run(resolved) == run
    assert to_dict(run)["optim"]["lr"] == run.optim.lr and "include" not in to_dict(run)


def test_sections_are_those_of_the_recipe():
    assert isinstance(load_run(TOKENIZER), TokenizerRun)
    assert not hasattr(load_run(TOKENIZER), "model")


# What is said of a wrong one.


@pytest.mark.parametrize(
    ("override", "said"),
    {
        "modle.num_blocks=3": "unknown key modle; the nearest: model, ",
        "model.num_blocs=3": "unknown key model.num_blocs; the nearest: model.num_blocks, ",
        "num_steps=3": "unknown key num_steps; the nearest: train.num_steps, sample.num_steps, ",
        "qqq=3": "unknown key qqq; `cosmos-train explain` lists the keys",
        "tokenizer.channels=8": "tokenizer is no key of a world_dit run, only of tokenizer",
        "train.num_steps=abc": "train.num_steps=abc is not a whole number",
        "train.num_steps=1.5": "train.num_steps=1.5 is not a whole number",
        "train.num_steps=1e3": "train.num_steps=1e3 is not a whole number; write 1000",
        "train.num_steps=": "train.num_steps=null is not a whole number",
        "train.num_steps.x=1": "train.num_steps={x: 1} is not a whole number",
        "optim.lr=fast": "optim.lr=fast is not a number",
        "model.condition_mask=maybe": "model.condition_mask=maybe is not true or false",
        "optim.decay=steep": "optim.decay=steep is not one of constant, linear, cosine",
        "optim.betas=[1,2,3]": "optim.betas=[1, 2, 3] is not a list of 2 numbers",
        "optim.betas=[0.9,b]": "optim.betas[1]=b is not a number",
        "checkpoint.resume_from=[1]": "checkpoint.resume_from=[1] is not text or null",
        f"run_dir=[{'9,' * 90}]": "run_dir=[9, 9, 9, ",
        "train=3": "train=3 is not a mapping; `cosmos-train explain train` lists the keys of this section",
        "recipe=wrold": f"recipe=wrold is unknown; use one of {', '.join(RUNS)}",
        "recipe=[1]": "recipe=[1] is unknown",
        "run_dir=${nowhere}": "run_dir: Interpolation key 'nowhere' not found",
    }.items(),
)
def test_a_value_that_does_not_fit(override: str, said: str):
    message = sentence(WORLD, override)
    assert message.startswith(f"{find_yaml(WORLD)}: {said}")
    assert "Config" not in message and "type" not in message and len(message) < 300


@pytest.mark.parametrize(
    "override", ["train.num_steps", "=3", "train.=3", "train..num_steps=3", "--train.num_steps=3", "optim.betas[0]=1"]
)
def test_a_malformed_override(override: str):
    assert sentence(WORLD, override) == f"override {override!r} is not of the form section.key=value"


@pytest.mark.parametrize("value", ["{", "${run_dir"])
def test_an_override_that_is_not_yaml(value: str):
    said = f"override 'run_dir={value}' has a value that is not YAML; put it in quotes"
    assert sentence(WORLD, f"run_dir={value}") == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n- b\n", "{} is not a mapping of keys to values"),
        ("a: [1,\n", "{} is not YAML: did not find expected node content in line 2, column 1"),
        ("a:\n\tb: 1\n", "{} is not YAML: found character that cannot start any token in line 2, column 1"),
        ("seed: 1\nseed: 2\n", "{} is not YAML: found duplicate key seed in line 2, column 1"),
        (b"\xff\xfe\x00", "{} is not YAML: it is no UTF-8 text"),
        ("run_dir: ${x\n", "{}: run_dir: no viable alternative at input '${{x'"),
        ("", "{}: recipe is missing; use one of tokenizer, world"),
        (
            "include: model/dit_demo\n",
            "{}: include=model/dit_demo names no section; write it as {{model: model/dit_demo}}",
        ),
        ("recipe: tokenizer\n3: x\n", "{}: unknown key 3; `cosmos-train explain` lists the keys"),
        (
            "recipe: tokenizer\nloss: null\n",
            "{}: loss=null is not a mapping; `cosmos-train explain loss` lists the keys",
        ),
    ],
)
def test_a_file_that_is_no_run(text: str | bytes, said: str, write):
    name = write("run.yaml", text)
    assert sentence(name).startswith(said.format(name))


def test_missing_keys_are_all_named(write):
    name = write("run.yaml", "recipe: tokenizer\nrun_dir: ???\ntrain: {num_steps: 1, micro_batch_size: 1}\n")
    assert sentence(name, "data.manifest=m", "data.num_frames=9", "data.height_px=64", "data.width_px=64") == (
        f"{name}: run_dir, train.global_batch_size, optim.lr must be given: there is no default "
        "(`cosmos-train explain run_dir`)"
    )


def test_an_unknown_file_names_similar_ones():
    message = sentence("run/demo_wrold")
    assert message.startswith("there is no file run/demo_wrold.yaml, and none of that name in ")
    assert "; the nearest: run/demo_world, " in message
    assert "nearest" not in sentence("qqqq")


def test_an_unknown_include_says_where_it_stands(write):
    name = write("run.yaml", "include: {model: model/dit_dmeo}\n")
    message = sentence(name)
    assert message.startswith(f"{name}: include.model=model/dit_dmeo: there is no file model/dit_dmeo.yaml, ")
    assert "; the nearest: model/dit_demo" in message


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        (WORLD, "parallel.tp=3", "model.num_heads=4 is not divisible by parallel.tp=3; use a tp of 1, 2, 4"),
        (
            WORLD,
            "parallel.pp=7",
            "model.num_blocks=4 can not be cut into parallel.pp=7 * parallel.pp_chunks=1 = 7 pieces with "
            "pp_first_blocks=None and pp_last_blocks=None: 4 blocks are left for 7 pieces, which need at least one "
            "each; use at most 4 pieces, or other counts for the first and last",
        ),
        (
            WORLD,
            "parallel.pp=2 parallel.pp_chunks=2 parallel.pp_first_blocks=3",
            "model.num_blocks=4 can not be cut into parallel.pp=2 * parallel.pp_chunks=2 = 4 pieces with "
            "pp_first_blocks=3 and pp_last_blocks=None: 1 blocks are left for 3 pieces, which need at least one "
            "each; use at most 4 pieces, or other counts for the first and last",
        ),
        (
            WORLD,
            "parallel.pp_chunks=2",
            "parallel.pp_chunks=2 interleaves pieces of a pipeline, but parallel.pp=1; set parallel.pp to 2 or more, "
            "or pp_chunks to 1",
        ),
        (
            WORLD,
            "parallel.pp_last_blocks=1",
            "parallel.pp_last_blocks=1 needs a pipeline, but parallel.pp=1; leave it out, or "
            "set parallel.pp to 2 or more",
        ),
        (
            WORLD,
            "parallel.tp=2 parallel.cp=4 parallel.cp_comm=a2a",
            "parallel.cp_comm=a2a divides the 2 heads of a rank (model.num_heads=4 / parallel.tp=2) by parallel.cp=4, "
            "which leaves a rest; use a cp of 1, 2, or cp_comm=all_gather",
        ),
        (
            WORLD,
            "parallel.cp=2 parallel.cp_comm=p2p parallel.layers=native",
            "parallel.cp_comm=p2p is TransformerEngine's ring, but parallel.layers=native; use cp_comm all_gather or "
            "a2a, or layers auto or te on a GPU",
        ),
        (WORLD, "parallel.tp=0", "parallel.tp=0 must be at least 1"),
        (
            WORLD,
            "parallel.sequence_parallel=true",
            "parallel.sequence_parallel=true divides tokens over tensor-parallel ranks, but parallel.tp=1; set "
            "parallel.tp to 2 or more, or switch sequence_parallel off",
        ),
        (
            WORLD,
            "model.condition_mask=false",
            "objective.max_condition_frames=1, but model.condition_mask=false leaves the network without the channel "
            "that marks them; set model.condition_mask=true (Video2World) or objective.max_condition_frames=0 "
            "(Text2World)",
        ),
        (
            WORLD,
            "train.global_batch_size=6",
            "train.global_batch_size=6 is not a multiple of train.micro_batch_size=4",
        ),
        (WORLD, "latents.hop_frames=0", "latents.hop_frames=0 must be at least 1"),
        (
            TOKENIZER,
            "parallel.tp=2",
            "parallel.tp=2, parallel.pp=1, parallel.cp=1: a tokenizer is trained data-parallel only; set all three to "
            "1",
        ),
        (TOKENIZER, "data.num_frames=10", "data.num_frames=10 is not 1 + 8 * n; use 9 or 17"),
        (
            TOKENIZER,
            "data.height_px=63",
            "data.height_px=63 is not a positive multiple of tokenizer.spatial_rate=8; use 56 or 64",
        ),
        (TOKENIZER, "tokenizer.patch=3", "tokenizer.patch=3 is not a power of two; use 2 or 4"),
    ],
)
def test_sections_check_themselves_and_each_other(name: str, overrides: str, said: str):
    assert sentence(name, *overrides.split()) == f"{find_yaml(name)}: {said}"


@pytest.mark.parametrize(
    ("overrides", "world_size", "said"),
    [
        (
            "parallel.tp=4",
            6,
            "parallel.tp=4 * parallel.pp=1 * parallel.cp=1 = 4 does not divide the 6 processes of this run; their "
            "product may be 1, 2, 3, 6",
        ),
        (
            "",
            3,
            "train.global_batch_size=8 is not a multiple of train.micro_batch_size=4 * 3 data-parallel ranks = 12; "
            "use a multiple of 12, or another parallel.tp, pp or cp",
        ),
        (
            "parallel.pp=2 parallel.pp_chunks=2 train.global_batch_size=12",
            2,
            "parallel.pp_chunks=2 sends micro-batches around in groups of parallel.pp=2, but a step has 3 of them "
            "(train.global_batch_size / 4); use a global batch that is a multiple of 8, or pp_chunks=1",
        ),
        ("", 0, "--nproc 0 must be at least 1"),
    ],
)
def test_layout_and_batch_must_suit_the_number_of_ranks(overrides: str, world_size: int, said: str):
    with pytest.raises(ConfigError) as caught:
        check_run(load_run(WORLD, overrides.split()), world_size)
    assert str(caught.value) == said


def test_the_layout_leaves_the_batch_to_the_data_parallel_ranks():
    check_run(load_run(WORLD, ["parallel.tp=2"]), 4)  # 8 samples on 2 replicas of 2 ranks


def test_configuration_needs_no_torch():
    code = (
        "import sys\n"
        "from cosmos_train.config.keys import all_keys, readers\n"
        "from cosmos_train.config.load import load_run, to_yaml\n"
        "from cosmos_train.config.validate import check_run\n"
        "for name in sys.argv[1:]:\n"
        "    run = load_run(name); check_run(run, 2); to_yaml(run)\n"
        "readers(all_keys()['train.num_steps'])\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, WORLD, TOKENIZER]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    loaded = set(result.stdout.split())
    assert "cosmos_train" in loaded
    assert not loaded & {"torch", "megatron", "av", "nvidia", "wandb", "transformers", "numpy", "pyarrow"}


def test_a_run_can_not_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_run(WORLD).seed = 3  # pyright: ignore[reportAttributeAccessIssue]


def _rest() -> str:
    """What a world run needs beside its model."""
    return (
        "recipe: world_dit\nrun_dir: r\nlatents: {folder: z, tokenizer: t}\noptim: {lr: 1.0}\n"
        "train: {num_steps: 1, global_batch_size: 1, micro_batch_size: 1}\n"
        "data: {manifest: m, num_frames: 9, height_px: 64, width_px: 64}\n"
    )
