"""Clips to latents and back: exact, resumed by digest, of any length and size, and wrong input told in a sentence."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.footage import CARPHONE
from support.tiny_tokenizer import CONTINUOUS, DISCRETE

from cosmos_data.manifests.clip import Clip
from cosmos_data.readers.given_clips import find_clips, read_pixels
from cosmos_data.videos.media import mp4_comment
from cosmos_data.videos.video import probe_video
from cosmos_launch.cli.main import main
from cosmos_tok.config import TokenizerConfig
from cosmos_tok.latent_file import load_latents
from cosmos_tok.model import CausalVideoTokenizer, to_unit_range
from cosmos_tok.padding import pad
from cosmos_tok.store import load_tokenizer, save_tokenizer
from cosmos_train.encoding import files as encode_files


def saved_tokenizer(folder: Path, config: TokenizerConfig, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    save_tokenizer(folder, CausalVideoTokenizer(config), config, {})
    return folder


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a tokenizer, and videos of 18 frames of pictures, and 120 of footage."""
    saved_tokenizer(tmp_path / "tok", CONTINUOUS)
    (tmp_path / "videos" / "deep").mkdir(parents=True)
    shutil.copy(CARPHONE, tmp_path / "videos" / "deep" / "phone.mp4")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def draw_pictures(folder: Path, num_frames: int, size: tuple[int, int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for frame in range(num_frames):
        Image.new("RGB", size, (10 * frame, 90, 250 - 10 * frame)).save(folder / f"{frame:03d}.png")


def run(line: str) -> int:
    return main(line.split())


ENCODE = "tokenize videos --tokenizer tok --out latents --short-side-px 40 --padding edge"


def test_latents_are_those_of_the_whole_clip_and_decode_to_its_size(work: Path) -> None:
    assert run(ENCODE) == 0
    file = load_latents(work / "latents/deep/phone.mp4.safetensors")
    [source] = find_clips(work / "videos", pictures_fps=24)
    clip = source.describe()
    frames = torch.cat(list(read_pixels(clip, num_frames=120, height_px=40, width_px=53)), dim=1)
    model, config = load_tokenizer(work / "tok")
    with torch.inference_mode():
        padded, box = pad(to_unit_range(frames[None]), config, "edge")
        expected = model.encode(padded)[0]
    assert file.box == box and box.size_THW == (120, 40, 53)
    torch.testing.assert_close(file.latents, expected, rtol=0, atol=1e-4)
    assert file.origin.source_digest == source.digest() and file.fps == clip.fps and file.source == "deep/phone.mp4"
    assert run("tokenize latents --tokenizer tok --out back --decode") == 0
    info = probe_video(work / "back/deep/phone.mp4")
    assert (info.num_frames, info.height_px, info.width_px) == (120, 40, 53)
    assert info.fps == pytest.approx(clip.fps, rel=1e-4)


def test_codes_are_stored_exactly(work: Path) -> None:
    saved_tokenizer(work / "discrete", DISCRETE)
    draw_pictures(work / "shots" / "one", 9, (24, 16))
    assert run("tokenize shots --tokenizer discrete --out codes --fps 10") == 0
    file = load_latents(work / "codes/one.safetensors")
    model, _ = load_tokenizer(work / "discrete")
    clip = find_clips(work / "shots", pictures_fps=10)[0].describe()
    frames = torch.cat(list(read_pixels(clip, num_frames=9, height_px=16, width_px=24)), dim=1)
    with torch.inference_mode():
        expected = model.indices(model.encode(to_unit_range(frames[None])))[0]
    assert file.latents.dtype == torch.int32 and torch.equal(file.latents.long(), expected)
    assert run("tokenize codes/one.safetensors --tokenizer discrete --out back --decode") == 0
    assert probe_video(work / "back/one.mp4").num_frames == 9


@pytest.mark.parametrize("policy", ["edge", "black", "official"])
def test_any_size_comes_back(policy: str, work: Path) -> None:
    draw_pictures(work / "shots" / "odd", 7, (21, 13))
    assert run(f"tokenize shots --tokenizer tok --out latents --padding {policy}") == 0
    assert run("tokenize latents --tokenizer tok --out back --decode") == 0
    info = probe_video(work / "back/odd.mp4")
    assert (info.num_frames, info.height_px, info.width_px) == (7, 13, 21)


def test_only_what_changed_is_done_again(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_pictures(work / "shots" / "a", 5, (16, 16))
    draw_pictures(work / "shots" / "b", 5, (16, 16))
    encode, decode = "tokenize shots --tokenizer tok --out l", "tokenize l --tokenizer tok --out v --decode"
    files = [work / "l/a.safetensors", work / "l/b.safetensors", work / "v/a.mp4", work / "v/b.mp4"]

    def again(encode: str = encode, decode: str = decode) -> list[str]:
        """What both commands wrote anew."""
        for file in files:
            os.utime(file, (0, 0))
        assert run(encode) == run(decode) == 0
        return [file.name for file in files if file.stat().st_mtime > 0]

    assert run(encode) == run(decode) == 0
    assert "2 clips encoded, 0 were done already -> l" in capsys.readouterr().out
    assert again() == []
    assert "0 clips encoded, 2 were done already -> l" in capsys.readouterr().out
    draw_pictures(work / "shots" / "b", 9, (16, 16))
    assert again() == ["b.safetensors", "b.mp4"], "the source changed"
    files[0].unlink()
    assert run(encode) == 0 and files[0].is_file(), "what is missing is made"
    assert again(encode=f"{encode} --padding black") == ["a.safetensors", "b.safetensors", "a.mp4", "b.mp4"]
    shutil.rmtree(work / "tok")
    saved_tokenizer(work / "tok", CONTINUOUS, seed=1)
    assert again(encode=f"{encode} --padding black") == ["a.safetensors", "b.safetensors", "a.mp4", "b.mp4"]
    assert mp4_comment(files[2]).startswith("decoded from ")


def test_an_interrupted_command_leaves_whole_files_and_goes_on(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        draw_pictures(work / "shots" / name, 5, (16, 16))
    line = "tokenize shots --tokenizer tok --out l"
    read, num_read = encode_files.read_pixels, []

    def interrupted(clip: Clip, **size: int) -> Iterator[torch.Tensor]:
        num_read.append(clip)
        for number, frame in enumerate(read(clip, **size)):
            if len(num_read) == 3 and number == 3:
                raise KeyboardInterrupt
            yield frame

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(encode_files, "read_pixels", interrupted)
        run(line)
    assert sorted(path.name for path in (work / "l").iterdir()) == ["a.safetensors", "b.safetensors"]
    assert run(line) == 0
    assert sorted(path.name for path in (work / "l").iterdir()) == [f"{name}.safetensors" for name in "abc"]


def test_what_cannot_be_decoded_is_named_and_the_rest_is_done(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "videos" / "torn.mp4").write_bytes(CARPHONE.read_bytes()[:9000])
    assert run(ENCODE) == 2
    err = capsys.readouterr().err
    assert "1 of 2 clips could not be encoded; repair or remove them:\n  " in err and "torn.mp4: it " in err
    assert (work / "latents/deep/phone.mp4.safetensors").is_file()
    assert not (work / "latents/torn.mp4.safetensors").exists()


WRONG = {
    "length": (
        "tokenize shots --tokenizer tok --out l",
        "clip a: num_frames=6 is not 1 + 4 * n; use 5 or 9; or name what to pad it with: edge, black or official",
    ),
    "height": (
        "tokenize tall --tokenizer tok --out l",
        "clip a: height_px=17 is not a positive multiple of tokenizer.spatial_rate=8; use 16 or 24; or name what ",
    ),
    "another tokenizer": (
        "tokenize latents --tokenizer other --out v --decode",
        "phone.mp4.safetensors was encoded by the tokenizer ",
    ),
    "no latents": (
        "tokenize videos --tokenizer tok --out v --decode",
        "videos holds no file of latents (.safet",
    ),
    "no tokenizer": ("tokenize videos --tokenizer videos --out l", "videos/config.json cannot be read: "),
    "no folder": ("tokenize videos --tokenizer tok", "tokenize with --tokenizer needs --out, a folder, and takes no "),
    "a cache's option": (
        "tokenize run/demo_world --out l",
        "--out and --decode need --tokenizer; without it a world ",
    ),
    "padding of latents": (
        "tokenize latents --tokenizer tok --out v --decode --padding edge",
        "--padding and --short-side-px belong to encoding",
    ),
    "no side": ("tokenize videos --tokenizer tok --out l --short-side-px 0", "--short-side-px 0 must be at least 1"),
    "no time": ("tokenize videos --tokenizer tok --out l --fps 0", "--fps 0.0 must be greater than 0"),
    "time that is no number": ("tokenize videos --tokenizer tok --out l --fps nan", "--fps nan must be greater than 0"),
}


@pytest.mark.parametrize(("line", "said"), WRONG.values(), ids=WRONG)
def test_wrong_input(line: str, said: str, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_pictures(work / "shots" / "a", 6, (16, 16))
    draw_pictures(work / "tall" / "a", 5, (16, 17))
    saved_tokenizer(work / "other", CONTINUOUS, seed=1)
    if "latents" in line:
        assert run(ENCODE) == 0
        capsys.readouterr()
    assert run(line) == 2
    err = capsys.readouterr().err
    assert err.startswith("cosmos-train: ") and said in err and err.count("\n") == 1
    assert not (work / "l").exists() and not list(work.glob("v/**/*.mp4"))


def test_truncated_latents_are_named(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_pictures(work / "shots" / "a", 5, (16, 16))
    assert run("tokenize shots --tokenizer tok --out l") == 0
    file = work / "l/a.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    assert run("tokenize l --tokenizer tok --out v --decode") == 2
    assert "l/a.safetensors cannot be read: " in capsys.readouterr().err
    assert run("tokenize shots --tokenizer tok --out l") == 2
    assert "remove it, and the clip is encoded again" in capsys.readouterr().err
