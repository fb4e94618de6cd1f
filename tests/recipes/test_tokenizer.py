"""A tokenizer and its discriminator in the framework's own loop: one backward pass, one checkpoint, one export."""

import dataclasses
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_tokenizer, training
from support.footage import FOOTAGE, carphone_clips
from support.ranks import RankPool
from support.tiny_tokenizer import ADVERSARIAL, CONTINUOUS, DISCRETE

from cosmos_data.config import DataConfig
from cosmos_data.manifests.build import build_manifest
from cosmos_tok.store import load_tokenizer
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import load_run
from cosmos_train.config.schema import TokenizerRun
from cosmos_train.objectives.config import DiscriminatorConfig, ReconstructionConfig, TermConfig
from cosmos_train.recipes.tokenizer import EXPORT
from cosmos_train.train.config import CheckpointConfig, OptimConfig
from cosmos_train.train.loop import DONE, STOPPED

PLAIN = {"loss": ReconstructionConfig()}
JOINT = {"image_share": 0.5}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return carphone_clips(tmp_path_factory.mktemp("footage"))


@pytest.fixture(scope="module")
def uninterrupted(ranks: Callable[[int], RankPool], manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps on two ranks, every other one of images, with the adversarial term from the third."""
    run_dir = tmp_path_factory.mktemp("uninterrupted")
    assert ranks(2).run(tiny_tokenizer.run_loop, manifest, run_dir, JOINT) == [DONE, DONE]
    return run_dir


# The run.


def test_resume_is_bit_identical_with_the_discriminator(
    ranks: Callable[[int], RankPool], manifest: Path, tmp_path: Path, uninterrupted: Path
):
    stopped = JOINT | {"train": {"stop_at_step": 3}}
    assert ranks(2).run(tiny_tokenizer.run_loop, manifest, tmp_path, stopped) == [STOPPED, STOPPED]
    assert ranks(2).run(tiny_tokenizer.run_loop, manifest, tmp_path, JOINT) == [DONE, DONE]
    assert training.steps(tmp_path) == training.steps(uninterrupted)
    for averaged in (False, True):
        mine, theirs = (
            ranks(1).run(tiny_tokenizer.saved, manifest, run, averaged)[0] for run in (tmp_path, uninterrupted)
        )
        assert any(name.startswith("discriminator.") for name in mine)
        for name, tensor in mine.items():
            assert torch.equal(tensor, theirs[name]), name


def test_one_process_learns_the_same(
    ranks: Callable[[int], RankPool], manifest: Path, tmp_path: Path, uninterrupted: Path
):
    assert ranks(1).run(tiny_tokenizer.run_loop, manifest, tmp_path, JOINT) == [DONE]
    for step, values in training.steps(tmp_path).items():
        assert values == pytest.approx(training.steps(uninterrupted)[step], rel=1e-3, abs=1e-5), step


def test_sizes_and_aspect_ratios_mix(ranks: Callable[[int], RankPool], tmp_path: Path):
    """Steps of 320 x 256 and of 320 x 192, images among them, and two ranks learn what one does."""
    (tmp_path / "videos").mkdir()
    for name in ("bikes.mp4", "carphone_pristine.mp4"):
        (tmp_path / "videos" / name).symlink_to(FOOTAGE / name)
    clips, *_ = build_manifest(tmp_path / "videos", clip_frames=30, heldout_every=None)
    clips.write(tmp_path / "footage.arrow")
    data = DataConfig(
        manifest=str(tmp_path / "footage.arrow"),
        num_frames=5,
        height_px=256,
        width_px=320,
        buckets="256",
        resize="pad",
    )
    settings = JOINT | PLAIN | {"data": data, "train": {"global_batch_size": 2}, "statistics_windows": 0}
    [alone] = ranks(1).run(tiny_tokenizer.sizes_of_batches, tmp_path / "footage.arrow", settings, 6)
    assert set(alone) == set(product((1, 5), (192, 256), (320,)))
    for num_ranks in (1, 2):
        done = ranks(num_ranks).run(
            tiny_tokenizer.run_loop, tmp_path / "footage.arrow", tmp_path / str(num_ranks), settings
        )
        assert done == [DONE] * num_ranks
    for step, values in training.steps(tmp_path / "2").items():
        assert values == pytest.approx(training.steps(tmp_path / "1")[step], rel=1e-3, abs=1e-5), step


def test_batches_are_sent_ahead_until_the_caller_stops(ranks: Callable[[int], RankPool], manifest: Path):
    num_threads, left = ranks(1).run(tiny_tokenizer.threads_of_batches, manifest)[0]
    assert num_threads >= 2, "one that sends, and those that decode"
    assert not left


def test_the_log_says_what_each_term_did(uninterrupted: Path):
    steps = training.steps(uninterrupted)
    assert {frozenset(values) for values in steps.values()} == {frozenset(steps[1])}
    assert {"loss", "l1", "adversarial", "adversarial_weight", "discriminator", "psnr_db", "ssim"} <= steps[1].keys()
    for step, values in steps.items():
        assert (values["adversarial_weight"] > 0) == (values["adversarial"] != 0) == (step > 2), step
        assert values["discriminator"] > 0
        if step <= 2:
            assert values["loss"] == values["l1"]


def test_export_is_the_averaged_tokenizer_alone(ranks: Callable[[int], RankPool], manifest: Path, uninterrupted: Path):
    tokenizer, config = load_tokenizer(uninterrupted / EXPORT)
    assert config == CONTINUOUS
    average = ranks(1).run(tiny_tokenizer.saved, manifest, uninterrupted, True)[0]
    last = ranks(1).run(tiny_tokenizer.saved, manifest, uninterrupted, False)[0]
    exported = tokenizer.state_dict()
    assert {f"tokenizer.{name}" for name in exported} == {n for n in average if not n.startswith("discriminator.")}
    for name, tensor in exported.items():
        assert torch.equal(tensor, average[f"tokenizer.{name}"]), name
    assert any(not torch.equal(tensor, last[f"tokenizer.{name}"]) for name, tensor in exported.items())


def test_export_of_a_bf16_run_without_averages_has_the_fp32_weights(
    ranks: Callable[[int], RankPool], manifest: Path, tmp_path: Path
):
    settings = PLAIN | {
        "optim": OptimConfig(lr=1e-3, eps=1e-8),
        "train": {"precision": "bf16", "num_steps": 1},
        "statistics_windows": 0,
    }
    assert ranks(1).run(tiny_tokenizer.run_loop, manifest, tmp_path, settings) == [DONE]
    exported = load_tokenizer(tmp_path / EXPORT)[0].state_dict()
    assert any(not torch.equal(tensor, tensor.bfloat16().float()) for tensor in exported.values())


def test_a_run_starts_from_a_tokenizer_with_another_loss(
    ranks: Callable[[int], RankPool], manifest: Path, tmp_path: Path, uninterrupted: Path
):
    settings = PLAIN | {"tokenizer_from": str(uninterrupted / EXPORT)}
    before = ranks(1).run(tiny_tokenizer.gradients, manifest, tmp_path, PLAIN, 0)[0]["metrics"]["l1"]
    after = ranks(1).run(tiny_tokenizer.gradients, manifest, tmp_path, settings, 0)[0]["metrics"]["l1"]
    assert after != before, "the same batch, through the weights of the run before"
    other = settings | {"tokenizer": dataclasses.replace(CONTINUOUS, channels=16)}
    name, message = ranks(1).run(training.failure_of, tiny_tokenizer.run_loop, manifest, tmp_path, other)[0]
    assert name == "ConfigError" and "tokenizer.channels=16 (there 8)" in message


# One backward pass for both sides.


def test_the_discriminator_leaves_the_tokenizer_alone(ranks: Callable[[int], RankPool], manifest: Path, tmp_path: Path):
    """Before the term starts the tokenizer's gradients are those of a run without a discriminator, to the bit."""
    pool = ranks(1)
    [alone] = pool.run(tiny_tokenizer.gradients, manifest, tmp_path, PLAIN, 0)
    [beside] = pool.run(tiny_tokenizer.gradients, manifest, tmp_path, {}, 0)
    assert alone["gradients"].keys() == {n for n in beside["gradients"] if n.startswith("tokenizer.")}
    for name, gradient in alone["gradients"].items():
        assert torch.equal(gradient, beside["gradients"][name]), name


@pytest.mark.parametrize("step", [0, 2], ids=["before the start", "after it"])
def test_the_tokenizer_leaves_the_discriminator_alone(
    ranks: Callable[[int], RankPool], manifest: Path, tmp_path: Path, step: int
):
    """Its gradients are those of its own hinge loss, whatever the tokenizer's terms are."""
    [found] = ranks(1).run(tiny_tokenizer.gradients, manifest, tmp_path, {}, step)
    assert found["judge_alone"]
    for name, gradient in found["judge_alone"].items():
        torch.testing.assert_close(found["gradients"][name], gradient, rtol=1e-4, atol=1e-6)
        assert gradient.any() or gradient.numel() == 1, name  # at first the last bias is pulled alike from both sides


@pytest.mark.parametrize("adaptive", [True, False])
def test_the_tokenizer_follows_the_discriminator(
    ranks: Callable[[int], RankPool], manifest: Path, tmp_path: Path, adaptive: bool
):
    """At the decoder's last weight; adaptive, the judge's pull is `weight` times as strong as that of all others."""
    loss = dataclasses.replace(
        ADVERSARIAL, discriminator=dataclasses.replace(ADVERSARIAL.discriminator, adaptive=adaptive)
    )
    [found] = ranks(1).run(tiny_tokenizer.gradients, manifest, tmp_path, {"loss": loss}, 2)
    by_l1, by_judge, both = found["at_last_weight"]
    factor = 0.5 * (by_l1.norm() / by_judge.norm() if adaptive else 1)
    assert found["metrics"]["adversarial_weight"] == pytest.approx(float(factor), rel=1e-3)
    torch.testing.assert_close(both, by_l1 + factor * by_judge, rtol=1e-3, atol=1e-6)
    expected = found["metrics"]["l1"] + float(factor) * found["metrics"]["adversarial"]
    assert found["metrics"]["loss"] == pytest.approx(expected, rel=1e-4)


def test_every_parameter_has_a_gradient_in_every_step(ranks: Callable[[int], RankPool], manifest: Path, tmp_path: Path):
    """Of images too, and before the term's start: where gradients are summed while others are computed, DDP waits."""
    for step in (0, 1, 2):
        [found] = ranks(1).run(tiny_tokenizer.gradients, manifest, tmp_path, JOINT, step)
        assert found["pixels"][2] == (1 if step == 1 else 5)
        assert all(gradient is not None for gradient in found["gradients"].values())


@pytest.mark.parametrize("release", ["1.0", "0.1"])
def test_gradients_are_summed_on_the_way(
    ranks: Callable[[int], RankPool], manifest: Path, tmp_path: Path, release: str
):
    """As on a GPU, where DDP counts gradients and fails if one does not come, or comes twice.

    Files of the 0.1 release have convolutions that nothing calls.
    """
    settings: dict[str, Any] = {"image_share": 0.5}
    if release == "0.1":
        old = dataclasses.replace(tiny_tokenizer.CONTINUOUS, extra_resampling=True, legacy_upsampling=True)
        settings["tokenizer"] = old
    after, on_the_way = (
        ranks(2).run(tiny_tokenizer.losses_with_overlap, manifest, tmp_path, overlap, settings)
        for overlap in ("off", "on")
    )
    assert after == on_the_way


# Images and video.


def test_all_ranks_load_images_in_the_same_steps(ranks: Callable[[int], RankPool], manifest: Path, tmp_path: Path):
    one, other = ranks(2).run(tiny_tokenizer.frames_of_steps, manifest, tmp_path, JOINT, range(4))
    assert one == other == [[5, 5], [1, 1], [5, 5], [1, 1]]
    [alone] = ranks(1).run(tiny_tokenizer.frames_of_steps, manifest, tmp_path, JOINT, [3, 2])
    assert alone == [[1] * 4, [5] * 4], "wherever a run is resumed"


# Codes.


def test_a_discrete_tokenizer_logs_its_codes(ranks: Callable[[int], RankPool], manifest: Path, tmp_path: Path):
    settings = PLAIN | {"tokenizer": DISCRETE}
    metrics = ranks(1).run(tiny_tokenizer.gradients, manifest, tmp_path, settings, 0)[0]["metrics"]
    assert 0 < metrics["code_usage"] <= 1
    assert 1 <= metrics["code_perplexity"] <= 12
    assert "discriminator" not in metrics


# What can not be.


def configured(*overrides: str) -> TokenizerRun:
    run = load_run("run/demo_tokenizer", overrides)
    assert isinstance(run, TokenizerRun)
    return run


def test_the_demo_has_l1_alone():
    run = configured()
    assert [name for name, term in run.loss.terms.items() if term.weight] == ["l1"]
    assert run.image_share == 0


def test_terms_are_set_like_any_other_key():
    run = configured("loss.adversarial.weight=0.1", "loss.adversarial.start_step=50", "loss.discriminator.channels=32")
    assert run.loss.adversarial == TermConfig(weight=0.1, start_step=50)
    assert run.loss.discriminator == DiscriminatorConfig(channels=32)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["image_share=1.5"], "image_share=1.5 must be at least 0 and at most 1"),
        (
            ["data.height_px=8", "loss.flow.weight=1"],
            "data.height_px=8 and data.width_px=64 are too small for loss.flow",
        ),
        (["data.width_px=16", "loss.adversarial.weight=1", "loss.discriminator.num_halvings=5"], "needs 32 px"),
        (["loss.gram.weight=-1"], "loss.gram.weight=-1"),
        (["loss.discriminator.channels=0"], "loss.discriminator.channels=0"),
        (["loss.l2.weight=1"], "loss.l2"),
        (["tokenizer_from=a", "checkpoint.init_from=b"], "exclude each other"),
    ],
)
def test_what_can_not_be_is_named(overrides: list[str], said: str):
    with pytest.raises(ConfigError) as caught:
        configured(*overrides)
    assert said in str(caught.value)


def test_a_checkpoint_without_a_discriminator_is_no_start(
    ranks: Callable[[int], RankPool], manifest: Path, tmp_path: Path
):
    """Never a fresh one in silence."""
    settings = PLAIN | {"train": {"num_steps": 2}}
    assert ranks(1).run(tiny_tokenizer.run_loop, manifest, tmp_path / "plain", settings) == [DONE]
    warm = {"checkpoint": CheckpointConfig(init_from=str(tmp_path / "plain"))}
    name, message = ranks(1).run(training.failure_of, tiny_tokenizer.run_loop, manifest, tmp_path / "warm", warm)[0]
    assert name == "CheckpointError" and "discriminator.layers.0.bias: absent in the checkpoint" in message
