"""Quasi-static pushing on a table: who touches is moved out of the overlap, along the shortest way, and walls stop all.

Nothing has speed of its own: without the hand nothing moves. A thing that can not move on stops the hand. Lengths are
in widths of the table, y points down. Arithmetic is + - * / and square roots of float64: the same on every machine.
"""

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

Place = tuple[float, float]

STEPS = 4
"""Parts of a frame's move; within one, a contact has one direction."""
ROUNDS = 8
"""Passes over all contacts in each part: a thing that is pushed pushes others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table with a hand, which is a disc, and things of one shape and size."""

    height: float
    """The table's width is 1."""
    shape: Literal["disc", "block"]
    hand_radius: float
    object_radius: float
    """Of a block half its side."""

    def moved(self, hand: Place, objects: list[Place], action: Place) -> tuple[Place, list[Place]]:
        """Return the places after the hand was told to go so far right and down."""
        objects = list(objects)
        for _ in range(STEPS):
            hand = self.within((hand[0] + action[0] / STEPS, hand[1] + action[1] / STEPS), self.hand_radius)
            for _ in range(ROUNDS):
                if not self._pushed_apart(hand, objects):
                    break
            for place in objects:  # what could not move on
                hand = self._away(hand, self._overlap_with_hand(hand, place), -1, self.hand_radius)
        return hand, objects

    def within(self, place: Place, radius: float) -> Place:
        """Return the nearest place at which something of that radius is on the table."""
        x, y = place
        return min(max(x, radius), 1 - radius), min(max(y, radius), self.height - radius)

    def _pushed_apart(self, hand: Place, objects: list[Place]) -> bool:
        """Move each thing out of the hand, and the further thing out of the nearer one; tell whether any moved."""
        before = list(objects)
        for number, place in enumerate(objects):
            objects[number] = self._away(place, self._overlap_with_hand(hand, place), 1, self.object_radius)
        for pair in combinations(range(len(objects)), 2):
            near, far = sorted(pair, key=lambda number: _squared(hand, objects[number]))
            objects[far] = self._away(objects[far], self._overlap(objects[near], objects[far]), 1, self.object_radius)
            # What still overlaps is at a wall.
            objects[near] = self._away(
                objects[near], self._overlap(objects[near], objects[far]), -1, self.object_radius
            )
        return objects != before

    def _away(self, place: Place, overlap: Place, sign: int, radius: float) -> Place:
        return self.within((place[0] + sign * overlap[0], place[1] + sign * overlap[1]), radius)

    def _overlap_with_hand(self, hand: Place, place: Place) -> Place:
        """Return the shortest way out of the hand for a thing; none where they do not touch."""
        if self.shape == "disc":
            return _out_of_disc(hand, place, self.hand_radius + self.object_radius)
        side = self.object_radius
        nearest = (
            min(max(hand[0], place[0] - side), place[0] + side),
            min(max(hand[1], place[1] - side), place[1] + side),
        )
        if nearest == hand:  # the hand's centre is within the block
            return _out_of_square(hand, place, self.hand_radius + side)
        return _out_of_disc(hand, nearest, self.hand_radius)

    def _overlap(self, first: Place, second: Place) -> Place:
        """Return the shortest way out of the first thing for the second one."""
        out_of = _out_of_disc if self.shape == "disc" else _out_of_square
        return out_of(first, second, 2 * self.object_radius)


def _squared(first: Place, second: Place) -> float:
    right, down = second[0] - first[0], second[1] - first[1]
    return right * right + down * down


def _out_of_disc(center: Place, place: Place, radius: float) -> Place:
    right, down = place[0] - center[0], place[1] - center[1]
    distance = math.sqrt(right * right + down * down)
    if distance >= radius:
        return 0.0, 0.0
    if distance == 0:
        return radius, 0.0
    share = (radius - distance) / distance
    return right * share, down * share


def _out_of_square(center: Place, place: Place, side: float) -> Place:
    right, down = place[0] - center[0], place[1] - center[1]
    if abs(right) >= side or abs(down) >= side:
        return 0.0, 0.0
    if abs(right) >= abs(down):
        return (side - right if right >= 0 else -side - right), 0.0
    return 0.0, (side - down if down >= 0 else -side - down)
