"""Every number of every run, cluster and protocol: finite and in its range, in files and overrides."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest
from annotated_types import Ge, Gt, Interval, Le, Lt

from cosmos_train.config.cluster import ClusterConfig, ClusterFile, PeaksConfig
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import load_cluster, load_protocol, load_run
from cosmos_train.config.protocol import ProtocolConfig
from cosmos_train.config.ranges import MAX_INT, check_ranges, hints_of, without_null
from cosmos_train.config.schema import RUNS, LatentsConfig
from cosmos_train.generate.config import CodeSampleConfig, SampleConfig
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.models.world_ar.config import WorldARConfig
from cosmos_train.objectives.config import EdmConfig, FeaturesConfig, NextTokenConfig, ReconstructionConfig, TermConfig
from cosmos_train.parallel.config import ParallelConfig, PrecisionConfig
from cosmos_train.train.config import CheckpointConfig, OptimConfig, TrackingConfig, TrainConfig

SHIPPED = {"tokenizer": "run/demo_tokenizer", "world_dit": "run/demo_world", "world_ar": "run/simulated_world_ar"}
TREES = {**RUNS, "cluster": ClusterFile, "protocol": ProtocolConfig}
CLUSTER = "name: test\nranks_per_node: 2\n"


def numbers(section: type, prefix: str = "") -> Iterator[tuple[str, Any, int | None]]:
    """(path, type of the number, entries of the list that it stands in, if any) of every number of a tree."""
    for name, hint in hints_of(section).items():
        one = without_null(hint)
        if dataclasses.is_dataclass(one):
            yield from numbers(one, f"{prefix}{name}.")
            continue
        in_list = get_origin(one) is tuple
        of = get_args(one)[0] if in_list else get_args(one)[1] if get_origin(one) is dict else one
        plain = get_args(of)[0] if get_origin(of) is Annotated else of
        if plain in (int, float):
            count = (1 if Ellipsis in get_args(one) else len(get_args(one))) if in_list else None
            yield f"{prefix}{name}{'.x' if get_origin(one) is dict else ''}", of, count


def beyond(hint: Any) -> Iterator[str]:
    """Texts of numbers that a type excludes."""
    is_float = hint is float or get_args(hint)[:1] == (float,)
    yield from ("nan", ".nan", "inf", "-inf", ".inf", "1e400") if is_float else (str(MAX_INT + 1), "9" * 30, "nan")
    for stated in get_args(hint)[1:]:
        for bound in stated if isinstance(stated, Interval) else [stated]:
            match bound:
                case Gt(gt=limit):
                    yield str(limit)
                case Ge(ge=limit):
                    yield str(limit - 1)
                case Lt(lt=limit):
                    yield str(limit)
                case Le(le=limit):
                    yield str(limit + 1)


NUMBERS = []
for tree, section in TREES.items():
    NUMBERS += [(tree, *number) for number in numbers(section)]


def load(tree: str, path: str, text: str, folder: Path, *, from_file: bool) -> None:
    """Load the tree with one number changed."""
    if not from_file:
        override = f"{path}={text}"
        if tree in RUNS:
            load_run(SHIPPED[tree], [override])
        elif tree == "protocol":
            load_protocol(None, [override])
        else:
            (folder / "cluster.yaml").write_text(CLUSTER)
            load_cluster(str(folder / "cluster.yaml"), [override])
        return
    names = path.split(".")
    nested = f"{': {'.join(names)}: {text}{'}' * (len(names) - 1)}"
    file = folder / "file.yaml"
    if tree in RUNS:  # what is missing is told after what is wrong
        file.write_text(f"recipe: {tree}\n{nested}\n")
        load_run(str(file))
    elif tree == "protocol":
        file.write_text(nested)
        load_protocol(str(file))
    else:
        file.write_text("name: test\n" + nested.removeprefix("cluster: {").removesuffix("}") + "\n")
        load_cluster(str(file))


def test_there_are_numbers_of_all_kinds():
    paths = {f"{tree} {path}" for tree, path, *_ in NUMBERS}
    assert len(paths) > 200
    assert {
        "world_dit optim.lr",
        "world_ar optim.betas",
        "tokenizer optim.lr_factors.x",
        "cluster cluster.peaks.bf16",
    } <= paths


@pytest.mark.parametrize(
    ("tree", "path", "hint", "count"), NUMBERS, ids=[f"{tree} {path}" for tree, path, *_ in NUMBERS]
)
def test_what_is_not_finite_or_out_of_range_is_refused(
    tree: str, path: str, hint: Any, count: int | None, tmp_path: Path
):
    for text in beyond(hint):
        typed = text if count is None else f"[{', '.join([text] * count)}]"
        for from_file in (False, True):
            with pytest.raises(ConfigError) as caught:
                load(tree, path, typed, tmp_path, from_file=from_file)
            message = str(caught.value)
            name = path if count is None else f"{path}[0]"
            assert f": {name}=" in message or message.startswith(f"{name}="), f"{text}: {message}"
            assert "must be" in message or "is not a whole number" in message, message


@pytest.mark.parametrize("path", [f"{tree} {path}" for tree, path, hint, _ in NUMBERS if hint is int])
def test_whole_numbers_without_a_range_of_their_own_are_checked_by_their_section(path: str):
    """Those of cosmos_data and cosmos_tok, which know nothing of the framework: no count of theirs may be below 0."""
    tree, _, key = path.partition(" ")
    assert key.startswith(("data.", "tokenizer.", "text."))
    count = next(count for t, p, _, count in NUMBERS if (t, p) == (tree, key))
    with pytest.raises(ConfigError, match=rf"{key}=.*-1"):
        load_run(SHIPPED[tree], [f"{key}={'-1' if count is None else '[-1]'}"])


NAN = math.nan
MADE_IN_CODE = {
    "optim.lr": lambda: OptimConfig(lr=NAN),
    "optim.betas[1]": lambda: OptimConfig(lr=1e-4, betas=(0.9, NAN)),
    "optim.lr_factors.a": lambda: OptimConfig(lr=1e-4, lr_factors={"a": NAN}),
    "optim.ema_sigma_rels[0]": lambda: OptimConfig(lr=1e-4, ema_sigma_rels=(NAN,)),
    "train.hang_sec": lambda: TrainConfig(num_steps=1, global_batch_size=1, micro_batch_size=1, hang_sec=NAN),
    "train.micro_batch_size": lambda: TrainConfig(num_steps=1, global_batch_size=1, micro_batch_size=0),
    "checkpoint.keep_last": lambda: CheckpointConfig(keep_last=0),
    "tracking.alert_throughput_drop": lambda: TrackingConfig(alert_throughput_drop=NAN),
    "objective.loss_scale": lambda: EdmConfig(loss_scale=NAN),
    "objective.z_loss": lambda: NextTokenConfig(z_loss=NAN),
    "loss.l1.weight": lambda: ReconstructionConfig(l1=TermConfig(weight=NAN)),
    "loss.features.layer_weights[4]": lambda: FeaturesConfig(layer_weights=(1, 1, 1, 1, NAN)),
    "sample.guidance": lambda: SampleConfig(guidance=NAN),
    "sample.top_p": lambda: CodeSampleConfig(top_p=NAN),
    "model.base_fps": lambda: DiTConfig(num_blocks=1, num_heads=1, base_fps=NAN),
    "model.patch_spatial": lambda: DiTConfig(num_blocks=1, num_heads=1, patch_spatial=0),
    "model.rope_theta": lambda: WorldARConfig(num_blocks=1, width=64, rope_theta=math.inf),
    "parallel.cp_min_tokens": lambda: ParallelConfig(cp_min_tokens=-1),
    "parallel.precision.amax_history_len": lambda: PrecisionConfig(amax_history_len=0),
    "latents.max_gib": lambda: LatentsConfig(folder="z", tokenizer="t", max_gib=NAN),
    "cluster.peaks.fp8": lambda: PeaksConfig(fp8=math.inf),
    "cluster.max_retries": lambda: ClusterConfig(name="c", max_retries=-1),
    "pictures_fps": lambda: ProtocolConfig(pictures_fps=NAN),
}


@pytest.mark.parametrize("path", MADE_IN_CODE)
def test_sections_that_code_makes_check_themselves(path: str):
    with pytest.raises(ConfigError) as caught:
        MADE_IN_CODE[path]()
    assert str(caught.value).startswith(f"{path}=") and " must be " in str(caught.value)


def test_a_bound_of_another_kind_is_a_mistake_of_the_schema():
    @dataclasses.dataclass
    class Section:
        number: Annotated[int, "of apples"] = 3

    with pytest.raises(TypeError, match="'of apples' is no bound of a number"):
        check_ranges(Section(), "section")
