"""The camera paths and actions of `cosmos-train sample`, read and compared with the model before its weights are."""

from pathlib import Path

from cosmos_data.config import DataConfig
from cosmos_data.manifests.conditions import Action
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.sample_plan.plan import central_sample
from cosmos_data.sample_plan.window_conditions import WindowConditions, conditions_of
from cosmos_data.steering.action_file import KeyTable, read_action, read_key_table
from cosmos_data.steering.camera_path import read_camera
from cosmos_data.steering.steered import SteeredVideo
from cosmos_launch.cli.sample_request import Future, SampleRequest
from cosmos_train.conditions.conditioner import Conditioner
from cosmos_train.config.errors import ConfigError
from cosmos_train.windows.kept import trained_with
from cosmos_train.worlds.file import WorldFile
from cosmos_train.worlds.run import RunCheckpoint
from cosmos_train.worlds.steering import conditioner_of_checkpoint


def read_conditions(
    request: SampleRequest, found: RunCheckpoint | WorldFile, num_frames: int
) -> list[WindowConditions]:
    """Return the conditions of each future that is asked for; none of a model that is not steered.

    Raises:
        ConfigError, DataError: the model is not steered by such conditions, is steered by one that is not given, or
            what is given is wrong.
    """
    conditioner, fps = _trained(found)
    if conditioner is None:
        if request.cameras or request.actions:
            option = "--camera" if request.cameras else "--actions"
            raise ConfigError(
                f"{option} steers a model that was trained with it, and {found.path} was trained with neither "
                "camera paths nor actions; leave it out, or name another model"
            )
        return []
    for option, name, given in (("--camera", "camera", request.cameras), ("--actions", "action", request.actions)):
        if (name in conditioner.reads.names) != bool(given):
            raise ConfigError(
                f"{found.path} is steered by its {' and its '.join(conditioner.reads.names)}, and {option} is "
                f"{'' if given else 'not '}given; {'leave it out' if given else 'give it'}"
            )
    data = found.run.data
    video = SteeredVideo(
        num_frames=num_frames,
        fps=request.fps or fps,
        height_px=data.height_px,
        width_px=data.width_px,
    )
    intrinsics_px = _intrinsics_of(data) if request.cameras else None
    keys = None if request.keys_path is None else read_key_table(request.keys_path)
    read = list[WindowConditions]()
    for future in request.futures:
        camera = None
        if future.camera is not None:
            camera = read_camera(future.camera, video, data, intrinsics_px=intrinsics_px)
        action = _action_of(future, video, data, _like(conditioner, request.embodiment), keys)
        read.append(WindowConditions(camera=camera, action=action))
        conditioner.check(read[-1], video.fps)
    return read


def _trained(found: RunCheckpoint | WorldFile) -> tuple[Conditioner | None, float]:
    """Return what steers the model, if anything, and the frames per second that it was trained at."""
    if isinstance(found, WorldFile):
        return found.found.conditioner, found.fps
    return conditioner_of_checkpoint(found), trained_with(found.folder, found.run)[0].fps


def _action_of(
    future: Future, video: SteeredVideo, data: DataConfig, like: Action | None, keys: KeyTable | None
) -> Action | None:
    if future.actions is None or like is None:
        return None
    return read_action(future.actions, video, data, like=like, keys=keys)


def _like(conditioner: Conditioner, embodiment: str | None) -> Action | None:
    """Return what the actions of a model mean, which files of numbers do not say; None where it reads none."""
    if conditioner.embodiments is None:
        return None
    known = conditioner.embodiments.statistics
    name = next(iter(known)) if embodiment is None and len(known) == 1 else embodiment
    if name is None or name not in known:
        given = "not given" if embodiment is None else repr(embodiment)
        raise ConfigError(
            f"--embodiment is {given}, and the model was trained with actions of {', '.join(map(repr, known))}; name "
            "one of them"
        )
    one = known[name]
    return Action(
        names=one.names,
        units=one.units,
        rate_hz=one.rate_hz,
        frame_of_reference=one.frame_of_reference,
        embodiment=name,
        values=(),
    )


def _intrinsics_of(data: DataConfig) -> tuple[float, ...] | None:
    """Return fx, fy, cx, cy of the first training clip's first frame, in pixels of a window; None where the manifest
    is not there any more."""
    if not Path(data.manifest).is_file():
        return None
    for clip in Manifest.read(data.manifest).select("train"):
        camera = conditions_of(central_sample(clip, data)).camera
        if camera is not None:
            return camera.intrinsics_px[:4]
    return None
