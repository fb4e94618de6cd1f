"""Each frame of a long video is steered by its own pose and its own action, whichever window shows it.

The first model does what it is told and nothing else: a frame shows the sum of the actions that lead to it, read from
the tensors that a network reads. The second is a real network.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.bare_world import FPS, FRAMES, LATENT_FRAMES, RATE, SIZES, UNSTEERED, BareWorld, make_codec
from torch import Tensor

from cosmos_data.config import DataConfig
from cosmos_data.errors import DataError
from cosmos_data.manifests.conditions import Action, Camera
from cosmos_data.sample_plan.window_conditions import WindowConditions
from cosmos_data.steering.camera_path import read_camera
from cosmos_data.steering.long_videos import lengthened, part_of
from cosmos_data.steering.steered import SteeredVideo
from cosmos_train.conditions.action_statistics import Embodiments
from cosmos_train.conditions.conditioner import Conditioner
from cosmos_train.conditions.config import ConditionConfig
from cosmos_train.config.errors import ConfigError
from cosmos_train.generate.config import SampleConfig
from cosmos_train.generate.world import window_seeds
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.objectives.config import EdmConfig
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.worlds.codec import Codec
from cosmos_train.worlds.diffusion import DiffusionWorld
from cosmos_train.worlds.world import OnStep, Prompts, TrainedWindows, WindowRequest

PLAIN = ConditionConfig(action_normalize="none")
MOVED = DiTConfig(**SIZES, action_frames="each", action_width=RATE)


def action(*values: float, rate_hz: float = FPS) -> Action:
    return Action(names=("x",), units=("px",), rate_hz=rate_hz, frame_of_reference="picture", values=values)


def conditioner_of(model: DiTConfig) -> Conditioner:
    embodiments = Embodiments.of([action(1.0, 2.0)], PLAIN) if model.action_width else None
    return Conditioner(PLAIN, model, embodiments, temporal_rate=RATE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mover(BareWorld):
    """A model whose latents have a channel for each pixel frame of a latent frame, which is where the thing is."""

    def encode(self, pixels_B3THW: Tensor) -> Tensor:
        first = pixels_B3THW[:, :1, :1].float().expand(-1, RATE, -1, -1, -1)
        rest = pixels_B3THW[:, 0, 1:].float().unflatten(1, (-1, RATE)).transpose(1, 2)
        return torch.cat((first, rest), dim=2)

    def decode(self, latents: Tensor) -> Tensor:
        frames_BTHW = torch.cat((latents[:, -1:, 0], latents[:, :, 1:].transpose(1, 2).flatten(1, 2)), dim=1)
        return frames_BTHW[:, None].expand(-1, 3, -1, -1, -1).to(torch.uint8)

    def sample_window(self, request: WindowRequest, on_step: OnStep = lambda _step: None) -> Tensor:
        self.requests.append(request)
        assert self.conditioner is not None
        read = self.conditioner.tensors(
            request.conditions,
            num_latent_frames=request.num_latent_frames,
            latent_HW=(1, 1),
            num_pixel_frames=1 + RATE * (request.num_latent_frames - 1),
            fps_B=request.fps_B,
        )
        assert read.action_BTRA is not None
        steps_BTR = read.action_BTRA.flatten(2)
        given = torch.zeros(len(request.seeds), RATE, 1, 1, 1) if request.given is None else request.given
        known = given.shape[2]
        moved_BTR = steps_BTR[:, known:].flatten(1).cumsum(dim=1).unflatten(1, (-1, RATE))
        places = given[:, -1:, -1:, 0, 0].transpose(1, 2) + moved_BTR
        return torch.cat((given, places.transpose(1, 2)[..., None, None]), dim=2)


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    yield init.start(ParallelConfig(), seed=0)
    init.stop()


@pytest.fixture(scope="module")
def codec() -> Codec:
    return make_codec()


@pytest.fixture
def mover(mesh: Mesh, codec: Codec) -> Mover:
    return Mover(
        path=Path("mover"),
        model=MOVED,
        mesh=mesh,
        dtype=torch.float32,
        sampling=SampleConfig(),
        codec=codec,
        windows=TrainedWindows(latent_shape=(4, LATENT_FRAMES, 1, 1), fps=FPS),
        conditioner=conditioner_of(MOVED),
    )


def shown(world: Mover, *of_each: Action, num_frames: int, num_condition_frames: int = 1) -> list[list[int]]:
    """Where the thing is in each frame of each video."""
    world = replace(world, sampling=SampleConfig(num_condition_frames=num_condition_frames))
    video = world.sample(
        seeds=range(len(of_each)), conditions=[WindowConditions(action=one) for one in of_each], num_frames=num_frames
    )
    return video[:, 0, :, 0, 0].tolist()


@pytest.mark.parametrize("num_condition_frames", [1, 2])
@pytest.mark.parametrize("num_frames", [2, 5, FRAMES, FRAMES + 1, 17, 30])
def test_a_chunk_join_drops_no_frame_and_no_action(mover: Mover, num_frames: int, num_condition_frames: int):
    """Complaint: chunk joins double a frame, and the following ones are late by one against their actions. Frame k is
    where actions 0 to k - 1 lead, also behind joins and in a last window of which a part is kept."""
    steps = np.random.default_rng(num_frames).integers(0, 8, num_frames)
    found = shown(mover, action(*steps.astype(float)), num_frames=num_frames, num_condition_frames=num_condition_frames)
    assert found == [[0, *np.cumsum(steps[:-1]).tolist()]]


def test_complaint_14_a_split_rollout_is_one_rollout(mover: Mover):
    """Two calls, the second from the first one's last frame with what is left of the actions, make the same video."""
    steps = tuple(float(step) for step in np.random.default_rng(3).integers(0, 8, 17))
    [whole] = shown(mover, action(*steps), num_frames=17)
    first = mover.sample(conditions=[WindowConditions(action=action(*steps[:9]))], num_frames=9)
    rest = WindowConditions(action=action(*steps[8:]))
    second = mover.sample("", first[0, :, -1:], conditions=[rest], num_frames=9)
    assert [*first[0, 0, :, 0, 0].tolist(), *second[0, 0, 1:, 0, 0].tolist()] == whole


