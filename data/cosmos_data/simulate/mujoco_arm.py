"""An arm of three joints with a two-finger gripper, blocks that it carries, and three fixed cameras.

Shoulder and elbow turn about upright axes at the ends of two links, the wrist slides up and down: what robot makers
call a SCARA arm, whose way to a place is a closed form. The shoulder is above the origin, the blocks lie ahead of it,
along x; z points up. Controls are the positions that the joints' servos go to, and how far each finger is from the
middle.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from cosmos_data.errors import DataError
from cosmos_data.simulate.config import ArmConfig
from cosmos_data.simulate.draws import Draws
from cosmos_data.simulate.mujoco_api import mj
from cosmos_data.simulate.mujoco_policies import Observation, Policy, RandomControls
from cosmos_data.simulate.mujoco_world import control_ranges_A2
from cosmos_data.simulate.pusher import COLORS_RGB

LINK_M = 0.25
"""Length of each of the two links."""
WRIST_M = 0.26
"""Height of the wrist above the floor where it is not lowered."""
MOST_LOWERED_M = 0.125
HALF_BLOCK_M = 0.025
OPEN_M, CLOSED_M = 0.042, 0.015
"""Places of a finger, from the gripper's middle: of an open gripper, and what a servo is told to hold a block."""
POLICIES = ("random", "scripted")
SCRIPT = (
    ("above", 8, 0.0, OPEN_M),
    ("above", 5, MOST_LOWERED_M, OPEN_M),
    ("above", 4, MOST_LOWERED_M, CLOSED_M),
    ("above", 5, 0.0, CLOSED_M),
    ("target", 8, 0.0, CLOSED_M),
    ("target", 5, MOST_LOWERED_M, CLOSED_M),
    ("target", 3, MOST_LOWERED_M, OPEN_M),
    ("target", 5, 0.0, OPEN_M),
)
"""Where the gripper goes, in how many frames, how far it is lowered at the end, and its fingers' places."""


def arm_xml(num_blocks: int) -> str:
    """Return the model of the arm with so many blocks, `block0` and so on."""
    blocks = "".join(
        f'<body name="block{number}" pos="0.3 0 {HALF_BLOCK_M}"><freejoint/><geom name="block{number}" type="box"'
        f' size="{HALF_BLOCK_M} {HALF_BLOCK_M} {HALF_BLOCK_M}" mass="0.03" friction="1 0.02 0.001" condim="4"/></body>'
        for number in range(num_blocks)
    )
    fingers = "".join(
        f'<body name="finger_{name}" pos="0 0 -0.08"><joint name="finger_{name}" type="slide" axis="0 {sign} 0"'
        f' range="0 0.05" damping="2"/><geom name="finger_{name}" type="box" pos="0 {sign * 0.006} 0"'
        ' size="0.014 0.006 0.045" mass="0.03" friction="1.5 0.02 0.001" condim="4" rgba=".85 .85 .9 1"/></body>'
        for name, sign in (("left", 1), ("right", -1))
    )
    link = f'type="capsule" fromto="0 0 0 {LINK_M} 0 0" size="0.028" mass="0.4" rgba=".5 .52 .6 1"'
    return f"""<mujoco model="arm">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="0.003" integrator="implicitfast" cone="elliptic" impratio="10"/>
  <visual><headlight ambient=".45 .45 .45" diffuse=".3 .3 .3"/><map znear="0.05"/></visual>
  <worldbody>
    <light pos="0.4 0.8 1.5" dir="-0.1 -0.5 -1" castshadow="false" diffuse=".35 .35 .35"/>
    <camera name="front" pos="0.95 0 0.5" xyaxes="0 1 0 -0.5 0 0.9" fovy="45"/>
    <camera name="side" pos="0.25 -0.85 0.45" xyaxes="1 0 0 0 0.45 0.9" fovy="45"/>
    <camera name="top" pos="0.25 0 1.1" xyaxes="0 -1 0 1 0 0" fovy="42"/>
    <geom name="floor" type="plane" size="1 1 0.1" rgba=".25 .24 .28 1" friction="0.8"/>
    <geom name="column" type="cylinder" size="0.035 {WRIST_M / 2}" pos="0 0 {WRIST_M / 2 - 0.03}" rgba=".4 .4 .45 1"
      contype="0" conaffinity="0"/>
    <body name="arm" pos="0 0 {WRIST_M}">
      <joint name="shoulder" axis="0 0 1" range="-2.2 2.2" damping="1"/><geom name="upper_arm" {link}/>
      <body name="forearm" pos="{LINK_M} 0 0">
        <joint name="elbow" axis="0 0 1" range="-2.6 2.6" damping="1"/><geom name="forearm" {link}/>
        <body name="wrist" pos="{LINK_M} 0 0">
          <joint name="lift" type="slide" axis="0 0 -1" range="0 0.13" damping="5"/>
          <geom name="wrist" type="box" size="0.02 0.05 0.02" pos="0 0 -0.02" mass="0.1" rgba=".7 .7 .75 1"/>
          {fingers}
        </body>
      </body>
    </body>
    {blocks}
  </worldbody>
  <equality><joint joint1="finger_left" joint2="finger_right" solref="0.005 1"/></equality>
  <actuator>
    <position name="shoulder" joint="shoulder" kp="80" dampratio="1" ctrlrange="-2.1 2.1"/>
    <position name="elbow" joint="elbow" kp="60" dampratio="1" ctrlrange="0.2 2.5"/>
    <position name="lift" joint="lift" kp="400" dampratio="1" ctrlrange="0 {MOST_LOWERED_M}"/>
    <position name="gripper" joint="finger_left" kp="300" dampratio="1" ctrlrange="{CLOSED_M} {OPEN_M}"/>
  </actuator>
</mujoco>"""


