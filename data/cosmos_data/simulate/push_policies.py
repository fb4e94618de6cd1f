"""Where the pusher's hand goes: policies that look at the table and say how far the hand is to go in the next frame.

Lengths are in widths of the table, y points down.
"""

import math
from dataclasses import dataclass
from typing import Protocol

from cosmos_data.simulate.contacts import Place, Table
from cosmos_data.simulate.draws import Draws

DIRECTIONS: dict[str, Place] = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
GAP = 0.03
"""How far the hand stays from a thing that it goes around."""
PUSH = 0.25
"""How far a thing is pushed."""
STILL = 0.2
"""Share of a random hand's stretches in which it stands still."""
THROUGH = 0.75
"""Share up to which it goes through a thing; in the rest it goes anywhere."""


class Policy(Protocol):
    """It is asked once a frame, in order, since it may remember."""

    def act(self, hand: Place, objects: list[Place]) -> Place:
        """Return how far right and down the hand is to go."""
        ...


class RandomPolicy:
    """Stretches of 6 to 14 frames, each still, through a thing, or to anywhere; smooth, but for the stops."""

    def __init__(self, draws: Draws, table: Table, max_speed: float) -> None:
        self._draws, self._table, self._max_speed = draws, table, max_speed
        self._frames_left = 0
        self._target: Place | None = None
        self._speed = 0.0
        self._last: Place = (0.0, 0.0)

    def act(self, hand: Place, objects: list[Place]) -> Place:
        if self._frames_left == 0:
            self._begin_stretch(hand, objects)
        self._frames_left -= 1
        if self._target is None:
            self._last = (0.0, 0.0)
        else:
            wanted = _towards(hand, self._target, self._speed)
            self._last = ((self._last[0] + wanted[0]) / 2, (self._last[1] + wanted[1]) / 2)
        return self._last

    def _begin_stretch(self, hand: Place, objects: list[Place]) -> None:
        kind, length, speed, x, y, which = self._draws.uniform(6).tolist()
        self._frames_left = 6 + int(9 * length)
        self._speed = self._max_speed * (0.5 + 0.5 * speed)
        if kind < STILL:
            self._target = None
            return
        target, room = (x, y * self._table.height), self._table.hand_radius
        if kind < THROUGH:
            room += 2 * self._table.object_radius  # for what is pushed ahead of the hand
            through = objects[int(which * len(objects))]
            ahead = _towards(hand, through, 1.0 + PUSH)
            target = (through[0] + PUSH * ahead[0], through[1] + PUSH * ahead[1])
        self._target = self._table.within(target, room)


@dataclass(frozen=True, slots=True)
class Push:
    """Which thing is pushed, and which way."""

    number: int
    direction: str


class PushPolicy:
    """Goes around a thing to its far side, pushes it, and goes on to the next; stands still after the last one.

    Args:
        pushes: what to do; None: one after the other, for ever, as `draws` say, of those that the table has room for.
        tolerance: how near a place the hand is there; a hand with inertia never is quite.
    """

    def __init__(
        self, draws: Draws, table: Table, max_speed: float, pushes: list[Push] | None, *, tolerance: float = 1e-9
    ) -> None:
        self._tolerance = tolerance
        self._draws, self._table, self._max_speed = draws, table, max_speed
        self._is_endless, self._waiting = pushes is None, list(pushes or ())
        self._push: Push | None = None
        self._end: Place | None = None
        """Where the hand is when the push is done; None while it goes around the thing."""
        self._frames_left = 0
        self._reach = table.hand_radius + table.object_radius + GAP

    def act(self, hand: Place, objects: list[Place]) -> Place:
        if self._push is None:
            self._push = self._next(objects)
        if self._push is None:
            return 0.0, 0.0
        right, down = DIRECTIONS[self._push.direction]
        place = objects[self._push.number]
        behind = (place[0] - self._reach * right, place[1] - self._reach * down)
        if self._end is None and _distance(hand, behind) < self._tolerance:
            self._end = self._table.within(
                (behind[0] + (GAP + PUSH) * right, behind[1] + (GAP + PUSH) * down), self._table.hand_radius
            )
            self._frames_left = math.ceil((GAP + PUSH) / self._max_speed)
        if self._end is None:
            return _towards(hand, self._around(hand, place, self._push.direction), self._max_speed)
        action = _towards(hand, self._end, self._max_speed)
        self._frames_left -= 1
        if self._frames_left == 0:
            self._push = self._end = None
        return action

    def _next(self, objects: list[Place]) -> Push | None:
        if not self._is_endless:
            return self._waiting.pop(0) if self._waiting else None
        feasible = []
        for number, place in enumerate(objects):
            feasible += [Push(number, direction) for direction in DIRECTIONS if self._has_room(place, direction)]
        return feasible[self._draws.below(len(feasible))] if feasible else None

    def _has_room(self, place: Place, direction: str) -> bool:
        """Tell whether the hand gets behind a thing, and the thing can be pushed on."""
        right, down = DIRECTIONS[direction]
        table = self._table
        behind = (place[0] - self._reach * right, place[1] - self._reach * down)
        ahead = (place[0] + PUSH * right, place[1] + PUSH * down)
        return behind == table.within(behind, table.hand_radius) and ahead == table.within(ahead, table.object_radius)

    def _around(self, hand: Place, place: Place, direction: str) -> Place:
        """Return where to go next on the way behind a thing, without touching it.

        In the directions along the push and across it: once behind, straight on; once beside, straight back; else
        sideways, to the side where the hand is, or to the other one where the table ends.
        """
        along, across = DIRECTIONS[direction], (-DIRECTIONS[direction][1], DIRECTIONS[direction][0])
        from_place = (hand[0] - place[0], hand[1] - place[1])
        ahead = from_place[0] * along[0] + from_place[1] * along[1]
        aside = from_place[0] * across[0] + from_place[1] * across[1]
        reach = self._reach

        def at(ahead: float, aside: float) -> Place:
            return (
                place[0] + ahead * along[0] + aside * across[0],
                place[1] + ahead * along[1] + aside * across[1],
            )

        if ahead <= -reach + self._tolerance:
            return at(-reach, 0.0)
        if abs(aside) >= reach - self._tolerance:
            return at(-reach, aside)
        side = reach if aside >= 0 else -reach
        beside = at(0.0, side)
        if beside != self._table.within(beside, self._table.hand_radius):
            side = -side
        return at(ahead, side)


def _towards(start: Place, end: Place, longest: float) -> Place:
    """Return the way from start to end, or so much of it."""
    right, down = end[0] - start[0], end[1] - start[1]
    distance = math.sqrt(right * right + down * down)
    if distance <= longest:
        return right, down
    return right / distance * longest, down / distance * longest


def _distance(first: Place, second: Place) -> float:
    right, down = _towards(first, second, math.inf)
    return math.sqrt(right * right + down * down)
