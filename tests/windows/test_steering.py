"""What a run is steered by is known from its manifest, before a clip is opened."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support import tiny_world
from support.clips import CLIP
from support.official_dit import write_official

from cosmos_data.config import DataConfig
from cosmos_data.manifests.clip import Clip, Split
from cosmos_data.manifests.conditions import Action
from cosmos_data.manifests.manifest import Manifest
from cosmos_train.conditions.action_statistics import ACTIONS, Embodiments
from cosmos_train.conditions.config import ConditionConfig
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import LatentsConfig, WorldDiTRun
from cosmos_train.interop.official_dit import official_arguments
from cosmos_train.interop.source import ARGUMENTS
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.train.config import CheckpointConfig
from cosmos_train.windows import steering
from cosmos_train.windows.steering import find_embodiments

MODEL = replace(tiny_world.MODEL, action_frames="each", action_width=16)


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    yield init.start(ParallelConfig(), seed=0)
    init.stop()


def clip(number: int, *, value: float | None, split: Split = "train") -> Clip:
    """40 frames with as many actions of two dimensions, all alike; or with none."""
    action = Action(
        names=("x", "y"),
        units=("m", "m"),
        rate_hz=30.0,
        frame_of_reference="table",
        values=(value or 0.0,) * 80,
        embodiment="pusher",
    )
    digest = f"{number:064x}"
    return replace(CLIP, clip_id=str(number), digest=digest, split=split, action=None if value is None else action)


def run_of(folder: Path, *clips: Clip) -> WorldDiTRun:
    """A run that fills its cache from a manifest of these clips, none of which lies anywhere."""
    Manifest(clips).write(folder / "manifest.arrow")
    run = tiny_world.make_run(folder / "latents", folder / "run", ParallelConfig(), MODEL)
    data = DataConfig(manifest=str(folder / "manifest.arrow"), num_frames=17, height_px=32, width_px=48)
    return replace(run, data=data, latents=LatentsConfig(folder=str(folder / "latents"), tokenizer="t", fill=True))


def test_statistics_are_of_the_training_clips_alone(mesh: Mesh, tmp_path: Path):
    clips = [clip(0, value=1.0), clip(1, value=3.0), clip(2, value=100.0, split="heldout")]
    found = find_embodiments(run_of(tmp_path, *clips), mesh)
    assert found is not None
    pusher = found.statistics["pusher"]
    assert (
        pusher.steps_per_frame == 1
        and pusher.num_steps == 80
        and pusher.mean == (2.0, 2.0)
        and pusher.std == (1.0, 1.0)
    )


def test_the_steps_of_a_frame_are_counted_at_the_rate_of_the_windows(mesh: Mesh, tmp_path: Path):
    """At 30 Hz and 15 frames per second two steps lead to the next one; windows of one embodiment have as many."""
    run = run_of(tmp_path, clip(0, value=1.0), clip(1, value=3.0))
    found = find_embodiments(replace(run, data=replace(run.data, frame_stride=2)), mesh)
    assert found is not None and found.statistics["pusher"].steps_per_frame == 2
    run = run_of(tmp_path, clip(0, value=1.0), replace(clip(1, value=3.0), fps=15.0))
    with pytest.raises(
        ConfigError, match=r"'pusher' have 2 steps of 30 Hz for each frame .* at 15 fps, and 1 in other"
    ):
        find_embodiments(run, mesh)


def test_a_clip_without_actions_is_named_by_number(mesh: Mesh, tmp_path: Path):
    run = run_of(tmp_path, clip(0, value=1.0), clip(1, value=None))
    with pytest.raises(ConfigError, match="of 2 training clips or windows 1 come without action"):
        find_embodiments(run, mesh)
    assert find_embodiments(replace(run, model=tiny_world.MODEL), mesh) is None, "a model that reads none asks for none"


def test_of_many_clips_some_are_read_spread_over_all(mesh: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(steering, "MOST_LOOKED_AT", 2)
    found = find_embodiments(run_of(tmp_path, *(clip(number, value=float(number)) for number in range(4))), mesh)
    assert found is not None
    assert found.statistics["pusher"].num_steps == 80 and found.statistics["pusher"].mean == (1.0, 1.0), "0 and 2"


def test_what_weights_of_another_layout_were_trained_with_lies_beside_them(
    mesh: Mesh, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Its embodiments keep their rows where the model has a table of them; without the file it is said."""
    model = replace(tiny_world.MODEL, action_frames="next", action_width=7, action_into="modulation")
    (tmp_path / "base").mkdir()
    write_official(tmp_path / "base/model.pt", model)
    (tmp_path / "base" / ARGUMENTS).write_text(json.dumps(official_arguments(model)))
    run = run_of(tmp_path, clip(0, value=1.0), clip(1, value=3.0))
    run = replace(run, checkpoint=CheckpointConfig(init_from=str(tmp_path / "base")))
    own = find_embodiments(run, mesh)
    assert own is not None and f"base reads actions, and no {ACTIONS} lies there" in caplog.text
    others = (clip(0, value=0.0).action, clip(1, value=9.0).action)
    pushers = [one for one in others if one is not None]
    of_before = [*pushers, *(replace(one, embodiment="zebra") for one in pushers)]
    known = Embodiments.of(of_before, ConditionConfig(embodiments=("zebra", "pusher")))
    known = known.at_frame_rates((one, 30.0) for one in of_before)
    (tmp_path / "base" / ACTIONS).write_text(known.to_json())
    found = find_embodiments(replace(run, model=replace(MODEL, num_embodiments=2)), mesh)
    assert found == known and list(found.statistics) == ["zebra", "pusher"]
    only = find_embodiments(run, mesh)
    assert only is not None and only.statistics == {"pusher": known.statistics["pusher"]} != own.statistics
