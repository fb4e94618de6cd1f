"""A run whose model is steered: what it needs of its windows, what it keeps, and what its conditions are worth."""

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from support import averages, tiny_ar, tiny_world, training
from support.ranks import RankPool

from cosmos_train.conditions import action_rms
from cosmos_train.conditions.action_statistics import ACTIONS, Embodiments
from cosmos_train.conditions.conditioner import Conditioner
from cosmos_train.conditions.config import ActionConditionConfig, ConditionConfig
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import load_run
from cosmos_train.interop.convert import convert
from cosmos_train.interop.source import open_source
from cosmos_train.models.world_ar.config import WorldARConfig
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.recipes.table import make_task
from cosmos_train.train.checkpoint.judge import damage_of
from cosmos_train.train.config import CheckpointConfig
from cosmos_train.train.loop import DONE, train
from cosmos_train.windows.steering import read_embodiments

MODEL: dict[str, Any] = {
    key: value
    for key, value in asdict(tiny_world.STEERED).items()
    if key in ("extra_channels", "action_frames", "action_width", "num_embodiments")
}
CONDITION = ConditionConfig(dropout=0.3, probe_every_steps=2)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_world.write_cache(tmp_path_factory.mktemp("latents") / "steered", is_steered=True)


@pytest.fixture(scope="module")
def done(ranks: Callable[[int], RankPool], cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 4 steps, with a checkpoint after each second one."""
    folder = tmp_path_factory.mktemp("runs") / "steered"
    settings = {"num_steps": 4, "micro_batch_size": 2, "run": {"condition": CONDITION}}
    assert ranks(1).run(training.run_loop, cache, folder, ParallelConfig(), settings, MODEL) == [DONE]
    return folder


@pytest.fixture(scope="module")
def base(ranks: Callable[[int], RankPool], cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Video2World model's run, which knows of no condition."""
    folder = tmp_path_factory.mktemp("runs") / "base"
    assert ranks(1).run(training.run_loop, cache, folder, ParallelConfig(), {"num_steps": 2}) == [DONE]
    return folder


def test_statistics_lie_in_the_run_and_in_each_checkpoint(done: Path):
    kept = (done / ACTIONS).read_text()
    for step in (2, 4):
        assert (done / f"checkpoints/step-{step:08d}" / ACTIONS).read_text() == kept
    found = read_embodiments(done)
    assert found is not None and list(found.statistics) == ["arm", "pusher"]
    arm = found.statistics["arm"]
    assert arm.names == ("x", "y", "gripper") and arm.rate_hz == 24
    assert arm.num_steps == 3 * tiny_world.NUM_FRAMES, "three windows of the one training clip"
    assert read_embodiments(done.parent) is None


def test_complaint_4_other_statistics_are_damage(done: Path, tmp_path: Path):
    """The file is one of those whose digest a checkpoint has."""
    copy = tmp_path / "run/checkpoints/step-00000004"
    shutil.copytree(done / "checkpoints/step-00000004", copy)
    assert not damage_of(copy, contents=True)
    (copy / ACTIONS).write_text((copy / ACTIONS).read_text().replace("quantiles", "standard"))
    assert ACTIONS in "".join(damage_of(copy, contents=True))


def test_an_average_that_is_made_later_has_the_statistics(
    ranks: Callable[[int], RankPool], cache: Path, tmp_path: Path
):
    optim = {"ema_sigma_rels": (0.1,), "ema_snapshot_every_steps": 1}
    settings = {"num_steps": 1, "checkpoint": {"every_steps": 1}, "optim": optim}
    run_dir, out = tmp_path / "run", tmp_path / "average"
    assert ranks(1).run(training.run_loop, cache, run_dir, ParallelConfig(), settings, MODEL) == [DONE]
    ranks(1).run(averages.write_average, out, run_dir, 0.1)
    assert (out / ACTIONS).read_text() == (run_dir / ACTIONS).read_text()
    assert not damage_of(out, contents=True)


def test_complaint_3_the_worth_of_a_condition_is_logged(done: Path):
    steps = training.steps(done)
    for step in (1, 3):
        errors = [steps[step][f"condition/{name}"] for name in ("right", "shuffled", "zero")]
        assert len(set(errors)) == 3 and all(error > 0 for error in errors), "the actions differ, and so do the errors"
    for step in (2, 4):
        assert not any(name.startswith("condition/") for name in steps[step])


def test_a_probe_changes_nothing_of_the_training(
    ranks: Callable[[int], RankPool], cache: Path, done: Path, tmp_path: Path
):
    settings = {"num_steps": 4, "micro_batch_size": 2, "run": {"condition": ConditionConfig(dropout=0.3)}}
    assert ranks(1).run(training.run_loop, cache, tmp_path, ParallelConfig(), settings, MODEL) == [DONE]
    for step, found in training.steps(tmp_path).items():
        assert found["loss"] == training.steps(done)[step]["loss"]


def test_complaint_6_a_camera_and_actions_are_grown_from_a_video_model_without_an_effect(
    ranks: Callable[[int], RankPool], cache: Path, base: Path, tmp_path: Path
):
    """With zero effect the first error is the same with and without the conditions, and the video model's own on the
    same batch; later it is not. What a model reads that the video model did not may be read in any way."""
    settings: dict[str, Any] = {"num_steps": 1, "micro_batch_size": 2, "checkpoint": {"init_from": str(base)}}
    assert ranks(1).run(training.run_loop, cache, tmp_path / "plain", ParallelConfig(), settings) == [DONE]
    settings["checkpoint"] |= {"init_new": ("net.embed.weight", "net.action.*")}
    settings |= {
        "num_steps": 3,
        "run": {"condition": ConditionConfig(probe_every_steps=1, plucker_order="direction_first")},
    }
    run_dir = tmp_path / "steered"
    assert ranks(1).run(training.run_loop, cache, run_dir, ParallelConfig(), settings, MODEL) == [DONE]
    first, *_, last = training.steps(run_dir).values()
    assert first["condition/right"] == first["condition/shuffled"] == first["condition/zero"]
    of_base, untrained = training.losses(tmp_path / "plain")[1], training.losses(base)[1]
    assert first["loss"] == pytest.approx(of_base, rel=1e-6)
    assert untrained != pytest.approx(of_base, rel=1e-4), "which the base's weights are needed for"
    assert last["condition/right"] != last["condition/shuffled"]
    names = {name for name in open_source(run_dir).ours.meta if name.startswith("net.action.")}
    assert len(names) == 2 * (4 + 1), "every tensor is accounted for"


@pytest.mark.parametrize("layout", ["checkpoint", "ours"])
def test_a_run_from_another_keeps_the_statistics_that_its_weights_know(
    ranks: Callable[[int], RankPool], done: Path, tmp_path: Path, layout: str
):
    """Its own clips are fewer, so its own statistics would be others."""
    other = done
    if layout == "ours":
        other = tmp_path / "converted"
        convert(done, other)
    fewer = tiny_world.write_cache(tmp_path / "fewer", num_windows=9, is_steered=True)
    settings = {"num_steps": 1, "checkpoint": {"init_from": str(other), "every_steps": 1}}
    run_dir = tmp_path / "run"
    assert ranks(1).run(training.run_loop, fewer, run_dir, ParallelConfig(), settings, MODEL) == [DONE]
    assert read_embodiments(run_dir) == read_embodiments(done)


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        (ConditionConfig(plucker_order="direction_first"), "plucker_order=moment_first, this run has direction_first"),
        (ConditionConfig(camera_scale="metres"), "camera_scale=clip, this run has metres"),
        (ConditionConfig(camera_unit_m=2.0), r"camera_unit_m=1\.0, this run has 2\.0"),
        (ConditionConfig(action_normalize="standard"), "action_normalize=quantiles, this run has standard"),
    ],
    ids=lambda value: value.split("=")[0] if isinstance(value, str) else "",
)
def test_a_condition_is_read_as_the_weights_have_learned_it(
    ranks: Callable[[int], RankPool], cache: Path, done: Path, tmp_path: Path, condition: ConditionConfig, said: str
):
    settings = {"num_steps": 1, "checkpoint": {"init_from": str(done)}, "run": {"condition": condition}}
    with pytest.raises(AssertionError, match=rf"was trained with condition\.{said}; set the former"):
        ranks(1).run(training.run_loop, cache, tmp_path, ParallelConfig(), settings, MODEL)


