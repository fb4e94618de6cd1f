"""A model that is steered is judged by the conditions of the windows themselves, as `sample` takes them from a clip."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from support import filled_run

from cosmos_data.decoders.decode import choose_decoder
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.simulate.config import PusherConfig
from cosmos_data.simulate.folder import SimulationRequest, simulate
from cosmos_launch.cli.main import main
from cosmos_launch.cli.sample import sample_request
from cosmos_launch.cli.sample_conditions import read_conditions
from cosmos_launch.cli.sample_request import SampleRequest
from cosmos_train.evaluate.held_out import regular_windows
from cosmos_train.evaluate.world import predict, read_captions
from cosmos_train.parallel import init
from cosmos_train.worlds.opening import open_world
from cosmos_train.worlds.run import find_run
from cosmos_train.worlds.world import Clock


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a step that encodes windows of a simulated pusher, steered by its actions."""
    folder = tmp_path_factory.mktemp("steered")
    world = PusherConfig(height_px=32, width_px=48, num_frames=9, fps=10.0)
    simulate(folder / "pusher", SimulationRequest(world=world, num_train=4, num_heldout=2), num_workers=1)
    run = filled_run.make_run(filled_run.write_inputs(folder), folder / "cache", folder / "run")
    model = dataclasses.replace(run.model, action_frames="each", action_width=8, num_blocks=2)
    data = dataclasses.replace(run.data, manifest=str(folder / "pusher/manifest.arrow"))
    train = dataclasses.replace(run.train, num_steps=1)
    assert filled_run.train_here(dataclasses.replace(run, model=model, data=data, train=train)) > 0
    return folder


def test_the_same_video_as_sample_makes_of_the_clips_actions(folder: Path, tmp_path: Path):
    found = find_run(folder / "run", ["sample.num_steps=2", "sample.guidance=0"])
    world, data = open_world(found), found.run.data
    for piece in world.networks:
        for name, parameter in piece.named_parameters():
            if name.endswith("modulation.up.weight"):  # else actions would have no effect yet
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    first, other = regular_windows(world.require_trained(), "heldout", 2)
    pixels = choose_decoder(data, [Manifest([first.sample.clip])]).decode([first.sample])
    evaluated = world.decode(predict(world, [first], pixels, read_captions(world, [first])))
    Image.fromarray(pixels[0, :, 0].permute(1, 2, 0).numpy()).save(tmp_path / "first.png")
    videos = {}
    for window in (first, other):
        request = SampleRequest(
            prompt=first.caption,
            input_path=tmp_path / "first.png",
            seed=first.number,
            actions=(f"{data.manifest}#{window.sample.clip.clip_id}",),
        )
        conditions = read_conditions(request, found, 9)
        videos[window.number] = sample_request(world, request, data, [request.seed], 9, Clock(), conditions)
    init.stop()
    assert torch.equal(evaluated, videos[first.number])
    assert not torch.equal(evaluated, videos[other.number]), "another clip's actions lead elsewhere"


def test_a_steered_run_is_evaluated(folder: Path, tmp_path: Path):
    line = ["evaluate", "world", str(folder / "run"), "sample.num_steps=1", "--max-windows", "2"]
    assert main([*line, "--out", str(tmp_path / "out.json")]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["num_windows"] == 2
