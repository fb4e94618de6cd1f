"""Noise hides what moves, and a command says where it went: the right one helps, by how much depends on sigma."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from cosmos_data.simulate.config import PusherConfig
from cosmos_data.simulate.pusher import Pusher
from cosmos_train.conditions.conditioner import ConditionTensors
from cosmos_train.evaluate.following.denoising import DenoisingErrors, noise_level_figures
from cosmos_train.generate.config import SampleConfig
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.objectives.config import EdmConfig
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.worlds.diffusion import DiffusionWorld

TABLE = Pusher(PusherConfig(num_frames=9, height_px=16, width_px=16))
SEED = 3
WAYS_XY = [(0.04, 0.0), (-0.04, 0.0), (0.0, 0.04), (0.0, -0.04)]
STEPS = [np.tile(way_xy, (9, 1)) for way_xy in WAYS_XY]
TRUE_BTHW3 = np.stack([TABLE.played(SEED, steps).views[0].pictures_THW3 for steps in STEPS])


def table_errors(sigma: float, told: Sequence[int]) -> np.ndarray:
    """A denoiser makes these errors that takes what it sees and what its command leads to, each by its certainty."""
    noise = np.random.default_rng(0).normal(size=TRUE_BTHW3.shape)
    true, led_to = TRUE_BTHW3 / 255, TRUE_BTHW3[list(told)] / 255
    guess = (true + sigma * noise + sigma**2 * led_to) / (1 + sigma**2)
    return ((guess - true) ** 2).mean(axis=(1, 2, 3, 4))


def test_complaint_3_the_right_command_helps_where_noise_hides_what_moves():
    """The table draws what each command really leads to. At little noise nothing but the noise is wrong."""
    figures = noise_level_figures(table_errors, TRUE_BTHW3, sigmas=(0.001, 3.0))
    assert [figure.name.rpartition(" ")[2] for figure in figures] == ["0.001", "3"]
    hidden = figures[1]
    assert hidden.value == hidden.floor == 1 and hidden.ceiling < 1 and hidden.num_clips == 4


def test_complaint_3_a_model_that_does_not_read_its_command_is_told():
    """Its errors are the same whatever it is told, and equal is not better."""

    def deaf(sigma: float, _told: Sequence[int]) -> np.ndarray:
        return table_errors(sigma, range(4))

    for figure in noise_level_figures(deaf, TRUE_BTHW3):
        assert figure.value == figure.ceiling == 0 and figure.floor == 1


def test_clips_that_are_alike_tell_no_commands_apart():
    twins = TRUE_BTHW3[[0, 0, 1]]
    [figure] = noise_level_figures(lambda _sigma, told: np.array(told, dtype=float), twins, sigmas=(1.0,))
    assert figure.floor == pytest.approx(2 / 3), "the first one's next clip is the same"
    with pytest.raises(ValueError, match="give three or more"):
        noise_level_figures(table_errors, TRUE_BTHW3[:2])


# A real network


@pytest.fixture(scope="module")
def world() -> Iterator[DiffusionWorld]:
    """A small network that reads actions and extra channels, with weights in which nothing is zero."""
    model = DiTConfig(
        num_blocks=1,
        num_heads=1,
        head_dim=12,
        latent_channels=4,
        text_width=8,
        condition_mask=True,
        extra_channels=6,
        action_frames="each",
        action_width=2,
    )
    mesh = init.start(ParallelConfig(), seed=0)
    world = DiffusionWorld.build(
        model,
        ParallelConfig(),
        mesh,
        path=Path("steered"),
        dtype=torch.float32,
        seed=0,
        learned_uncertainty=False,
        objective=EdmConfig(),
        sampling=SampleConfig(),
    )
    draws = torch.Generator().manual_seed(1)
    for parameter in world.network.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=draws)
    yield world
    init.stop()


def errors_of(world: DiffusionWorld) -> DenoisingErrors:
    draws = torch.Generator().manual_seed(2)
    return DenoisingErrors(
        world=world,
        latents_BCTHW=torch.randn(3, 4, 3, 2, 2, generator=draws),
        text_BSE=torch.randn(3, 5, 8, generator=draws),
        fps=24.0,
        steering=ConditionTensors(
            extra_BCTHW=torch.randn(3, 6, 3, 2, 2, generator=draws),
            action_BTRA=torch.randn(3, 3, 1, 2, generator=draws),
        ),
    )


def test_errors_of_a_network_depend_on_the_command_and_on_nothing_else(world: DiffusionWorld):
    """Each call has the same noise, and each clip the command of the one that is named."""
    errors = errors_of(world)
    own_B, swapped_B = errors(2.0, [0, 1, 2]), errors(2.0, [0, 2, 1])
    assert own_B.shape == (3,) and (own_B > 0).all()
    np.testing.assert_array_equal(errors(2.0, [0, 1, 2]), own_B)
    np.testing.assert_allclose(swapped_B[0], own_B[0], rtol=1e-5)
    assert (np.abs(swapped_B[1:] / own_B[1:] - 1) > 1e-3).all()
    assert (errors(0.1, [0, 1, 2]) != own_B).all()
