"""Clips of a MuJoCo model: exact cameras of all views, actions, states, depth and instances.

Controls are set once a frame and held until the next one: control k brings about what frame k+1 shows. The model's time
step is shortened so that a whole number of steps makes a frame.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cosmos_data.errors import DataError
from cosmos_data.manifests.conditions import Action, Camera
from cosmos_data.simulate.clips import SimulatedClip, SimulatedView
from cosmos_data.simulate.config import ArmConfig, MujocoConfig, TableConfig
from cosmos_data.simulate.draws import Draws
from cosmos_data.simulate.mujoco_api import mj
from cosmos_data.simulate.mujoco_policies import Observation, Policy, RandomControls, checked, function_of
from cosmos_data.simulate.mujoco_render import MujocoRenderer, Rendered


class Stage(Protocol):
    """What is played: a model, how a seed's clip begins, who controls it, what is said of it."""

    embodiment: str

    @property
    def model(self) -> Any: ...

    @property
    def policy_name(self) -> str: ...

    def begin(self, data: Any, seed: int) -> None:
        """Set the state of a clip's first frame, and the colours of the model."""
        ...

    def policy(self, seed: int) -> Policy: ...

    def caption(self, seed: int) -> str: ...


class MujocoWorld:
    """A world that plays a stage in MuJoCo.

    Raises:
        DataError: the model has no camera, none of a name, or no actuator.
    """

    def __init__(
        self, config: TableConfig | ArmConfig | MujocoConfig, stage: Stage, cameras: Sequence[str], renderer: str
    ) -> None:
        self.config, self._stage, self._renderer_name = config, stage, renderer
        model = stage.model
        model.opt.timestep = 1 / config.fps / self._steps_a_frame(model.opt.timestep)
        self._cameras = list(_cameras_of(model, cameras))
        if model.nu == 0:
            raise DataError(f"the model of {stage.embodiment} has no actuator, so nothing can act; add <actuator>")
        # Made by whoever draws: a renderer belongs to one process and one thread.
        self._renderer: MujocoRenderer | None = None

    def _steps_a_frame(self, timestep_sec: float) -> int:
        return math.ceil(1 / self.config.fps / timestep_sec - 1e-9)

    def clip(self, seed: int) -> SimulatedClip:
        """Return the clip of a seed."""
        name = self._stage.policy_name
        return self._played(seed, function_of(name) if ":" in name else self._stage.policy(seed))

    def played(self, seed: int, controls_NA: np.ndarray) -> SimulatedClip:
        """Return the clip that begins as the seed's does, under other controls, one for each frame.

        Raises:
            DataError: there are fewer controls than frames, or other than one for each actuator.
        """
        num_frames, num_actuators = self.config.num_frames, self._stage.model.nu
        if controls_NA.ndim != 2 or controls_NA.shape[1] != num_actuators or len(controls_NA) < num_frames:
            raise DataError(
                f"actions of the shape {list(controls_NA.shape)} are not num_frames={num_frames} or more, of"
                f" {num_actuators} numbers each, one for each actuator; give [{num_frames}, {num_actuators}]"
            )
        return self._played(seed, lambda observation, step, generator: controls_NA[step])

    def _played(self, seed: int, policy: Policy) -> SimulatedClip:
        model, stage = self._stage.model, self._stage
        data = mj.MjData(model)
        mj.mj_resetData(model, data)
        stage.begin(data, seed)
        mj.mj_forward(model, data)
        if self._renderer is None:
            self._renderer = MujocoRenderer(model, self._renderer_name, self.config.height_px, self.config.width_px)
        generator = np.random.Generator(np.random.Philox(key=seed))
        steps = self._steps_a_frame(model.opt.timestep)
        shown: list[list[Rendered]] = [[] for _ in self._cameras]
        poses, controls, states = [], [], []
        for step in range(self.config.num_frames):
            for number, of_view in zip(self._cameras, shown, strict=True):
                of_view.append(self._renderer.render(data, number))
            poses.append([_pose_34(data, number) for number in self._cameras])
            states.append(_state_of(model, data))
            control = checked(policy(_observed(model, data), step, generator), model.nu, stage.policy_name, step)
            controls.append(control)
            data.ctrl[:] = control
            for _ in range(steps):
                mj.mj_step(model, data)
            if not np.isfinite(data.qpos).all() or data.warning[mj.mjtWarning.mjWARN_BADQACC.value].number:
                raise DataError(
                    f"the simulation of {stage.embodiment} became unstable in step {step} of seed {seed}; use a shorter"
                    " <option timestep>, or gentler controls"
                )
        return self._clip(seed, shown, np.array(poses), np.array(controls), states)

    def _clip(
        self,
        seed: int,
        shown: list[list[Rendered]],
        poses_TV34: np.ndarray,
        controls_TA: np.ndarray,
        states: list[dict[str, np.ndarray]],
    ) -> SimulatedClip:
        model = self._stage.model
        names, instance_of_geom = _instances_of(model)
        views = []
        for place, (number, of_view) in enumerate(zip(self._cameras, shown, strict=True)):
            name = mj.mj_id2name(model, mj.mjtObj.mjOBJ_CAMERA, number) or f"camera{number}"
            views.append(
                SimulatedView(
                    name=name if len(shown) > 1 else "",
                    pictures_THW3=np.stack([rendered.rgb_HW3 for rendered in of_view]),
                    depth_m_THW=np.stack([rendered.depth_m_HW for rendered in of_view]),
                    instances_THW=np.stack([instance_of_geom[rendered.geom_HW] for rendered in of_view]),
                    camera=self._camera(number, poses_TV34[:, place]),
                )
            )
        actuators = [_actuator(model, number) for number in range(model.nu)]
        stacked = {name: np.stack([state[name] for state in states]) for name in states[0]}
        return SimulatedClip(
            views=tuple(views),
            fps=self.config.fps,
            caption=self._stage.caption(seed),
            action=self._signal(actuators, controls_TA, "controls of the model's actuators"),
            state=self._state(stacked["qpos_TQ"]),
            instance_names=names,
            states=stacked,
        )

    def _camera(self, number: int, poses_T34: np.ndarray) -> Camera:
        height_px, width_px = self.config.height_px, self.config.width_px
        focal_px = height_px / 2 / math.tan(math.radians(float(self._stage.model.cam_fovy[number])) / 2)
        is_still = bool((poses_T34 == poses_T34[0]).all())
        return Camera(
            convention="camera_to_world_opengl",
            intrinsics_px=(focal_px, focal_px, width_px / 2, height_px / 2),
            height_px=height_px,
            width_px=width_px,
            extrinsics=tuple((poses_T34[:1] if is_still else poses_T34).ravel().tolist()),
        )

    def _state(self, qpos_TQ: np.ndarray) -> Action | None:
        """Return the positions of the joints that actuators drive; None where they drive none."""
        model = self._stage.model
        driven = list[int]()
        for number in range(model.nu):
            joint = int(model.actuator_trnid[number, 0])
            is_joint = model.actuator_trntype[number] == mj.mjtTrn.mjTRN_JOINT
            if is_joint and joint not in driven and model.jnt_type[joint] in _joint_units():
                driven.append(joint)
        if not driven:
            return None
        dimensions = [(_name(model, "JOINT", joint), _joint_units()[int(model.jnt_type[joint])]) for joint in driven]
        return self._signal(dimensions, qpos_TQ[:, model.jnt_qposadr[driven]], "positions of the model's joints")

    def _signal(self, dimensions: list[tuple[str, str]], values_TD: np.ndarray, frame_of_reference: str) -> Action:
        return Action(
            names=tuple(name for name, _ in dimensions),
            units=tuple(unit for _, unit in dimensions),
            rate_hz=self.config.fps,
            frame_of_reference=frame_of_reference,
            values=tuple(values_TD.ravel().tolist()),
            embodiment=self._stage.embodiment,
        )


