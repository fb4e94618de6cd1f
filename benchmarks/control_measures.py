"""How far post-trained models of benchmarks/control.py follow what they are told, on held-out clips.

Each measure films or plays the truth of a command in the simulated world itself, has the model make the same clip of
its first frame, and finds in both what the command was about (cosmos_train.evaluate.following).

B clips, T frames, H W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cosmos_data.geometry.poses import camera_to_world_T44
from cosmos_data.manifests.conditions import Action
from cosmos_data.sample_plan.window_conditions import WindowConditions
from cosmos_data.simulate.clips import SimulatedClip
from cosmos_data.simulate.config import PusherConfig, RoomConfig
from cosmos_data.simulate.folder import FIRST_HELDOUT_SEED
from cosmos_data.simulate.push_policies import DIRECTIONS
from cosmos_data.simulate.pusher import COLORS_RGB, HAND_RGB, Pusher
from cosmos_data.simulate.room import CAMERA_HIGH_M, CAMERA_LOW_M, Room, caption_of
from cosmos_train.evaluate.following.camera import (
    camera_figures,
    doubled_figure,
    return_figure,
    there_and_back,
    with_moves,
)
from cosmos_train.evaluate.following.camera_pose import PoseEstimator
from cosmos_train.evaluate.following.denoising import DenoisingErrors, noise_level_figures
from cosmos_train.evaluate.following.figure import Figure
from cosmos_train.evaluate.following.inverse_dynamics import InverseDynamics
from cosmos_train.evaluate.following.places import (
    Task,
    counterfactual_figure,
    instruction_figure,
    movement_figure,
    place_figures,
    places_of_color,
    still_figure,
)
from cosmos_train.evaluate.following.quality import kept_quality_figure
from cosmos_train.worlds.diffusion import DiffusionWorld
from cosmos_train.worlds.opening import open_world
from cosmos_train.worlds.run import find_run
from cosmos_train.worlds.world import WindowRequest, World

NUM_CLIPS = 32
"""Held-out clips that are judged."""
NUM_TRACKED = 8
"""The camera is found again in each frame of so many clips, four times over, which takes half a second a frame."""
NUM_FEW = 6
"""So many of them are judged where each one takes a further video."""
NUM_SHOWN = 4
"""The page shows so many of these."""
NUM_READER_CLIPS = 300
"""Training clips from which the reader of actions learns."""
STEPS_A_LATENT_FRAME = 4
"""The model is told so many actions together."""
LEAST_MOVE_PX = 1.0
"""A thing that goes less far in a clip is not pushed there, and says nothing."""
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}


@dataclass(frozen=True, slots=True)
class Strip:
    """A row of frames for the page."""

    label: str
    frames_THW3: np.ndarray


@dataclass(frozen=True, slots=True)
class Measured:
    """One condition's figures, and frames to look at, are held here."""

    figures: list[Figure]
    strips: list[Strip]


@dataclass(frozen=True, slots=True)
class Asked:
    """A clip that the model is to make: its first frame, what it is told, and what is true of that."""

    first_HW3: np.ndarray
    prompt: str
    conditions: WindowConditions
    true_THW3: np.ndarray


def measure_camera(run_dir: Path, config: RoomConfig) -> Measured:
    """Commanded paths against poses that are found again in the frames, without knowing the path."""
    world, room = open_world(run_dir), Room(config)
    clips = [room.clip(seed) for seed in heldout_seeds()[:NUM_TRACKED]]
    commanded_BT44 = np.stack([_poses(clip) for clip in clips])
    others_BT44 = np.stack([_others_path(clip, clips, number) for number, clip in enumerate(clips)])
    own, other = (
        [_filmed(room, clip, poses_T44) for clip, poses_T44 in zip(clips, paths_BT44, strict=True)]
        for paths_BT44 in (commanded_BT44, others_BT44)
    )
    made, made_of_other = generated(world, own), generated(world, other)
    estimator = PoseEstimator(
        render=lambda poses_N44: room.filmed(room.scene(0), poses_N44[:, :3]).views[0].pictures_THW3
    )
    found_BT44, true_BT44, found_other_BT44, true_other_BT44 = (
        np.stack([estimator.track(pictures, path[0]) for pictures, path in zip(of, commanded_BT44, strict=True)])
        for of in (made, _true(own), made_of_other, _true(other))
    )
    figures = camera_figures(found_BT44, true_BT44, commanded_BT44, is_scale_known=True)
    matrices = (found_other_BT44, true_other_BT44, others_BT44, commanded_BT44)
    figures.append(counterfactual_figure(*(poses_BT44[:, 1:, :3] for poses_BT44 in matrices)))
    figures += _figures_of_further_paths(world, room, estimator, clips[:NUM_FEW], found_BT44, true_BT44)
    true = np.stack(_true(own))
    figures.append(movement_figure(made, true, np.repeat(true[:, :1], true.shape[1], axis=1)))
    figures += _figures_of_denoising(world, own)
    figures.append(_kept_quality(run_dir, own, made))
    return Measured(figures, _strips(own, made, other, made_of_other))


