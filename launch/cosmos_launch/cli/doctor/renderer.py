"""MuJoCo, and the library that draws its pictures: not guessed from what is installed, but made to draw."""

from cosmos_data.errors import DataError
from cosmos_data.simulate.renderers import LIBRARIES, LIBRARY_PACKAGES, PACKAGE, found_renderer
from cosmos_launch.cli.doctor.child import in_child, last_words
from cosmos_launch.cli.doctor.finding import Finding, of_package

COST = "no worlds of MuJoCo (data simulate table, arm, mujoco); discs, room and pusher need none"
# The child draws a picture of the table and says what drew it.
RENDERER_CHILD = """
import sys, mujoco
from cosmos_data.simulate.mujoco_render import MujocoRenderer
from cosmos_data.simulate.mujoco_table import table_xml

model = mujoco.MjModel.from_xml_string(table_xml(1))
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = MujocoRenderer(model, sys.argv[1], 32, 32)
if renderer.render(data, 0).rgb_HW3.std() < 1:
    sys.exit("the picture is blank")
print(renderer.device)
"""


def probe_renderer() -> list[Finding]:
    """Look at MuJoCo, and draw with the renderer that a world would take, in a child process."""
    package = of_package("mujoco", "mujoco", COST, "MuJoCo")
    if package.status == "missing":
        return [Finding("MuJoCo", "missing", COST, PACKAGE)]
    return [package, _renderer()]


def _renderer() -> Finding:
    name = "MuJoCo renderer"
    try:
        renderer = found_renderer()
    except DataError:
        lacking = f"neither {' nor '.join(LIBRARIES.values())} is here: {COST}"
        return Finding(name, "missing", lacking, LIBRARY_PACKAGES)
    child = in_child(RENDERER_CHILD, renderer)
    if child.returncode:
        return Finding(name, "wrong", f"{renderer} does not draw: {last_words(child)}", LIBRARY_PACKAGES)
    return Finding(name, "ok", f"{renderer}, {child.stdout.strip()}")
