"""Actions that a command is given become the steps of a video, or one error that names the remedy."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.clips import CLIP

from cosmos_data.config import DataConfig
from cosmos_data.errors import DataError
from cosmos_data.manifests.conditions import Action
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.steering.action_file import read_action, read_key_table
from cosmos_data.steering.steered import SteeredVideo

VIDEO = SteeredVideo(num_frames=5, fps=10.0, height_px=32, width_px=64)
DATA = DataConfig(manifest="unused", num_frames=5, height_px=32, width_px=64)
TRAINED = Action(names=("x", "y"), units=("px", "px"), rate_hz=10.0, frame_of_reference="table", values=())
STEPS = np.arange(10.0).reshape(5, 2)


def steps(source: str | Path, video: SteeredVideo = VIDEO) -> list[list[float]]:
    return read_action(str(source), video, DATA, like=TRAINED).values_ND().tolist()


def as_file(path: Path, values_N2: np.ndarray) -> Path:
    """The steps in the format that the file's name says; tables have a column more, in another order."""
    columns = {"time": np.arange(len(values_N2)) / 10, "y": values_N2[:, 1], "x": values_N2[:, 0]}
    match path.name:
        case "named.parquet":
            pq.write_table(pa.table(columns), path)
        case "lists.parquet":
            pq.write_table(pa.table({"action": pa.array(values_N2.tolist(), pa.list_(pa.float64()))}), path)
        case "named.csv":
            lines = ["time,y,x", *(f"{row[0]},{row[1]},{row[2]}" for row in zip(*columns.values(), strict=True))]
            path.write_text("\n".join(lines) + "\n")
        case "plain.npy":
            np.save(path, values_N2)
        case "plain.json":
            path.write_text(json.dumps(values_N2.tolist()))
        case "objects.json":
            rows = [{"y": down, "x": right} for right, down in values_N2.tolist()]
            path.write_text(json.dumps(rows))
        case "record.json":
            path.write_text(json.dumps({"names": ["x", "y"], "rate_hz": 10, "values": values_N2.ravel().tolist()}))
    return path


FORMATS = ("named.parquet", "lists.parquet", "named.csv", "plain.npy", "plain.json", "objects.json", "record.json")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_steps(name: str, tmp_path: Path):
    assert steps(as_file(tmp_path / name, STEPS)) == STEPS.tolist()


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_refuses_what_is_empty_or_no_number(name: str, tmp_path: Path):
    with pytest.raises(DataError, match="it is empty; give a step for each frame but the last"):
        steps(as_file(tmp_path / name, STEPS[:0]))
    with pytest.raises(DataError, match="action: nan at step 3, 1 such values in all; correct it"):
        steps(as_file(tmp_path / name, np.where(STEPS == 7, np.nan, STEPS)))


def test_a_step_leads_to_each_frame_but_the_first(tmp_path: Path):
    """T - 1 steps are enough, what follows is cut off, and fewer are refused."""
    assert steps(as_file(tmp_path / "plain.npy", STEPS[:4]))[:4] == STEPS[:4].tolist()
    assert steps(as_file(tmp_path / "plain.npy", np.tile(STEPS, (3, 1)))) == STEPS.tolist()
    with pytest.raises(DataError, match="it has 3 steps, and 4 lead to the last of 5 frames at 10 per second and 10 H"):
        steps(as_file(tmp_path / "plain.npy", STEPS[:3]))


def test_steps_at_another_rate_than_frames(tmp_path: Path):
    """At half the frame rate there are half as many steps; at a quarter of a second each, four a second."""
    half = SteeredVideo(num_frames=5, fps=20.0, height_px=32, width_px=64)
    assert steps(as_file(tmp_path / "plain.npy", STEPS), half) == STEPS[:2].tolist()


def test_keys(tmp_path: Path):
    (tmp_path / "keys.yaml").write_text("w: [0, -1]\nn: [2, 0]\n'.': [0, 0]\n")
    table = read_key_table(tmp_path / "keys.yaml")
    found = read_action("keys:wnn.w", VIDEO, DATA, like=TRAINED, keys=table).values_ND()
    assert found.tolist() == [[0, -1], [2, 0], [2, 0], [0, 0], [0, -1]], "n is a key, and not YAML's false"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (None, "what its keys stand for is not said; give --keys TABLE.yaml"),
        ({"w": [1.0, 0.0]}, "key 'x' stands for nothing; the table has 'w'"),
        (
            {"w": [1.0], "x": [0.0, 0.0]},
            "key 'w' stands for [1.0]; a key is one letter, and its action 2 numbers (x, y",
        ),
        ({"w": [1.0, float("inf")]}, "key 'w' stands for [1.0, inf]"),
    ],
)
def test_keys_that_stand_for_nothing(table: dict[str, list[float]] | None, said: str):
    with pytest.raises(DataError) as caught:
        read_action("keys:wxwx", VIDEO, DATA, like=TRAINED, keys=table)
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["- w", "w: left", "w: 12", "w: [a]", "w: ["])
def test_what_is_no_table_of_keys(text: str, tmp_path: Path):
    (tmp_path / "keys.yaml").write_text(text)
    with pytest.raises(DataError, match=r"--keys .*keys.yaml is no table of keys .* write lines such as w: \[0, -1\]"):
        read_key_table(tmp_path / "keys.yaml")