def measure_action(run_dir: Path, config: PusherConfig) -> Measured:
    """Commanded actions against the places of the hand and of what it pushes."""
    world, pusher = open_world(run_dir), Pusher(config)
    seeds = heldout_seeds()
    clips = [pusher.clip(seed) for seed in seeds]
    actions = [_action(clip).values_ND() for clip in clips]
    own = [_played(clip) for clip in clips]
    turned = [pusher.played(seed, -steps) for seed, steps in zip(seeds, actions, strict=True)]
    other = [_played(clip) for clip in turned]
    still = [_played(pusher.played(seed, 0 * steps)) for seed, steps in zip(seeds, actions, strict=True)]
    made, made_of_other, made_still = (generated(world, asked) for asked in (own, other, still))
    true = np.stack([one.true_THW3 for one in own])
    figures = list[Figure]()
    white, colors = [HAND_RGB] * len(clips), [COLORS_RGB[pusher.scene(seed).colors[0]] for seed in seeds]
    hands_BT2 = config.width_px * np.stack([clip.states["hand_T2"] for clip in clips])
    things_BT2 = config.width_px * np.stack([clip.states["objects_TN2"][:, 0] for clip in clips])
    moves = np.abs(things_BT2 - things_BT2[:, :1]).max(axis=(1, 2)) > LEAST_MOVE_PX
    for name, is_counted, of_clip, commanded_BT2 in (
        ("hand", np.ones_like(moves), white, hands_BT2),
        ("pushed thing", moves, colors, things_BT2),
    ):
        found_BT2, true_BT2 = _places_BT2(made, of_clip), _places_BT2(true, of_clip)
        of_places = place_figures(found_BT2[is_counted], true_BT2[is_counted], commanded_BT2[is_counted])
        still_BT2, true_still_BT2 = _places_BT2(made_still, of_clip), _places_BT2(_true(still), of_clip)
        of_places.append(still_figure(still_BT2, true_still_BT2, found_BT2))
        figures += [replace(figure, name=f"{name}'s {figure.name}") for figure in of_places]
    figures.append(movement_figure(made, true, made_still))
    turned_BT2 = config.width_px * np.stack([clip.states["hand_T2"] for clip in turned])
    hands = (_places_BT2(made_of_other, white), _places_BT2(_true(other), white), turned_BT2, hands_BT2)
    figures.append(counterfactual_figure(*(places_BT2[:, 1:] for places_BT2 in hands)))
    reader = InverseDynamics.trained(*_pairs_to_learn_from(pusher), steps_apart=STEPS_A_LATENT_FRAME)
    figures.append(reader.figure(made, true, np.stack(actions)))
    figures += _figures_of_denoising(world, own)
    figures.append(_kept_quality(run_dir, own, made))
    return Measured(figures, _strips(own, made, other, made_of_other))