def test_complaint_1_futures_of_one_state_follow_their_own_actions(mover: Mover):
    """Different trajectories are no longer the same video."""
    left, right = action(*[1.0] * 17), action(*[3.0] * 17)
    assert shown(mover, left, right, num_frames=17) == [list(range(17)), list(range(0, 51, 3))]
    assert [len(request.conditions) for request in mover.requests] == [2, 2], "in one batch"


def test_one_condition_is_every_seeds(mover: Mover):
    video = mover.sample(seeds=[1, 2, 3], conditions=[WindowConditions(action=action(*[2.0] * 9))], num_frames=9)
    assert video[:, 0, -1, 0, 0].tolist() == [16, 16, 16]


def test_complaint_19_what_a_model_can_not_be_steered_by(mover: Mover):
    """A condition that the checkpoint lacks is refused; and the reverse, and those of another kind or length."""
    camera = read_camera(
        "pan:20,fov_deg=60",
        SteeredVideo(num_frames=9, fps=FPS, height_px=8, width_px=8),
        DataConfig(manifest="unused", num_frames=9, height_px=8, width_px=8),
    )
    nine = action(*[1.0] * 9)
    bare, unsaid = replace(mover, conditioner=None, model=UNSTEERED), replace(mover, conditioner=None)
    for world, given, error, said in (
        (bare, [WindowConditions(action=nine)], ConfigError, "a camera path or actions were given, and mover was trai"),
        (bare, [WindowConditions(camera=camera)], ConfigError, "trained with neither; leave them out"),
        (unsaid, [WindowConditions(action=nine)], ConfigError, r"mover reads actions \(4 numbers of each latent frame"),
        (mover, [], ConfigError, "this model is steered by its action, and a window comes without one; give it"),
        (
            mover,
            [WindowConditions(action=nine, camera=camera)],
            ConfigError,
            "a condition was given, camera, that this",
        ),
        (mover, [WindowConditions(action=replace(nine, units=("m",)))], ConfigError, "units m instead of px"),
        (mover, [WindowConditions(action=action(*[1.0] * 8))], DataError, "8 values; 9 steps of 1 belong to 9 frames"),
        (mover, [WindowConditions(action=action(*[float("nan")] * 9))], DataError, "action: nan at step 0"),
        (mover, [WindowConditions(action=nine)] * 3, ConfigError, "3 conditions for 2 seeds; give one for all, or one"),
    ):
        with pytest.raises(error, match=said):
            world.sample(seeds=[0, 1], conditions=given, num_frames=9)


# A real network


@pytest.fixture(scope="module")
def steered(mesh: Mesh, codec: Codec) -> DiffusionWorld:
    """A small network that reads a camera path and actions, with weights in which nothing is zero."""
    model = DiTConfig(
        num_blocks=2,
        num_heads=2,
        head_dim=12,
        adaln_rank=8,
        latent_channels=4,
        text_width=8,
        condition_mask=True,
        extra_channels=6,
        action_frames="each",
        action_width=RATE,
    )
    world = DiffusionWorld.build(
        model,
        ParallelConfig(),
        mesh,
        path=Path("steered"),
        dtype=torch.float32,
        seed=0,
        learned_uncertainty=False,
        objective=EdmConfig(),
        sampling=SampleConfig(num_steps=4, guidance=2.0),
    )
    generator = torch.Generator().manual_seed(1)
    for parameter in world.network.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
        parameter.requires_grad_(False)
    return replace(
        world,
        codec=codec,
        windows=TrainedWindows(latent_shape=(4, LATENT_FRAMES, 2, 2), fps=FPS),
        conditioner=conditioner_of(model),
    )


