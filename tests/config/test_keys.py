"""Every configuration key says what it means and is read by somebody; a key that nobody reads is found out."""

import dataclasses
from dataclasses import dataclass

import pytest

from cosmos_train.config import keys
from cosmos_train.config.keys import Key, all_keys, keys_of, readers
from cosmos_train.config.schema import RUNS, LatentsConfig
from cosmos_train.train.config import TrainConfig

KEYS = all_keys()
LEAVES = {path: key for path, key in KEYS.items() if key.type_name != "section"}


@dataclass(frozen=True)
class Undocumented:
    told: int = 0
    """What it is."""
    untold: int = 0


@pytest.mark.parametrize("path", KEYS)
def test_every_key_has_a_meaning(path: str):
    meaning = KEYS[path].meaning
    assert len(meaning) > 8 and meaning.endswith((".", ")")), f"{path}: {meaning!r}"


@pytest.mark.parametrize("path", LEAVES)
def test_every_key_is_read(path: str):
    assert readers(LEAVES[path]), f"nobody reads {path}"


@pytest.mark.parametrize(
    "made_up",
    [
        Key("train.num_stepz", TrainConfig, "int", "required", ("world_dit",)),
        # Others have attributes of these names; nobody asks the section for them.
        Key("latents.window_frames", LatentsConfig, "int", "8", ("world_dit",)),
        Key("train.exp_avg", TrainConfig, "int", "8", ("world_dit",)),
    ],
)
def test_a_key_that_nobody_reads_is_found_out(made_up: Key):
    assert readers(made_up) == []


def test_readers_are_those_that_really_read():
    assert readers(KEYS["optim.warmup_steps"]) == ["cosmos_train.train.optim"]
    assert "cosmos_train.worlds.diffusion" in readers(KEYS["sample.negative_prompt"])
    assert "cosmos_launch.cli.sample" not in readers(KEYS["train.num_steps"]), "that is sample.num_steps"


def test_a_key_that_only_its_section_reads_counts_if_others_ask_the_section():
    assert "cosmos_tok.config" in readers(KEYS["tokenizer.temporal_rate"])


def test_a_key_without_a_meaning_is_found_out():
    assert keys._meanings(Undocumented) == {"told": "What it is."}
    with pytest.raises(KeyError, match="untold"):
        [key.meaning for key in keys._keys_of(Undocumented, "x.", "world_dit")]


def test_type_and_default_are_told_as_yaml_has_them():
    told = {path: (key.type_name, key.default) for path, key in KEYS.items()}
    assert told["train.num_steps"] == ("int", "required")
    assert told["train.stop_at_step"] == ("int | None", "null")
    assert told["optim.decay"] == ("Literal['constant', 'linear', 'cosine']", "constant")
    assert told["data.flip"] == ("bool", "true")
    assert told["optim.betas"] == ("tuple[float, float]", "[0.9, 0.99]")
    assert told["sample.negative_prompt"] == ("str", '""')
    assert told["train"] == ("section", "required")
    assert told["parallel"] == ("section", "its own defaults")


def test_a_key_knows_its_recipes():
    assert KEYS["seed"].recipes == tuple(RUNS)
    assert KEYS["latents.folder"].recipes == ("world_dit", "world_ar")
    for recipe in RUNS:
        assert keys_of(recipe).keys() == {path for path, key in KEYS.items() if recipe in key.recipes}


def test_sections_stand_before_what_is_in_them():
    seen = set()
    for path, key in KEYS.items():
        assert key.section in {"run", *seen}
        seen.add(path)
    assert KEYS["train.num_steps"].section == "train" and KEYS["seed"].section == "run"


def test_keys_are_those_of_the_dataclasses():
    fields = {f"train.{field.name}" for field in dataclasses.fields(TrainConfig)}
    assert fields == {path for path, key in KEYS.items() if key.owner is TrainConfig}
