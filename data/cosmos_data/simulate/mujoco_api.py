"""MuJoCo's bindings, whose names a type checker does not see: they are compiled, and come without types."""

from typing import Any

import mujoco

mj: Any = mujoco
