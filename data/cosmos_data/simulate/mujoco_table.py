"""A hand that pushes blocks over a table with real contact and friction, seen from above by a camera.

The table's middle is the origin, x points right in the picture, y up in it, z out of it. The hand is told how fast to
go, in metres a second.
"""

import math
from typing import Any

import numpy as np

from cosmos_data.errors import DataError
from cosmos_data.simulate.config import TableConfig
from cosmos_data.simulate.contacts import Table
from cosmos_data.simulate.draws import Draws
from cosmos_data.simulate.mujoco_api import mj
from cosmos_data.simulate.mujoco_policies import Observation, Policy
from cosmos_data.simulate.push_policies import PushPolicy, RandomPolicy
from cosmos_data.simulate.pusher import COLORS_RGB

HAND_RADIUS_M, BLOCK_SIDE_M, BLOCK_HEIGHT_M = 0.06, 0.16, 0.06
CAMERA_HEIGHT_M = 1.6
WALL_M = 0.03
TOLERANCE = 0.012
"""How near a place the hand is taken to be there, in widths of the table: it overshoots a little."""
POLICIES = ("random", "scripted")


def table_xml(num_blocks: int) -> str:
    """Return the model of a table with so many blocks, `block0` and so on."""
    half, wall = 0.5, WALL_M / 2
    walls = "".join(
        f'<geom name="wall{number}" type="box" pos="{x * (half + wall)} {y * (half + wall)} {wall}"'
        f' size="{wall if x else half + WALL_M} {wall if y else half + WALL_M} {wall}" rgba=".45 .4 .35 1"/>'
        for number, (x, y) in enumerate(((-1, 0), (1, 0), (0, -1), (0, 1)))
    )
    side, height = BLOCK_SIDE_M / 2, BLOCK_HEIGHT_M / 2
    blocks = "".join(
        f'<body name="block{number}" pos="0 0 {height}"><freejoint/>'
        f'<geom name="block{number}" type="box" size="{side} {side} {height}" mass="0.15" friction="0.6"/></body>'
        for number in range(num_blocks)
    )
    angle_deg = 2 * math.degrees(math.atan((half + WALL_M) / CAMERA_HEIGHT_M))
    return f"""<mujoco model="table">
  <option timestep="0.004" integrator="implicitfast" cone="elliptic"/>
  <visual><headlight ambient=".5 .5 .5" diffuse=".3 .3 .3"/><map znear="0.05"/></visual>
  <worldbody>
    <light pos="0.6 0.8 1.5" dir="-0.4 -0.5 -1" castshadow="false" diffuse=".3 .3 .3"/>
    <camera name="top" pos="0 0 {CAMERA_HEIGHT_M}" fovy="{angle_deg}"/>
    <geom name="table" type="plane" size="0.6 0.6 0.1" rgba=".22 .2 .25 1" friction="0.6"/>
    {walls}
    <body name="hand" pos="0 0 0.04">
      <joint name="x" type="slide" axis="1 0 0"/><joint name="y" type="slide" axis="0 1 0"/>
      <geom name="hand" type="cylinder" size="{HAND_RADIUS_M} 0.035" mass="0.5" rgba=".95 .95 .95 1" friction="0.2"/>
    </body>
    {blocks}
  </worldbody>
  <actuator>
    <velocity name="x" joint="x" kv="200"/><velocity name="y" joint="y" kv="200"/>
  </actuator>
</mujoco>"""


class TableStage:
    """Blocks on a table and a hand, at places that a seed says. Raises DataError where the policy is unknown."""

    embodiment = "table"

    def __init__(self, config: TableConfig) -> None:
        if config.policy not in POLICIES and ":" not in config.policy:
            raise DataError(f"table.policy={config.policy} is none of {', '.join(POLICIES)} and module:function")
        self.config, self.policy_name = config, config.policy
        self.model = mj.MjModel.from_xml_string(table_xml(config.num_blocks))
        # Policies go around a block as around the disc that holds it.
        radius_m = BLOCK_SIDE_M / 2 * 1.3
        self._table = Table(height=1.0, shape="disc", hand_radius=HAND_RADIUS_M, object_radius=radius_m)

    def begin(self, data: Any, seed: int) -> None:
        """Put hand and blocks where nothing touches, and give the blocks their colours."""
        draws = Draws(seed, "table beginning")
        places = list[tuple[float, float]]()
        room_m = 0.5 - BLOCK_SIDE_M
        while len(places) < 1 + self.config.num_blocks:
            place = draws.between(-room_m, room_m), draws.between(-room_m, room_m)
            if all(math.dist(place, other) > 1.5 * BLOCK_SIDE_M for other in places):
                places.append(place)
        data.qpos[:2] = places[0]
        for number, ((x, y), color) in enumerate(zip(places[1:], self._colors(seed), strict=True)):
            half_angle = draws.between(-math.pi / 8, math.pi / 8)
            data.qpos[2 + 7 * number : 9 + 7 * number] = (
                *(x, y, BLOCK_HEIGHT_M / 2),
                *(math.cos(half_angle), 0, 0, math.sin(half_angle)),
            )
            self.model.geom(f"block{number}").rgba[:3] = np.array(COLORS_RGB[color]) / 255

    def policy(self, seed: int) -> Policy:
        """Return a pusher's policy, which counts in widths of the table with y downwards, for the hand's velocity."""
        draws, max_speed = Draws(seed, "table policy"), self.config.max_speed_m
        pusher = (
            RandomPolicy(draws, self._table, max_speed)
            if self.config.policy == "random"
            else PushPolicy(draws, self._table, max_speed, None, tolerance=TOLERANCE)
        )

        def act(observation: Observation, step: int, generator: np.random.Generator) -> tuple[float, float]:
            places = [observation.places_m[f"block{number}"] for number in range(self.config.num_blocks)]
            hand = observation.places_m["hand"]
            right, down = pusher.act(_on_table(hand), [_on_table(place) for place in places])
            return right * self.config.fps, -down * self.config.fps

        return act

    def caption(self, seed: int) -> str:
        things = " and ".join(f"a {color} block" for color in self._colors(seed))
        return f"a hand pushes things over a table with {things}"

    def _colors(self, seed: int) -> list[str]:
        order = Draws(seed, "table colours").order(len(COLORS_RGB))
        return [list(COLORS_RGB)[number] for number in order[: self.config.num_blocks]]


def _on_table(place_m: np.ndarray) -> tuple[float, float]:
    """Return a place in widths of the table from its upper left corner, right and down."""
    return float(place_m[0]) + 0.5, 0.5 - float(place_m[1])