# Actions of another kind than trained


@pytest.mark.parametrize(
    ("said_by_file", "said"),
    [
        ({"names": ["x", "z"]}, "names is x, z, and the model was trained with x, y; give such actions"),
        ({"units": ["m", "m"]}, "units is m, m, and the model was trained with px, px"),
        ({"rate_hz": 5.0}, "rate_hz is 5.0, and the model was trained with 10.0"),
        ({"frame_of_reference": "base"}, "frame_of_reference is 'base', and the model was trained with 'table'"),
        ({"names": ["x", "y", "z"]}, "and the model was trained with"),
        ({"speed": 3}, "it has unknown keys ['speed']"),
    ],
)
def test_a_file_that_says_it_is_of_another_kind(said_by_file: dict[str, object], said: str, tmp_path: Path):
    (tmp_path / "a.json").write_text(json.dumps({"values": STEPS.tolist()} | said_by_file))
    with pytest.raises(DataError) as caught:
        steps(tmp_path / "a.json")
    assert said in str(caught.value) and str(caught.value).startswith(f"--actions {tmp_path}/a.json: ")


def test_another_width_or_other_columns(tmp_path: Path):
    np.save(tmp_path / "wide.npy", np.zeros((5, 3)))
    with pytest.raises(DataError, match=r"its actions are of shape \[5, 3\], and the model was trained with 2 a step"):
        steps(tmp_path / "wide.npy")
    pq.write_table(pa.table({"x": [0.0] * 5, "z": [0.0] * 5}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="it has no column y, but x, z; the model was trained with x, y"):
        steps(tmp_path / "other.parquet")
    pq.write_table(pa.table({"action": pa.array([[1.0]] * 5)}), tmp_path / "lists.parquet")
    with pytest.raises(DataError, match=r"column action must hold lists of 2 numbers \(x, y\)"):
        steps(tmp_path / "lists.parquet")


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.npy", "a.json", "a.txt"])
def test_files_that_hold_something_else(name: str, tmp_path: Path):
    (tmp_path / name).write_bytes(b"\x00\xff,{")
    with pytest.raises(DataError, match=rf"--actions .*{name}: "):
        steps(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[{"x": 1, "z": 2}]', "step 0 has x, z, and the model was trained with x, y"),
        ('[[1, 2], {"x": 1}]', "step 1 has x, and the model was trained with x, y"),
        ('{"values": {"x": [1, 2]}}', "its values are of the kind dict; give a list of steps"),
        ('{"values": 3}', "its values are of the kind int; give a list of steps"),
        ('{"values": [[1, 2]], "names": "x"}', "names is 'x', and the model was trained with x, y"),
        ('{"values": [[1, 2]], "names": 3}', "names is 3, and the model was trained with x, y"),
        ('{"values": [[1, 2]], "names": [["x"], {}]}', "and the model was trained with x, y"),
        ('{"values": [[1, 2]], "rate_hz": "fast"}', "rate_hz is 'fast', and the model was trained with 10.0"),
        ("[[1, [2]]]", "its steps are no numbers, or of different lengths"),
        ('[["a", "b"]]', "its steps are no numbers"),
    ],
)
def test_json_of_another_form(content: str, said: str, tmp_path: Path):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError) as caught:
        steps(tmp_path / "a.json")
    assert said in str(caught.value)


@pytest.mark.parametrize("dtype", ["complex128", "U3", "datetime64[s]"])
def test_arrays_of_something_else_than_real_numbers(dtype: str, tmp_path: Path):
    np.save(tmp_path / "a.npy", STEPS.astype(np.int64).astype(dtype))
    with pytest.raises(DataError, match="no real numbers; write float64"):
        steps(tmp_path / "a.npy")


def test_there_is_no_such_file(tmp_path: Path):
    with pytest.raises(DataError, match=r"it is no file, no clip \(MANIFEST#CLIP\) and no keys"):
        steps(tmp_path / "gone.npy")


# Clips


def test_what_was_done_in_a_clip(tmp_path: Path):
    """The steps begin with the clip, and lead from each frame of the video to the next."""
    values = np.arange(40.0)
    action = replace(TRAINED, values=tuple(values.tolist()))
    bare = replace(CLIP, clip_id="bare", num_frames=20, fps=10.0, height_px=32, width_px=64)
    Manifest([replace(bare, clip_id="done", action=action), bare]).write(tmp_path / "m.arrow")
    assert steps(f"{tmp_path}/m.arrow#done") == values.reshape(-1, 2)[:5].tolist()
    with pytest.raises(DataError, match="the clip has no actions; name a clip that has some"):
        steps(f"{tmp_path}/m.arrow#bare")
