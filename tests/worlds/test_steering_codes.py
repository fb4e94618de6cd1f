"""An autoregressive model makes another video under another action, and the same under the same."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import tiny_ar, tiny_world

from cosmos_data.sample_plan.window_conditions import WindowConditions
from cosmos_tok.config import TokenizerConfig
from cosmos_tok.model import CausalVideoTokenizer
from cosmos_tok.store import save_tokenizer
from cosmos_train.conditions.action_statistics import Embodiments
from cosmos_train.conditions.conditioner import Conditioner
from cosmos_train.conditions.config import ActionConditionConfig
from cosmos_train.config.errors import ConfigError
from cosmos_train.generate.config import CodeSampleConfig
from cosmos_train.interop.names_ar import ar_table
from cosmos_train.interop.official_ar import official_arguments, write_official
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.worlds.autoregressive import AutoregressiveWorld
from cosmos_train.worlds.codec import Codec
from cosmos_train.worlds.file import WindowSize
from cosmos_train.worlds.opening import open_world
from cosmos_train.worlds.world import TrainedWindows, WindowRequest

LATENT_HW, FPS = (2, 3), 24.0
TOKENIZER = TokenizerConfig(
    kind="discrete",
    media="image",
    temporal_rate=1,
    channels=32,
    channel_multipliers=(1, 1, 1),
    z_channels=4,
    latent_channels=5,
    fsq_levels=(2,) * 5,
)
NORMALIZED = ActionConditionConfig(action_normalize="none")
ACTION = tiny_world.steering(1, FPS, LATENT_HW).action


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    yield init.start(ParallelConfig(), seed=0)
    init.stop()


@pytest.fixture(scope="module")
def world(mesh: Mesh) -> AutoregressiveWorld:
    """A model of random weights that attends to its action, on a tokenizer of images, of 8 pixels a code."""
    model = replace(tiny_ar.STEERED, yarn_scale=1.0)
    sampling = CodeSampleConfig(temperature=0.0, num_condition_frames=1)
    found = AutoregressiveWorld.build(
        model, ParallelConfig(), mesh, path=Path("steered"), dtype=torch.float32, seed=1, sampling=sampling
    )
    with torch.no_grad():
        for name, param in found.network.named_parameters():
            if name.startswith(("blocks.", "action.")) and not name.endswith("norm.weight"):
                param.copy_(torch.randn(param.shape, generator=torch.Generator().manual_seed(len(name))))
    torch.manual_seed(0)
    tokenizer = CausalVideoTokenizer(TOKENIZER).eval()
    assert ACTION is not None
    return replace(
        found,
        codec=Codec(tokenizer=tokenizer, digest="", statistics=None),
        windows=TrainedWindows(latent_shape=(1, 2, *LATENT_HW), fps=FPS),
        conditioner=Conditioner(NORMALIZED, model, Embodiments.of([ACTION], NORMALIZED), temporal_rate=1),
    )


def sample(world: AutoregressiveWorld, *factors: float) -> torch.Tensor:
    """A video for each action, all from one picture and one seed."""
    assert ACTION is not None
    ones = [
        replace(ACTION, values=tuple(factor * value for value in ACTION.part(0, 3, FPS).values)) for factor in factors
    ]
    picture = torch.zeros(3, 1, 16, 24, dtype=torch.uint8)
    conditions = [WindowConditions(action=one) for one in ones]
    return world.sample("", picture, seeds=[0] * len(factors), conditions=conditions, num_frames=3)


def test_complaint_1_another_action_is_another_video(world: AutoregressiveWorld):
    one, same, other = sample(world, 1.0, 1.0, -1.0)
    assert torch.equal(one, same) and not torch.equal(one[:, 1:], other[:, 1:])


def test_what_cross_attention_reads_is_what_the_network_takes(world: AutoregressiveWorld):
    """Evaluation gives it to the network, which gives no logits without an action."""
    assert ACTION is not None
    given = torch.zeros(1, 1, *LATENT_HW, dtype=torch.int64)
    conditions = [WindowConditions(action=ACTION)]
    request = WindowRequest(
        prompts=None, seeds=[0], fps_B=[FPS], num_latent_frames=2, conditions=conditions, given=given
    )
    read_BSE, ids_BL = world.read_by_cross_attention(request), torch.zeros(1, 6, dtype=torch.int64)
    assert read_BSE is not None and read_BSE[0, 0].tolist() == pytest.approx(ACTION.values[:3])
    assert world(ids_BL, LATENT_HW, read_BSE).isfinite().all()
    with pytest.raises(ConfigError):
        world(ids_BL, LATENT_HW)


def test_an_action_is_asked_for(world: AutoregressiveWorld):
    with pytest.raises(ConfigError, match="steered by its action"):
        world.sample("", torch.zeros(3, 1, 16, 24, dtype=torch.uint8), num_frames=3)


def test_an_official_file_that_is_steered_makes_the_same_videos(world: AutoregressiveWorld, tmp_path: Path):
    """To the bit, given the tokenizer and what its actions mean, which such a file does not say."""
    weights = dict(world.network.named_parameters())

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for entry in ar_table(world.config):
            yield from zip(entry.official, entry.split(weights[entry.ours].detach()), strict=True)

    path = write_official(tmp_path, "official", world.config, tensors, tp=1)
    assert world.codec is not None and world.conditioner is not None
    save_tokenizer(tmp_path / "tokenizer", world.codec.tokenizer, TOKENIZER, {})
    of_file = open_world(
        path,
        arguments=official_arguments(world.config),
        tokenizer=tmp_path / "tokenizer",
        window=WindowSize(num_frames=2, height_px=16, width_px=24, fps=FPS),
        condition=NORMALIZED,
        embodiments=world.conditioner.embodiments,
    )
    assert isinstance(of_file, AutoregressiveWorld)
    found = sample(replace(of_file, sampling=world.sampling), 1.0, -1.0)
    assert torch.equal(found, sample(world, 1.0, -1.0)) and not torch.equal(found[0], found[1])