def latents(world: DiffusionWorld, conditions: list[WindowConditions], **sampling: object) -> Tensor:
    """What the network makes of one noise and one first frame."""
    text = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(2))
    given = torch.randn(1, 4, 1, 2, 2, generator=torch.Generator().manual_seed(3))
    request = WindowRequest(
        prompts=Prompts(text_PSE=text, negative_text_1SE=0 * text),
        seeds=[5] * len(conditions),
        fps_B=[FPS] * len(conditions),
        num_latent_frames=LATENT_FRAMES,
        conditions=conditions,
        given=given,
    )
    return replace(world, sampling=replace(world.sampling, **sampling)).sample_window(request)


def whole(*steps: float, motion: str = "pan:20") -> WindowConditions:
    side_px = 2 * 8
    video = SteeredVideo(num_frames=len(steps), fps=FPS, height_px=side_px, width_px=side_px)
    data = DataConfig(manifest="unused", num_frames=len(steps), height_px=side_px, width_px=side_px)
    camera: Camera = read_camera(f"{motion},fov_deg=60", video, data)
    return WindowConditions(camera=camera, action=action(*steps))


def test_complaint_1_a_real_network_follows_either_condition(steered: DiffusionWorld):
    """Of one noise: another action or another path is another video, the same ones are the same in any batch."""
    plain, other_action, other_path = whole(*[1.0] * 9), whole(*[2.0] * 9), whole(*[1.0] * 9, motion="orbit:60")
    batch = latents(steered, [plain, other_action, other_path, plain])
    [alone] = latents(steered, [other_path])
    torch.testing.assert_close(batch[2], alone)
    torch.testing.assert_close(batch[0], batch[3])
    assert min(float((batch[0] - batch[number]).abs().max()) for number in (1, 2)) > 0.01


def test_guidance_leads_away_from_no_condition(steered: DiffusionWorld):
    """Without guidance the key has no effect; with it uncond is what a zero condition gives."""
    given = [whole(*[1.0] * 9)]
    guided = latents(steered, given, guide_condition=True)
    assert float((guided - latents(steered, given)).abs().max()) > 0.01
    with pytest.raises(ConfigError, match=r"sample.guide_condition=true takes camera path and actions from one branch"):
        SampleConfig(guide_condition=True, guidance=0.0)


def test_windows_of_a_real_network_are_given_their_own_parts(steered: DiffusionWorld, monkeypatch: pytest.MonkeyPatch):
    """The second of two windows is what `sample_window` makes of the last frame and of frames 8 to 16's conditions."""
    text = torch.zeros(1, 3, 8)
    prompts = Prompts(text_PSE=text, negative_text_1SE=text)
    monkeypatch.setattr(DiffusionWorld, "read_prompts", lambda _world, _named: prompts)
    conditions = whole(*np.arange(17.0).tolist(), motion="orbit:40")
    frames = torch.zeros(3, 1, 16, 16, dtype=torch.uint8)
    video = steered.sample("", frames, seeds=[4], conditions=[conditions], num_frames=17)
    request = WindowRequest(
        prompts=prompts,
        seeds=window_seeds([4], 1),
        fps_B=[FPS],
        num_latent_frames=LATENT_FRAMES,
        conditions=[part_of(conditions, 8, 9, of_frames=17, fps=FPS)],
        given=steered.encode(video[:, :, 8:9]),
    )
    assert torch.equal(video[:, :, 9:], steered.decode(steered.sample_window(request))[:, :, 1:])


# Parts of conditions


def test_parts_of_a_long_video_keep_frames_and_steps_together():
    """Frame k has the pose k, step k leads from it; past the end the camera stays and the last action goes on."""
    conditions = whole(*np.arange(9.0).tolist(), motion="dolly:8")
    long = lengthened(conditions, 9, to_frames=12, fps=FPS)
    part = part_of(long, 4, 8, of_frames=12, fps=FPS)
    assert part.camera is not None and part.action is not None
    np.testing.assert_allclose(part.camera.extrinsics_T34(8)[:, 2, 3], [4, 5, 6, 7, 8, 8, 8, 8])
    assert part.action.values == (4, 5, 6, 7, 8, 8, 8, 8)