class XmlStage:
    """A model of the user's, and a policy that fits any model.

    Raises:
        DataError: the file is missing or no model, or the policy is not for it.
    """

    def __init__(self, config: MujocoConfig) -> None:
        self.config, self.policy_name = config, config.policy
        path = Path(config.xml)
        if not config.xml or not path.is_file():
            raise DataError(f"mujoco.xml={config.xml!r} is no file; name a MuJoCo model, as in mujoco.xml=robot.xml")
        if config.policy != "random" and ":" not in config.policy:
            raise DataError(f"mujoco.policy={config.policy} is neither random nor module:function")
        try:
            self.model = mj.MjModel.from_xml_path(str(path))
        except ValueError as error:
            raise DataError(f"mujoco.xml={config.xml} is no model that MuJoCo reads: {error}") from error
        if ":" in config.policy:
            function_of(config.policy)
        self.embodiment = path.stem

    def begin(self, data: Any, seed: int) -> None:
        """Begin as the model says, with noise on its hinges and slides."""
        draws = Draws(seed, "mujoco beginning")
        for joint in range(self.model.njnt):
            if int(self.model.jnt_type[joint]) in _joint_units():
                noise = draws.between(-self.config.initial_noise, self.config.initial_noise)
                data.qpos[self.model.jnt_qposadr[joint]] += noise

    def policy(self, seed: int) -> Policy:
        return RandomControls(Draws(seed, "mujoco policy"), control_ranges_A2(self.model))

    def caption(self, seed: int) -> str:
        return ""


