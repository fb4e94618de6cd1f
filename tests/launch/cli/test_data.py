"""`cosmos-train data ...` from its words to its files: build, check, pack, stats."""

import shutil
from pathlib import Path

import pytest
from PIL import Image
from support.footage import CARPHONE
from support.page import Page

from cosmos_data.config import DataConfig
from cosmos_data.errors import DataError
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.readers.given_clips import whole_video
from cosmos_data.sample_plan.plan import SamplePlan, read_parts
from cosmos_data.videos.video import RgbConverter, read_frames
from cosmos_launch.cli import data
from cosmos_launch.cli.commands import Command, Invocation, make_parser
from cosmos_launch.pages import data_page

FORMATS = Path(__file__).parents[2] / "data/readers/formats"
ENERGON = FORMATS / "energon"


def run(line: str) -> int:
    typed = vars(make_parser().parse_args(["data", *line.split()]))
    command: Command = typed.pop("command")
    return command.run(typed, Invocation(argv=(), debug=typed.pop("debug"), is_whole_process=False))


@pytest.fixture
def footage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").symlink_to(CARPHONE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_words_mean(footage: Path, capsys: pytest.CaptureFixture[str]):
    assert run("build videos --out m.parquet --clip-frames 20 --heldout-every 3 --keep-shots --max-clips 4") == 0
    said = capsys.readouterr().out
    assert "6 clips found, 4 kept, evenly spread" in said and "4 clips (" in said
    assert [clip.start_frame for clip in Manifest.read("m.parquet")] == [0, 20, 60, 80]
    assert run("build videos --out whole.parquet --clip-frames 0 --heldout-every 0 --keep-shots") == 0
    [whole] = Manifest.read("whole.parquet")
    assert (whole.num_frames, whole.split) == (120, "train"), "0: whole shots, and none held out"
    assert run("pack whole.parquet --out packed --height-px 48 --width-px 64 --codec vp9") == 0
    assert "1 clips, 64x48 vp9 -> " in capsys.readouterr().out
    [packed] = Manifest.read("packed/manifest.arrow")
    assert (packed.num_frames, packed.height_px, packed.width_px, packed.codec) == (120, 48, 64, "vp9")


def test_what_is_left_out_is_said_and_nothing_replaces_a_manifest(footage: Path, capsys: pytest.CaptureFixture[str]):
    (footage / "videos/a.mp4.part").write_bytes(b"1")
    run("build videos --out m.parquet --clip-frames 60 --keep-shots")
    said = capsys.readouterr().out
    assert "left out: 1: an unfinished download" in said
    assert "found 1 videos: 2 clips (2 train, 0 held out), 0 videos skipped" in said
    before = Path("m.parquet").read_bytes()
    (footage / "videos/a.mp4").unlink()
    with pytest.raises(DataError, match="holds no video; left out:"):
        run("build videos --out m.parquet")
    (footage / "videos/a.mp4").write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match=r"gives no clip of 1 videos(.|\n)*web page"):
        run("build videos --out m.parquet --max-bad-share 1")
    assert Path("m.parquet").read_bytes() == before
    with pytest.raises(DataError, match="max_bad_share=nan"):
        run("build videos --out m.parquet --max-bad-share nan")


def test_a_metadataset_becomes_manifests_and_the_keys_that_blend_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert run(f"build {ENERGON / 'blend.yaml'} --out m.parquet --clip-frames 5") == 0
    said = capsys.readouterr().out
    assert "data.manifest=m.parquet 'data.blend={m.1-second.parquet: 0.333333}'" in said
    config = DataConfig(
        manifest="m.parquet",
        blend={"m.1-second.parquet": 1 / 3},
        num_frames=5,
        height_px=32,
        width_px=32,
    )
    plan = SamplePlan(read_parts(config, "train"), 0, config)
    names = [plan.sample(index).clip.path.rpartition("/")[2] for index in range(400)]
    assert sorted(set(names)) == ["part-0.tar", "shard_000.tar"]
    assert names.count("shard_000.tar") == 300


def test_a_check_ends_with_2_where_there_is_an_error(footage: Path, capsys: pytest.CaptureFixture[str]):
    run("build videos --out m.parquet --clip-frames 60")
    assert data.check(Path("m.parquet"), target_fps=None, poses=False, out=None) == 0
    (footage / "videos" / "a.mp4").unlink()
    assert data.check(Path("m.parquet"), target_fps=None, poses=False, out=Path("found/all.txt")) == 2
    assert "error" in Path("found/all.txt").read_text() and "2 clips: " in capsys.readouterr().out
    with pytest.raises(DataError, match=r"--out videos is a folder; name the manifest to write"):
        run("build videos --out videos")


def test_the_page_counts_clips(footage: Path):
    run("build videos --out m.parquet --clip-frames 40 --keep-shots")
    assert data_page.stats(Path("m.parquet"), out=Path("stats.html")) == 0
    page = Page(Path("stats.html").read_text(encoding="utf-8"))
    manifest = Manifest.read("m.parquet")
    assert f"{manifest[0].width_px}x{manifest[0].height_px}3" in page.text, "the size, and how many clips have it"
    assert manifest.digest in page.text
    assert page.tags["img"] and len(page.figures) == 2


def test_poses_of_frames_that_lie_as_pictures_are_proven(footage: Path, capsys: pytest.CaptureFixture[str]):
    """From pictures and transforms.json to a proof, by words alone."""
    film = whole_video(FORMATS / "cameras/nerfstudio/video.mp4")
    (footage / "scene/images").mkdir(parents=True)
    shutil.copy(FORMATS / "cameras/nerfstudio/transforms.json", footage / "scene")
    to_rgb = RgbConverter()
    for number, frame in enumerate(read_frames(film, start_frame=0, num_frames=film.num_frames)):
        Image.fromarray(to_rgb(frame)).save(footage / f"scene/images/frame_{number:06d}.png")
    assert run("build scene --out m.arrow --clip-frames 0 --heldout-every 0 --pictures-fps 12") == 0
    [clip] = Manifest.read("m.arrow")
    assert clip.path == str(footage / "m.frames/scene.avi") and (clip.num_frames, clip.fps) == (9, 12)
    capsys.readouterr()
    assert run("check m.arrow --poses") == 0
    said = capsys.readouterr().out
    assert "scene@0: camera_to_world_opengl 0." in said and "it fits" in said and "0 errors" in said