def measure_instruction(run_dir: Path, config: PusherConfig) -> Measured:
    """Two tasks of one first frame: which of them is carried out."""
    world = open_world(run_dir)
    by_task = {name: Pusher(replace(config, policy="task", task=name)) for name in DIRECTIONS}
    seeds, names = heldout_seeds(), list(DIRECTIONS)
    asked_of = [names[number % len(names)] for number in range(len(seeds))]
    own = [_played(by_task[name].clip(seed)) for name, seed in zip(asked_of, seeds, strict=True)]
    other = [_played(by_task[OPPOSITE[name]].clip(seed)) for name, seed in zip(asked_of, seeds, strict=True)]
    made, made_of_other = generated(world, own), generated(world, other)
    colors = [COLORS_RGB[by_task["left"].scene(seed).colors[0]] for seed in seeds]
    found_BTN2, true_BTN2 = (
        _places_BT2(clips, 2 * colors)[:, :, None] for clips in ([*made, *made_of_other], _true([*own, *other]))
    )
    tasks = [Task(0, DIRECTIONS[name]) for name in asked_of]
    others = [Task(0, DIRECTIONS[OPPOSITE[name]]) for name in asked_of]
    figure = instruction_figure(found_BTN2, true_BTN2, tasks + others, others + tasks)
    return Measured([figure, _kept_quality(run_dir, own, made)], _strips(own, made, other, made_of_other))


def heldout_seeds() -> list[int]:
    """Return the seeds of the clips that are judged, which lie in the folder's held-out split."""
    return [FIRST_HELDOUT_SEED + number for number in range(NUM_CLIPS)]


def generated(world: World, asked: Sequence[Asked]) -> np.ndarray:
    """Return what a model makes of each first frame as it is told, uint8 [B, T, H, W, 3]."""
    made = []
    for number, one in enumerate(asked):
        first_3THW = torch.from_numpy(one.first_HW3.transpose(2, 0, 1)[:, None].copy())
        is_steered = one.conditions.camera is not None or one.conditions.action is not None
        conditions = [one.conditions] if is_steered else []
        video_B3THW = world.sample(
            one.prompt, first_3THW, seeds=[number], conditions=conditions, num_frames=len(one.true_THW3)
        )
        made.append(video_B3THW[0].permute(1, 2, 3, 0).numpy())
    return np.stack(made)


def _figures_of_further_paths(
    world: World,
    room: Room,
    estimator: PoseEstimator,
    clips: Sequence[SimulatedClip],
    found_BT44: np.ndarray,
    true_BT44: np.ndarray,
) -> list[Figure]:
    """Return figures of each clip's path there and back, and of the same path with half of its moves.

    Args:
        found_BT44, true_BT44: what was found of the clips' own paths, which move twice as far as those with half.
    """
    paths = [_poses(clip) for clip in clips]
    back, half = (
        [_filmed(room, clip, changed(path_T44)) for clip, path_T44 in zip(clips, paths, strict=True)]
        for changed in (there_and_back, _with_half_of_the_moves)
    )
    found_of_half_BT44, true_of_half_BT44 = (
        np.stack([estimator.track(pictures, path[0]) for pictures, path in zip(of, paths, strict=True)])
        for of in (generated(world, half), _true(half))
    )
    commanded_BT44 = np.stack([_with_half_of_the_moves(path_T44) for path_T44 in paths])
    return [
        return_figure(generated(world, back), np.stack(_true(back))),
        doubled_figure(
            found_of_half_BT44, found_BT44[: len(clips)], true_of_half_BT44, true_BT44[: len(clips)], commanded_BT44
        ),
    ]


def _with_half_of_the_moves(poses_T44: np.ndarray) -> np.ndarray:
    """Return a path that stays where cameras go, which one with twice the moves may leave."""
    return with_moves(poses_T44, 0.5)


def _figures_of_denoising(world: World, asked: Sequence[Asked]) -> list[Figure]:
    """Return at which noise levels the clips are denoised better under their own commands."""
    assert isinstance(world, DiffusionWorld), "the small models are"
    true_BTHW3 = np.stack(_true(asked))
    prompts = world.read_prompts({f"caption {number}": one.prompt for number, one in enumerate(asked)})
    latents = world.encode(torch.from_numpy(true_BTHW3.transpose(0, 4, 1, 2, 3).copy()))
    fps = world.require_windows().fps
    request = WindowRequest(
        prompts=prompts,
        seeds=range(len(asked)),
        fps_B=[fps] * len(asked),
        num_latent_frames=latents.shape[2],
        conditions=[one.conditions for one in asked],
        given=None,
    )
    errors = DenoisingErrors(
        world=world, latents_BCTHW=latents, text_BSE=prompts.text_PSE, fps=fps, steering=world.steering(request)
    )
    return noise_level_figures(errors, true_BTHW3)


