"""Which library draws MuJoCo's pictures without a screen, found without importing MuJoCo."""

import ctypes
from importlib.util import find_spec

from cosmos_data.errors import DataError

LIBRARIES: dict[str, str] = {"egl": "libEGL.so.1", "osmesa": "libOSMesa.so.8"}
"""What a renderer loads, in the order in which they are tried."""
PACKAGE = 'pip install "cosmos-train[simulate]"'
LIBRARY_PACKAGES = "apt-get install libegl1 libgl1-mesa-dri libopengl0, or libosmesa6"


def found_renderer(wanted: str = "auto") -> str:
    """Return the renderer that this machine has the libraries of, `wanted` or the first of LIBRARIES.

    Raises:
        DataError: MuJoCo or the library is missing; the message says what to install.
    """
    if find_spec("mujoco") is None:
        raise DataError(f"MuJoCo is not installed, which this world is made with: {PACKAGE}")
    tried = LIBRARIES if wanted == "auto" else {wanted: LIBRARIES[wanted]}
    for name, library in tried.items():
        if _is_loadable(library):
            return name
    raise DataError(
        f"renderer={wanted} needs {' or '.join(tried.values())}, which is not here, to draw MuJoCo's pictures:"
        f" {LIBRARY_PACKAGES}"
    )


def _is_loadable(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