def joints_at(x_m: float, y_m: float) -> tuple[float, float]:
    """Return shoulder and elbow, in radians, that bring the gripper over a place: the elbow bent to the left."""
    distance_m = math.hypot(x_m, y_m)
    bend = math.acos(max(-1.0, min(1.0, 1 - distance_m * distance_m / (2 * LINK_M * LINK_M))))
    elbow = math.pi - bend
    return math.atan2(y_m, x_m) - elbow / 2, elbow


class ArmStage:
    """The arm and blocks in its reach, at places that a seed says. Raises DataError where the policy is unknown."""

    embodiment = "arm"

    def __init__(self, config: ArmConfig) -> None:
        if config.policy not in POLICIES and ":" not in config.policy:
            raise DataError(f"arm.policy={config.policy} is none of {', '.join(POLICIES)} and module:function")
        self.config, self.policy_name = config, config.policy
        self.model = mj.MjModel.from_xml_string(arm_xml(config.num_blocks))

    def begin(self, data: Any, seed: int) -> None:
        """Put the blocks down, turned as the gripper is above them, and the arm beside them."""
        *blocks, _ = self._places_m(seed)
        for number, ((x, y), color) in enumerate(zip(blocks, self._colors(seed), strict=True)):
            half_angle = sum(joints_at(x, y)) / 2
            turn = (math.cos(half_angle), 0, 0, math.sin(half_angle))
            data.joint(self.model.body(f"block{number}").jntadr[0]).qpos[:] = (x, y, HALF_BLOCK_M, *turn)
            self.model.geom(f"block{number}").rgba[:3] = np.array(COLORS_RGB[color]) / 255
        draws = Draws(seed, "arm pose")
        pose = {"shoulder": draws.between(-1.2, 0.0), "elbow": draws.between(0.8, 1.6)}
        for name, value in (pose | {"finger_left": OPEN_M, "finger_right": OPEN_M}).items():
            data.joint(name).qpos[0] = value

    def policy(self, seed: int) -> Policy:
        if self.config.policy == "random":
            return RandomControls(Draws(seed, "arm policy"), control_ranges_A2(self.model))
        target, way = self._places_m(seed)[-1], list[np.ndarray]()

        def act(observation: Observation, step: int, generator: np.random.Generator) -> np.ndarray:
            if step == 0:
                block = observation.places_m["block0"]
                start = np.array([*observation.qpos[:2], 0.0, OPEN_M])
                way.extend(_script(start, {"above": (float(block[0]), float(block[1])), "target": target}))
            return way[min(step, len(way) - 1)]

        return act

    def caption(self, seed: int) -> str:
        names = [f"{color} block" for color in self._colors(seed)]
        if self.config.policy == "scripted":
            return f"a robot arm grasps the {names[0]} and carries it elsewhere"
        return f"a robot arm moves over {' and '.join(f'a {name}' for name in names)}"

    def _places_m(self, seed: int) -> list[tuple[float, float]]:
        """Return a place for each block, and one to carry a block to."""
        draws = Draws(seed, "arm beginning")
        places = list[tuple[float, float]]()
        while len(places) < self.config.num_blocks + 1:
            distance_m, angle = draws.between(0.22, 0.42), draws.between(-0.8, 0.8)
            place = distance_m * math.cos(angle), distance_m * math.sin(angle)
            if all(math.dist(place, other) > 0.13 for other in places):
                places.append(place)
        return places

    def _colors(self, seed: int) -> list[str]:
        order = Draws(seed, "arm colours").order(len(COLORS_RGB))
        return [list(COLORS_RGB)[number] for number in order[: self.config.num_blocks]]


def _script(start: np.ndarray, places_m: dict[str, tuple[float, float]]) -> Iterator[np.ndarray]:
    """Yield the controls of each frame, evenly from one end of a part of the script to the next."""
    last = start
    for place, num_frames, lowered_m, finger_m in SCRIPT:
        end = np.array([*joints_at(*places_m[place]), lowered_m, finger_m])
        for frame in range(1, num_frames + 1):
            yield last + (end - last) * (frame / num_frames)
        last = end