def control_ranges_A2(model: Any) -> np.ndarray:
    """Return the lowest and highest control of each actuator; -1 and 1 where the model has no limit."""
    is_limited_A1 = np.array(model.actuator_ctrllimited, dtype=bool)[:, None]
    return np.where(is_limited_A1, model.actuator_ctrlrange, (-1.0, 1.0))


def _cameras_of(model: Any, wanted: Sequence[str]) -> Iterator[int]:
    """Yield the numbers of the cameras to film with."""
    known = {_name(model, "CAMERA", number): number for number in range(model.ncam)}
    if not known:
        raise DataError("the model has no camera, so there is nothing to see; add <camera> to its <worldbody>")
    for name in wanted or known:
        if name not in known:
            raise DataError(f"cameras: {name!r} is no camera of the model; use {', '.join(known)}")
        if model.cam_sensorsize[known[name]].any() or model.cam_projection[known[name]]:
            raise DataError(
                f"camera {name} is given by a sensor's size, or is orthographic; its intrinsics are not read yet: give"
                " it a fovy alone"
            )
        yield known[name]


def _pose_34(data: Any, camera: int) -> np.ndarray:
    """Return the camera-to-world pose of a camera, in OpenGL's axes."""
    return np.concatenate([data.cam_xmat[camera].reshape(3, 3), data.cam_xpos[camera][:, None]], axis=1)


def _name(model: Any, kind: str, number: int) -> str:
    found = mj.mj_id2name(model, getattr(mj.mjtObj, f"mjOBJ_{kind}"), number)
    return found or f"{kind.lower()}{number}"


def _joint_units() -> dict[int, str]:
    """Return the unit of joints of one dimension, by MuJoCo's number of their type."""
    return {int(mj.mjtJoint.mjJNT_HINGE): "rad", int(mj.mjtJoint.mjJNT_SLIDE): "m"}


def _actuator(model: Any, number: int) -> tuple[str, str]:
    """Return name and unit of an actuator: of a position, a velocity or a force, by its joint's type; else 1."""
    name = _name(model, "ACTUATOR", number)
    if model.actuator_trntype[number] != mj.mjtTrn.mjTRN_JOINT:
        return name, "1"
    unit = _joint_units().get(int(model.jnt_type[model.actuator_trnid[number, 0]]))
    if unit is None:
        return name, "1"
    _, of_position, of_velocity = model.actuator_biasprm[number, :3]
    if of_position:
        return name, unit
    if of_velocity:
        return name, f"{unit}/s"
    return name, "N" if unit == "m" else "N m"


def _instances_of(model: Any) -> tuple[tuple[str, ...], np.ndarray]:
    """Return names of things, and uint8 [geoms + 1]: which thing each geom is of; the last one is of no geom, -1.

    A thing is a body that moves, with all that hangs on it, or a geom that stands still.
    """
    names, numbers = ["background"], np.zeros(model.ngeom + 1, dtype=np.uint8)
    for geom in range(model.ngeom):
        root = int(model.body_rootid[model.geom_bodyid[geom]])
        name = _name(model, "BODY", root) if root else _name(model, "GEOM", geom)
        if name not in names:
            names.append(name)
        numbers[geom] = min(names.index(name), 255)
    return tuple(names), numbers


def _state_of(model: Any, data: Any) -> dict[str, np.ndarray]:
    """Return joints, and the place of every body that is free, by the names that labels have."""
    state = {"qpos_TQ": data.qpos.copy(), "qvel_TV": data.qvel.copy()}
    for joint in np.flatnonzero(model.jnt_type == mj.mjtJoint.mjJNT_FREE):
        body = int(model.jnt_bodyid[joint])
        state[f"{_name(model, 'BODY', body)}_m_T3"] = data.xpos[body].copy()
    return state


def _observed(model: Any, data: Any) -> Observation:
    return Observation(
        time_sec=float(data.time),
        qpos=data.qpos.copy(),
        qvel=data.qvel.copy(),
        ctrl=data.ctrl.copy(),
        sensordata=data.sensordata.copy(),
        places_m={_name(model, "BODY", body): data.xpos[body].copy() for body in range(1, model.nbody)},
    )