def _kept_quality(run_dir: Path, asked: Sequence[Asked], made_BTHW3: np.ndarray) -> Figure:
    """Compare a few clips with what the model made of them from which the post-training started, unsteered."""
    few = [replace(one, conditions=WindowConditions()) for one in asked[:NUM_FEW]]
    base = find_run(run_dir).run.checkpoint.init_from
    assert base is not None, "a post-training starts from a model"
    before_BTHW3 = generated(open_world(base), few)
    return kept_quality_figure(made_BTHW3[:NUM_FEW], before_BTHW3, np.stack(_true(few)))


def _poses(clip: SimulatedClip) -> np.ndarray:
    camera = clip.views[0].camera
    assert camera is not None, "a clip of the room has one"
    return camera_to_world_T44(camera, len(clip.views[0].pictures_THW3))


def _others_path(clip: SimulatedClip, clips: Sequence[SimulatedClip], number: int) -> np.ndarray:
    """Return the path of the next clip whose moves, begun at this clip's first pose, stay where cameras go."""
    first_44 = _poses(clip)[0]
    for further in range(1, len(clips)):
        poses_T44 = _poses(clips[(number + further) % len(clips)])
        moved_T44 = first_44 @ np.linalg.inv(poses_T44[0]) @ poses_T44
        places_T3 = moved_T44[:, :3, 3]
        if (places_T3 >= CAMERA_LOW_M).all() and (places_T3 <= CAMERA_HIGH_M).all():
            return moved_T44
    raise AssertionError("no other path fits into the room from here")


def _filmed(room: Room, clip: SimulatedClip, poses_T44: np.ndarray) -> Asked:
    scene = room.scene(0)
    view = room.filmed(scene, poses_T44[:, :3]).views[0]
    return Asked(
        clip.views[0].pictures_THW3[0], caption_of(scene), WindowConditions(camera=view.camera), view.pictures_THW3
    )


def _action(clip: SimulatedClip) -> Action:
    assert clip.action is not None, "a clip of the pusher has actions"
    return clip.action


def _played(clip: SimulatedClip) -> Asked:
    """Ask for a clip of the table: by its task where its caption says one, by its actions else."""
    pictures_THW3 = clip.views[0].pictures_THW3
    conditions = WindowConditions() if clip.caption.startswith("push") else WindowConditions(action=_action(clip))
    return Asked(pictures_THW3[0], clip.caption, conditions, pictures_THW3)


def _true(asked: Sequence[Asked]) -> list[np.ndarray]:
    return [one.true_THW3 for one in asked]


def _places_BT2(clips_BTHW3: Sequence[np.ndarray] | np.ndarray, colors_rgb: Sequence[Sequence[int]]) -> np.ndarray:
    found = [places_of_color(clip, color) for clip, color in zip(clips_BTHW3, colors_rgb, strict=True)]
    return np.stack(found)


def _pairs_to_learn_from(pusher: Pusher) -> tuple[np.ndarray, np.ndarray]:
    clips = [pusher.clip(seed) for seed in range(NUM_READER_CLIPS)]
    pictures = np.stack([clip.views[0].pictures_THW3 for clip in clips])
    return pictures, np.stack([_action(clip).values_ND() for clip in clips])


def _strips(own: Sequence[Asked], made: np.ndarray, other: Sequence[Asked], made_of_other: np.ndarray) -> list[Strip]:
    strips = list[Strip]()
    for number in range(NUM_SHOWN):
        strips += [
            Strip(f"clip {number}: true", own[number].true_THW3),
            Strip(f"clip {number}: generated", made[number]),
            Strip(f"clip {number}, another command: true", other[number].true_THW3),
            Strip(f"clip {number}, another command: generated", made_of_other[number]),
        ]
    return strips
