"""Policies of MuJoCo worlds: what controls are set, frame by frame, of what is known of the world.

A user's policy is a function, named as `module:function` of a module on Python's path or in the working folder:

    def act(observation, step, generator):
        return [0.3, -0.1]      # a control for each actuator, in the model's order

It is called once for each frame of a clip, step 0 first; `generator` is numpy's, and a clip's own.
"""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from cosmos_data.errors import DataError
from cosmos_data.simulate.draws import Draws


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """What a policy knows before a step; all arrays are its own to keep."""

    time_sec: float
    qpos: np.ndarray
    """Positions of the joints, in MuJoCo's order."""
    qvel: np.ndarray
    ctrl: np.ndarray
    """The controls of the step before; zeros before the first."""
    sensordata: np.ndarray
    places_m: Mapping[str, np.ndarray]
    """Name of a body -> its place in the world, [3]."""


Policy = Callable[[Observation, int, np.random.Generator], Sequence[float] | np.ndarray]


def function_of(name: str) -> Policy:
    """Import a policy by `module:function`.

    Raises:
        DataError: there is no such module, or no such function in it.
    """
    module_name, _, function_name = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        function: Any = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(
            f"policy={name} can not be imported ({error}); write it as module:function, of a module on Python's path"
            " or in this folder, or use random"
        ) from error
    if not callable(function):
        raise DataError(f"policy={name} is no function, but {type(function).__name__}; name a function")
    return cast(Policy, function)


def file_of(name: str) -> Path:
    """Return the file of the module that a policy, `module:function`, is a function of.

    Raises:
        DataError: the policy can not be imported, or its module lies in no file.
    """
    function_of(name)
    path = sys.modules[name.partition(":")[0]].__file__
    if path is None or not Path(path).is_file():
        raise DataError(f"policy={name} lies in no file, so a change of it could not be seen; write it into a module")
    return Path(path)


class RandomControls:
    """Controls that go smoothly from one random value within their range to the next, and rest at times."""

    def __init__(self, draws: Draws, ranges_A2: np.ndarray) -> None:
        self._draws, self._ranges_A2 = draws, ranges_A2
        self._frames_left = 0
        self._way: np.ndarray = np.zeros(len(ranges_A2))

    def __call__(self, observation: Observation, step: int, generator: np.random.Generator) -> np.ndarray:
        low, high = self._ranges_A2.T
        if self._frames_left == 0:
            kind, length = self._draws.uniform(2).tolist()
            self._frames_left = 6 + int(9 * length)
            target = low + (high - low) * self._draws.uniform(len(low))
            is_resting = kind < 0.2
            self._way = np.zeros_like(low) if is_resting else (target - observation.ctrl) / self._frames_left
        self._frames_left -= 1
        return np.clip(observation.ctrl + self._way, low, high)


def checked(controls: Any, num_actuators: int, policy: str, step: int) -> np.ndarray:
    """Return a policy's controls as float64 [A]. Raises DataError where they are no such numbers."""
    try:
        values = np.asarray(controls, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"policy={policy} gives {controls!r} in step {step}, which are no numbers") from error
    if values.shape != (num_actuators,) or not np.isfinite(values).all():
        raise DataError(
            f"policy={policy} gives {controls!r} in step {step}; give {num_actuators} finite numbers, one for each"
            " actuator"
        )
    return values