@pytest.mark.parametrize(
    ("checkpoint", "optim", "said"),
    [
        ({}, {}, r"reads no actions: to start from it, list net\.action\.\* in checkpoint\.init_new"),
        (
            {"init_new": ("net.embed.weight", "net.action.*")},
            {"lr_factors": {"net.action.modulation.*": 0.0}},
            r"net\.action\.modulation\.embodiment\.weight.* leaves it as it begins for ever",
        ),
    ],
    ids=["complaint 19", "complaint 18"],
)
def test_complaints_18_and_19_what_a_checkpoint_lacks_is_an_error(
    ranks: Callable[[int], RankPool],
    cache: Path,
    base: Path,
    tmp_path: Path,
    checkpoint: dict[str, Any],
    optim: dict[str, Any],
    said: str,
):
    settings = {"num_steps": 1, "checkpoint": {"init_from": str(base), **checkpoint}, "optim": optim}
    with pytest.raises(AssertionError, match=said):
        ranks(1).run(training.run_loop, cache, tmp_path, ParallelConfig(), settings, MODEL)


def test_windows_without_the_condition_are_refused(ranks: Callable[[int], RankPool], tmp_path: Path):
    bare = tiny_world.write_cache(tmp_path / "bare")
    with pytest.raises(AssertionError, match="steered by camera and action, and of 9 training clips or windows 9 come"):
        ranks(1).run(training.run_loop, bare, tmp_path / "run", ParallelConfig(), {"num_steps": 1}, MODEL)


