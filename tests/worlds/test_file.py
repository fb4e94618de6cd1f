"""An official file that is given what it does not say makes the videos that the run makes, to the bit; contradictions
between the two are one error, before anything of the network is read."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support import steered_run
from support.official_dit import write_official
from support.steered_run import DATA, FPS, conditions_of

from cosmos_tok.whitening import load_statistics
from cosmos_train.conditions.action_statistics import ACTIONS, ActionStatistics, Embodiments
from cosmos_train.conditions.config import ConditionConfig
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import load_run
from cosmos_train.generate.config import SampleConfig
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.parallel import init
from cosmos_train.text.config import TextConfig
from cosmos_train.worlds import opening
from cosmos_train.worlds.file import FileParts, WindowSize, find_file, find_parts
from cosmos_train.worlds.opening import open_world
from cosmos_train.worlds.world import World

WINDOW = WindowSize(num_frames=DATA.num_frames, height_px=DATA.height_px, width_px=DATA.width_px, fps=FPS)
SAID = {"action_into": "both"}
"""The run has it, and an official file is not taken to have it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A steered run and its official file."""
    folder = tmp_path_factory.mktemp("files")
    steered_run.write(folder)
    steered_run.write_official_file(folder)
    yield folder
    init.stop()


@pytest.fixture
def parts(folder: Path) -> FileParts:
    """All that the run has and its file has not."""
    return {
        "arguments": SAID,
        "tokenizer": folder / "tokenizer",
        "statistics": load_statistics(folder / "latents/latent_statistics.safetensors"),
        "text_encoder": TextConfig(max_tokens=8),
        "window": WINDOW,
        "condition": ConditionConfig(),
    }


def config_of(folder: Path) -> str:
    """The YAML of the run, as its checkpoint has it."""
    return str(folder / "steered/checkpoints/step-00000001/run.yaml")


def video(world: World, number: int = 2) -> torch.Tensor:
    world = dataclasses.replace(world, sampling=SampleConfig(num_steps=2))
    given = torch.full((3, 1, DATA.height_px, DATA.width_px), 200, dtype=torch.uint8)
    return world.sample("a ball", given, seeds=[3], conditions=[conditions_of(number)])


def test_an_official_file_that_is_steered_makes_the_runs_own_videos(folder: Path, parts: FileParts):
    """Its width is that of four steps of two dimensions, so its actions are of each latent frame, of four frames."""
    of_file = open_world(folder / "official/model.pt", **parts)
    assert isinstance(of_file.config, DiTConfig) and of_file.config.action_frames == "each"
    assert any("8 numbers of actions are 4 steps of 2 dimensions" in note for note in of_file.notes)
    found = video(of_file)
    assert torch.equal(found, video(open_world(folder / "steered")))
    assert not torch.equal(found, video(of_file, 1)), "which is followed"


def test_a_file_that_a_runs_configuration_describes(folder: Path):
    found = find_file(folder / "official/model.pt", config_of(folder), fps=FPS)
    world = open_world(found)
    assert torch.equal(video(world), video(open_world(folder / "steered")))
    assert world.require_trained().step is None
    with pytest.raises(ConfigError, match=r"found already; give find_file the override 'sample.num_steps=3'"):
        open_world(found, ["sample.num_steps=3"])


def test_a_file_of_which_nobody_says_how_it_is_steered(folder: Path, parts: FileParts):
    """It can be called, and not sampled: it says what it is and what to give."""
    world = open_world(folder / "official/model.pt", **parts | {"condition": None})
    said = (
        r"model.pt reads a camera's path \(12 input channels, 6 of .* and actions \(8 numbers of the one next frame\)"
    )
    with pytest.raises(
        ConfigError, match=rf"{said}.*action_statistics.json beside .* open_world\(..., condition=...\)"
    ):
        video(world)
    assert "no tensor tells how" in world.notes[-1]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no tokenizer": ({"tokenizer": None, "window": None}, "came without a tokenizer, which tells the frames"),
    "another normalisation": (
        {"condition": ConditionConfig(action_normalize="standard")},
        r"condition.action_normalize=standard, and .*json has quantiles of embodiment ''; set that",
    ),
    "another robot": (
        {"condition": ConditionConfig(embodiments=("arm",))},
        r"condition.embodiments=\['arm'\], and .*action_statistics.json has \[''\]; set that",
    ),
    "another kind": ({"arguments": {"action_frames": "next"}}, "windows have 3 latent frames|has 4 steps of actions"),
    "statistics that are not there": ({"embodiments": "nowhere.json"}, "action_statistics.json is missing"),
    "statistics alone": ({"condition": None, "embodiments": Embodiments({})}, "pass condition=, too"),
}


@pytest.mark.parametrize(("change", "said"), WRONG.values(), ids=WRONG)
def test_contradictions(
    folder: Path, parts: FileParts, change: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(opening, "load_pieces", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(ConfigError, match=said):
        open_world(folder / "official/model.pt", **parts | change)  # pyright: ignore[reportArgumentType]


def test_conditions_that_a_file_does_not_read(folder: Path, tmp_path: Path, parts: FileParts):
    """A key that would have no effect, and a whole section."""
    sizes: dict[str, Any] = {"num_blocks": 1, "num_heads": 2, "head_dim": 12, "latent_channels": 4}
    of_camera = write_official(tmp_path / "camera/model.pt", DiTConfig(**sizes, condition_mask=True, extra_channels=6))
    plain = write_official(tmp_path / "plain/model.pt", DiTConfig(**sizes, condition_mask=True))
    given: FileParts = parts | {"arguments": None}
    assert find_parts(of_camera, given).conditioner is not None
    of_actions = ConditionConfig(action_normalize="standard")
    for path, change, said in (
        (of_camera, {"condition": of_actions}, "condition.action_normalize=standard, but the model reads no actions"),
        (of_camera, {"embodiments": Embodiments({})}, "are of actions, and it reads none; leave them out"),
        (plain, {}, r"reads neither \(6 input channels, 0 of them beside latents and masks\); leave it out, or name"),
    ):
        with pytest.raises(ConfigError, match=said):
            find_parts(path, given | change)


def test_a_configuration_that_contradicts_its_file(folder: Path, tmp_path: Path):
    path, config = folder / "official/model.pt", config_of(folder)
    for overrides, fps, said in (
        (["model.extra_channels=0"], FPS, "says model.extra_channels=0, and .*model.pt has 6; leave it out, or name"),
        (["model.action_width=16"], FPS, "says model.action_width=16, and .*model.pt has 8"),
        ([], None, "what rate .*model.pt was trained at is not said; give --fps, or data.target_fps"),
        (["condition.action_normalize=none"], FPS, "condition.action_normalize=none, and .* has quantiles"),
    ):
        with pytest.raises(ConfigError, match=said):
            find_file(path, config, overrides, fps=fps)
    said = yaml.safe_load(Path(config).read_text())
    del said["condition"]
    (tmp_path / "silent.yaml").write_text(yaml.safe_dump(said))
    with pytest.raises(ConfigError, match=r"no tensor tells how: .*; say condition.key=value, or in .*silent.yaml"):
        find_file(path, str(tmp_path / "silent.yaml"), fps=FPS)
    with pytest.raises(
        ConfigError, match=r"has recipe=world_ar, and .*model.pt is of world_dit; name a run of that re"
    ):
        find_file(path, "run/posttrain/action_ar_5b")


def test_statistics_that_somebody_wrote(folder: Path, tmp_path: Path, parts: FileParts):
    """With known factors nothing has to be counted."""
    shutil.copy(folder / "official/model.pt", tmp_path)
    written = """{"format": "cosmos-train action statistics 1", "embodiments": {"": {
        "names": ["x", "y"], "units": ["px", "px"], "rate_hz": 10, "frame_of_reference": "picture",
        "normalize": "scale", "scale": [20, 1]}}}"""
    (tmp_path / ACTIONS).write_text(written)
    scaled = ConditionConfig(action_normalize="scale", action_scale=(20.0, 1.0))
    found = find_parts(tmp_path / "model.pt", parts | {"condition": scaled}).conditioner
    assert found is not None and found.embodiments is not None
    assert found.embodiments.statistics[""].normalized(torch.ones(1, 2).numpy()).tolist() == [[20, 1]]
    (tmp_path / ACTIONS).write_text(written.replace("[20, 1]", "[20]"))
    with pytest.raises(ConfigError, match=r"scale has 1 entries, and the actions 2 dimensions \(x, y\); give one for"):
        find_parts(tmp_path / "model.pt", parts | {"condition": scaled})
    with pytest.raises(ConfigError, match="q01 has 0 entries"):
        ActionStatistics(names=("x",), units=("m",), rate_hz=1.0, frame_of_reference="base", normalize="quantiles")


def test_what_a_file_has_stands_where_the_configuration_is_silent(folder: Path):
    run = load_run("run/demo_world", standing={"model": {"extra_channels": 6, "num_heads": 999}})
    plain = load_run("run/demo_world")
    assert run.model.extra_channels == 6 and run.model.num_heads == plain.model.num_heads  # pyright: ignore[reportAttributeAccessIssue] of a world model
