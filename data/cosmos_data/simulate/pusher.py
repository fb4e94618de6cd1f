"""A hand pushes discs or blocks over a table, seen from above: by action, in closed form.

The table fills the picture. Lengths are in widths of the table, x points right, y down, and the origin is the upper
left corner: a place times the picture's width is in pixels. An action says how far the hand is to go in one frame; it
goes there, unless the table's edge or a thing that can not move on stops it (`cosmos_data.simulate.contacts`).
Pictures, actions and places are the same bit for bit on every machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cosmos_data.errors import DataError
from cosmos_data.manifests.conditions import Action
from cosmos_data.simulate.clips import SimulatedClip, SimulatedView
from cosmos_data.simulate.config import PusherConfig
from cosmos_data.simulate.contacts import Place, Table
from cosmos_data.simulate.draws import Draws
from cosmos_data.simulate.push_policies import DIRECTIONS, GAP, Policy, Push, PushPolicy, RandomPolicy

COLORS_RGB = {"red": (230, 50, 50), "green": (50, 205, 75), "blue": (65, 90, 240), "yellow": (240, 215, 50)}
HAND_RGB = (245, 245, 245)
TABLE_RGB = (42, 38, 46)
EMBODIMENT = "pusher"
MOST_TRIES = 1000
"""Draws of places at which nothing touches."""


@dataclass(frozen=True, slots=True)
class PusherScene:
    """A table as a clip begins."""

    colors: tuple[str, ...]
    """Of the things, in their order."""
    hand: Place
    objects: tuple[Place, ...]


class Pusher:
    """The world `pusher`."""

    def __init__(self, config: PusherConfig) -> None:
        self.config = config
        self.table = Table(
            height=config.height_px / config.width_px,
            shape=config.shape,
            hand_radius=config.hand_radius,
            object_radius=config.object_radius,
        )

    def scene(self, seed: int) -> PusherScene:
        """Return how a seed's clip begins, which no policy has a part in. The hand gets around every thing."""
        draws = Draws(seed, "pusher scene")
        names = list(COLORS_RGB)
        colors = tuple(names[number] for number in draws.order(len(names))[: self.config.num_objects])
        hand_radius, object_radius = self.config.hand_radius, self.config.object_radius
        room = object_radius + 2 * hand_radius + GAP
        for _ in range(MOST_TRIES):
            objects = [_within(draws, room, self.table.height) for _ in colors]
            hand = _within(draws, hand_radius, self.table.height)
            # Squares that do not meet: discs within them do not either.
            is_free = all(_are_apart(hand, place, hand_radius + object_radius + GAP) for place in objects)
            if is_free and (len(objects) < 2 or _are_apart(objects[0], objects[1], 2 * object_radius + GAP)):
                return PusherScene(colors, hand, tuple(objects))
        raise DataError(
            f"no free places in {MOST_TRIES} draws for object_radius={object_radius} and hand_radius={hand_radius};"
            " make them smaller, or use num_objects=1"
        )

    def push(self, seed: int) -> Push:
        """Return what policy=task does in a seed's clip."""
        draws = Draws(seed, "pusher task")
        number, direction = draws.below(self.config.num_objects), list(DIRECTIONS)[draws.below(len(DIRECTIONS))]
        return Push(number, direction if self.config.task == "random" else self.config.task)

    def clip(self, seed: int) -> SimulatedClip:
        """Return the clip of a seed."""
        return self._played(seed, self._policy(seed))

    def played(self, seed: int, actions_N2: np.ndarray) -> SimulatedClip:
        """Return the clip that begins as the seed's does, under other actions, one for each frame.

        Raises:
            DataError: there are fewer actions than frames, or other than two numbers a frame.
        """
        num_frames = self.config.num_frames
        if actions_N2.ndim != 2 or actions_N2.shape[1] != 2 or len(actions_N2) < num_frames:
            raise DataError(
                f"actions of the shape {list(actions_N2.shape)} are not num_frames={num_frames} or more, of 2 numbers"
                f" each; give [{num_frames}, 2]"
            )
        return self._played(seed, _Given([(float(right), float(down)) for right, down in actions_N2]))

    def _policy(self, seed: int) -> Policy:
        draws, max_speed = Draws(seed, "pusher policy"), self.config.max_speed
        if self.config.policy == "random":
            return RandomPolicy(draws, self.table, max_speed)
        pushes = [self.push(seed)] if self.config.policy == "task" else None
        return PushPolicy(draws, self.table, max_speed, pushes)

    def _played(self, seed: int, policy: Policy) -> SimulatedClip:
        scene = self.scene(seed)
        hand, objects = scene.hand, list(scene.objects)
        hands, places, actions = list[Place](), list[list[Place]](), list[Place]()
        for _ in range(self.config.num_frames):
            hands.append(hand)
            places.append(objects)
            actions.append(policy.act(hand, objects))
            hand, objects = self.table.moved(hand, objects, actions[-1])
        hand_T2, objects_TN2 = np.array(hands), np.array(places)
        return SimulatedClip(
            views=(self._seen(scene, hand_T2, objects_TN2),),
            fps=self.config.fps,
            caption=self.caption(seed),
            action=self._signal(np.array(actions), "table, x right, y down, from the hand's place"),
            state=self._signal(hand_T2, "table, x right, y down, from the upper left corner"),
            instance_names=("table", "hand", *self._names(scene)),
            states={"hand_T2": hand_T2, "objects_TN2": objects_TN2},
        )

    def caption(self, seed: int) -> str:
        """Say the task where there is one, else what is there: `a hand moves over a table with a red disc`."""
        names = self._names(self.scene(seed))
        if self.config.policy == "task":
            push = self.push(seed)
            return f"push the {names[push.number]} {push.direction}"
        return f"a hand moves over a table with {' and '.join(f'a {name}' for name in names)}"

    def _names(self, scene: PusherScene) -> list[str]:
        return [f"{color} {self.config.shape}" for color in scene.colors]

    def _signal(self, values_T2: np.ndarray, frame_of_reference: str) -> Action:
        return Action(
            names=("x", "y"),
            units=("table width", "table width"),
            rate_hz=self.config.fps,
            frame_of_reference=frame_of_reference,
            values=tuple(values_T2.ravel().tolist()),
            embodiment=EMBODIMENT,
        )

    def _seen(self, scene: PusherScene, hand_T2: np.ndarray, objects_TN2: np.ndarray) -> SimulatedView:
        """Draw the things, then the hand, each with an edge a pixel wide."""
        config = self.config
        pictures_THW3 = np.empty((len(hand_T2), config.height_px, config.width_px, 3))
        pictures_THW3[:] = TABLE_RGB
        instances_THW = np.zeros(pictures_THW3.shape[:3], dtype=np.uint8)
        colors = [COLORS_RGB[color] for color in scene.colors]
        for number, color in enumerate(colors):
            inside = self._inside(objects_TN2[:, number], config.object_radius, is_block=config.shape == "block")
            _draw(pictures_THW3, instances_THW, inside, color, number + 2)
        _draw(pictures_THW3, instances_THW, self._inside(hand_T2, config.hand_radius, is_block=False), HAND_RGB, 1)
        return SimulatedView(pictures_THW3=np.floor(pictures_THW3 + 0.5).astype(np.uint8), instances_THW=instances_THW)

    def _inside(self, places_T2: np.ndarray, radius: float, *, is_block: bool) -> np.ndarray:
        """Return [T, H, W]: how far inside of a disc's or block's edge each pixel's centre is, in pixels."""
        width_px = self.config.width_px
        right_T, down_T = (places_T2 * width_px).T
        columns_W, rows_H = np.arange(width_px) + 0.5, np.arange(self.config.height_px) + 0.5
        right_T1W, down_TH1 = (columns_W - right_T[:, None])[:, None], (rows_H - down_T[:, None])[:, :, None]
        if is_block:
            return radius * width_px - np.maximum(np.abs(right_T1W), np.abs(down_TH1))
        return radius * width_px - np.sqrt(right_T1W * right_T1W + down_TH1 * down_TH1)


class _Given:
    """A policy that does what it was given, one action after the other."""

    def __init__(self, actions: Sequence[Place]) -> None:
        self._actions = iter(actions)

    def act(self, hand: Place, objects: list[Place]) -> Place:
        return next(self._actions)


def _draw(
    pictures_THW3: np.ndarray, instances_THW: np.ndarray, inside_THW: np.ndarray, color: Sequence[int], number: int
) -> None:
    coverage_THW1 = np.clip(inside_THW + 0.5, 0, 1)[..., None]
    pictures_THW3 += coverage_THW1 * (np.array(color) - pictures_THW3)
    instances_THW[inside_THW > 0] = number


def _within(draws: Draws, radius: float, height: float) -> Place:
    return draws.between(radius, 1 - radius), draws.between(radius, height - radius)


def _are_apart(first: Place, second: Place, side: float) -> bool:
    return abs(first[0] - second[0]) > side or abs(first[1] - second[1]) > side
