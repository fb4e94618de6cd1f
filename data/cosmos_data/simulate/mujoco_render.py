"""MuJoCo's pictures without a screen: through EGL, or OSMesa where that is not there.

Both draw on the CPU where there is no GPU.

A picture and its labels cost two renderings: colours with several samples a pixel, then things and depth with one, at
the pixel's centre. The framebuffer has the picture's size, since what is larger is cleared and copied too.

Pictures are the same for the same state, renderer and kind of processor; another renderer rounds otherwise.
"""

import atexit
from dataclasses import dataclass
from typing import Any

import numpy as np

from cosmos_data.errors import DataError
from cosmos_data.simulate.mujoco_api import mj
from cosmos_data.simulate.renderers import LIBRARY_PACKAGES, found_renderer


@dataclass(frozen=True, slots=True)
class Rendered:
    """What one camera sees."""

    rgb_HW3: np.ndarray
    """uint8"""
    depth_m_HW: np.ndarray
    """float32, along the camera's axis; infinite where nothing is."""
    geom_HW: np.ndarray
    """int64: which of the model's geoms is there; -1: none."""


class MujocoRenderer:
    """Draws a model's cameras. It belongs to the thread that made it, and a process needs one for each model."""

    def __init__(self, model: Any, renderer: str, height_px: int, width_px: int) -> None:
        context = _context_class(found_renderer(renderer))
        model.vis.global_.offheight, model.vis.global_.offwidth = height_px, width_px
        try:
            self._gl = context(width_px, height_px)
            self._gl.make_current()
            self._mjr = mj.MjrContext(model, mj.mjtFontScale.mjFONTSCALE_100.value)
        except Exception as error:  # the bindings raise whatever their library does
            raise DataError(
                f"MuJoCo's renderer does not start ({type(error).__name__}: {error}); `cosmos-train doctor` tries it:"
                f" {LIBRARY_PACKAGES}"
            ) from error
        mj.mjr_setBuffer(mj.mjtFramebuffer.mjFB_OFFSCREEN.value, self._mjr)
        self._mjr.readDepthMap = mj.mjtDepthMap.mjDEPTH_ZEROFAR.value
        self._model, self._scene = model, mj.MjvScene(model, maxgeom=model.ngeom + 100)
        self._rect, self._options = mj.MjrRect(0, 0, width_px, height_px), mj.MjvOption()
        self._camera = mj.MjvCamera()
        self._camera.type = mj.mjtCamera.mjCAMERA_FIXED.value
        # While Python ends, the bindings free a context when their library is gone already, and say so.
        atexit.register(self._close)

    @property
    def device(self) -> str:
        """Say what draws, in OpenGL's words: of a renderer on the CPU `llvmpipe`."""
        from OpenGL import GL  # bound to the library that the context has chosen

        self._gl.make_current()
        return (GL.glGetString(GL.GL_RENDERER) or b"unknown").decode()

    def _close(self) -> None:
        self._mjr.free()
        self._gl.free()

    def render(self, data: Any, camera: int) -> Rendered:
        """Draw what a camera of the model sees of a state."""
        self._gl.make_current()
        self._camera.fixedcamid = camera
        everything = mj.mjtCatBit.mjCAT_ALL.value
        mj.mjv_updateScene(self._model, data, self._options, None, self._camera, everything, self._scene)
        flags, flag = self._scene.flags, mj.mjtRndFlag
        flags[flag.mjRND_SHADOW.value] = flags[flag.mjRND_REFLECTION.value] = 0
        rgb, ids = (np.empty((self._rect.height, self._rect.width, 3), dtype=np.uint8) for _ in range(2))
        depth = np.empty(rgb.shape[:2], dtype=np.float32)
        mj.mjr_render(self._rect, self._scene, self._mjr)
        mj.mjr_readPixels(rgb, None, self._rect, self._mjr)
        flags[flag.mjRND_SEGMENT.value] = flags[flag.mjRND_IDCOLOR.value] = 1
        mj.mjr_render(self._rect, self._scene, self._mjr)
        mj.mjr_readPixels(ids, depth, self._rect, self._mjr)
        flags[flag.mjRND_SEGMENT.value] = flags[flag.mjRND_IDCOLOR.value] = 0
        rgb, ids, depth = rgb[::-1].copy(), ids[::-1].astype(np.int64), depth[::-1]  # OpenGL's rows begin below
        return Rendered(rgb, self._depth_m(depth), self._geoms()[ids[..., 0] + 256 * ids[..., 1] + 65536 * ids[..., 2]])

    def _depth_m(self, stored_HW: np.ndarray) -> np.ndarray:
        """Undo the projection: what is stored is near * (far - z) / (z * (far - near)), so 0 is far or nothing."""
        planes = self._model.vis.map
        near, far = planes.znear * self._model.stat.extent, planes.zfar * self._model.stat.extent
        depth = near * far / (stored_HW.astype(np.float64) * (far - near) + near)
        return np.where(stored_HW > 0, depth, np.inf).astype(np.float32)

    def _geoms(self) -> np.ndarray:
        """Return which geom each number in an id picture is; 0 is none."""
        geoms = np.full(self._scene.ngeom + 1, -1, dtype=np.int64)
        for shown in self._scene.geoms[: self._scene.ngeom]:
            if shown.segid >= 0 and shown.objtype == mj.mjtObj.mjOBJ_GEOM.value:
                geoms[shown.segid + 1] = shown.objid
        return geoms


def _context_class(renderer: str) -> Any:
    """Return the class of MuJoCo's OpenGL contexts. Importing one library's bindings rules the other out."""
    try:
        if renderer == "egl":
            from mujoco.egl import GLContext
        else:
            from mujoco.osmesa import GLContext
    except (ImportError, AttributeError, OSError) as error:
        raise DataError(
            f"MuJoCo's renderer {renderer} does not load ({error}); `cosmos-train doctor` tries it: {LIBRARY_PACKAGES}"
        ) from error
    return GLContext