Said = dict[str, dict[str, float]]
"""Embodiment -> the root mean square of each dimension by name."""


def ar_run(cache: Path, run_dir: Path, checkpoint: dict[str, Any], model: WorldARConfig) -> tuple[list[float], Said]:
    """Losses of a short run whose weights come from elsewhere, if the checkpoint section says so, and how large its
    actions were at the network's input."""
    run = tiny_ar.make_run(cache, run_dir, ParallelConfig(), model, num_steps=2, micro_batch_size=2)
    run = dataclasses.replace(run, checkpoint=CheckpointConfig(every_steps=2, **checkpoint))
    mesh = init.start(run.parallel, seed=run.seed)
    run_dir.mkdir(parents=True, exist_ok=True)
    task = make_task(run, mesh)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(action_rms, "NUM_WINDOWS", 4)  # it has few
        assert train(run, task, mesh, code_version="test") == DONE
    losses = [step["loss"] for step in training.steps(run_dir).values()]
    return losses, task._steering.action_rms.said if model.action_width else {}


def test_an_autoregressive_model_of_text_becomes_one_of_actions(ranks: Callable[[int], RankPool], tmp_path: Path):
    """It begins with zeros in the text's place; its statistics lie in its checkpoint."""
    cache = tiny_ar.write_cache(tmp_path / "codes", shape_THW=(2, 2, 3), is_steered=True)
    base, steered = tmp_path / "base", tmp_path / "steered"
    ranks(1).run(ar_run, cache, base, {}, tiny_ar.MODEL)
    with pytest.raises(AssertionError, match=r"actions in the text's place, which at first say nothing: action\.\*"):
        ranks(1).run(ar_run, cache, steered, {"init_from": str(base)}, tiny_ar.STEERED)
    init_from = {"init_from": str(base), "init_new": ("action.*",)}
    [(losses, said)] = ranks(1).run(ar_run, cache, steered, init_from, tiny_ar.STEERED)
    assert len(losses) == 2
    assert list(said["arm"]) == ["x", "y", "gripper"] and all(said["arm"].values())
    found = read_embodiments(steered / "checkpoints/step-00000002")
    assert found is not None and list(found.statistics) == ["arm"]


def test_images_beside_a_steered_model_are_refused():
    folders = (Path("cache"), Path("run"), ParallelConfig())
    for run in (tiny_world.make_run(*folders, tiny_world.STEERED), tiny_ar.make_run(*folders, tiny_ar.STEERED)):
        latents = dataclasses.replace(run.latents, image_folder="images")
        with pytest.raises(ConfigError, match=r"image_share=0\.5, but images have neither .* set image_share=0"):
            dataclasses.replace(run, latents=latents, image_share=0.5)


def test_settings_without_an_effect_are_refused():
    run = tiny_world.make_run(Path("cache"), Path("run"), ParallelConfig())
    for condition in (ConditionConfig(dropout=0.1), ConditionConfig(probe_every_steps=5)):
        with pytest.raises(ConfigError, match="reads neither a camera's path nor actions"):
            dataclasses.replace(run, condition=condition)
    with pytest.raises(
        ConfigError, match=r"condition\.plucker_order=direction_first, but the model reads no camera's pat"
    ):
        dataclasses.replace(run, condition=ConditionConfig(plucker_order="direction_first"))
    standard = ActionConditionConfig(action_normalize="standard")
    for unsteered in (run, tiny_ar.make_run(Path("cache"), Path("run"), ParallelConfig())):
        of_kind = type(unsteered.condition)(action_normalize="standard")
        with pytest.raises(ConfigError, match=r"condition\.action_normalize=standard, but the model reads no actions"):
            dataclasses.replace(unsteered, condition=of_kind)
    steered = tiny_ar.make_run(Path("cache"), Path("run"), ParallelConfig(), tiny_ar.STEERED)
    assert dataclasses.replace(steered, condition=standard).condition == standard


def test_what_an_autoregressive_model_of_actions_has_not_is_refused_by_its_key():
    """Rows for several robots, and dropout, which serves guidance alone."""
    robots = [tiny_world.steering(clip, fps, (2, 3)).action for clip, fps in ((1, 24.0), (2, 30.0))]
    embodiments = Embodiments.of([one for one in robots if one is not None], ActionConditionConfig())
    with pytest.raises(ConfigError, match="actions of 2 embodiments, and an autoregressive model reads those of one"):
        Conditioner(ActionConditionConfig(), tiny_ar.STEERED, embodiments, temporal_rate=1)
    for key in ("model.num_embodiments=2", "condition.embodiments=[a, b]", "condition.dropout=0.1"):
        with pytest.raises(ConfigError, match=rf"{key.split('=')[0]} is no key of a world_ar run, only of world_dit"):
            load_run("run/posttrain/action_ar_5b", [key])
