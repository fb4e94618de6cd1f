"""Evaluating a tokenizer: every figure against its definition, windows, protocols, the page, and wrong input."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.footage import CARPHONE
from support.tiny_tokenizer import CONTINUOUS, DISCRETE
from torch import Tensor, nn

from cosmos_data.readers.given_clips import find_clips, read_pixels
from cosmos_launch.cli.main import main
from cosmos_tok.metrics import clip_psnr, mean_square_error, ssim
from cosmos_tok.model import CausalVideoTokenizer, to_uint8, to_unit_range
from cosmos_tok.padding import pad
from cosmos_tok.store import load_tokenizer, save_tokenizer
from cosmos_train.config.load import load_protocol
from cosmos_train.evaluate.fvd import feature_frames, frechet_distance
from cosmos_train.evaluate.tokenizer import NUM_SHOWN


class MeanColours(nn.Module):
    """A feature network: mean and spread of each colour."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        return torch.cat([flat.mean(dim=2), flat.std(dim=2)], dim=1)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenizers of both kinds, a feature network, and three clips of 11 frames of footage as pictures."""
    folder = tmp_path_factory.mktemp("evaluate")
    for name, config in (("continuous", CONTINUOUS), ("discrete", DISCRETE)):
        torch.manual_seed(0)
        save_tokenizer(folder / name, CausalVideoTokenizer(config), config, {})
    torch.jit.script(MeanColours()).save(str(folder / "network.pt"))
    [source] = find_clips(CARPHONE, pictures_fps=24)
    frames = list(read_pixels(source.describe(), num_frames=33, height_px=30, width_px=36))
    for number, frame in enumerate(frames):
        place = folder / "clips" / "abc"[number // 11]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame[:, 0].permute(1, 2, 0).numpy()).save(place / f"{number:03d}.png")
    return folder


@pytest.fixture
def work(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for source in inputs.iterdir():
        (tmp_path / source.name).symlink_to(source)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluated(line: str) -> dict:
    """What `cosmos-train evaluate tokenizer LINE` writes."""
    assert main(["evaluate", "tokenizer", *line.split(), "--out", "out"]) == 0
    return json.loads(Path("out/evaluation.json").read_text())


def clips() -> list[Tensor]:
    """uint8 [1, 3, 11, 30, 36] each, read independently of the command."""
    return [
        torch.cat(list(read_pixels(source.describe(), num_frames=11, height_px=30, width_px=36)), dim=1)[None]
        for source in find_clips(Path("clips"), pictures_fps=24)
    ]


@torch.inference_mode()
def reconstructed(name: str, clip: Tensor, window_frames: int) -> Tensor:
    model, config = load_tokenizer(Path(name))
    windows = []
    for window in clip.split(window_frames, dim=2):
        padded, box = pad(to_unit_range(window), config, "official")
        windows.append(to_uint8(box.crop(model.decode(model.encode(padded)))))
    return torch.cat(windows, dim=2)


@pytest.mark.parametrize("window_frames", [11, 6, 5], ids=["whole", "a shorter rest", "a rest of one"])
def test_the_figures_are_those_of_the_definition(window_frames: int, work: Path) -> None:
    given = "ssim_window=uniform padding=official"
    window = "" if window_frames == 11 else f"window_frames={window_frames}"
    found = evaluated(f"continuous clips {given} {window} --fvd-network network.pt")
    originals = clips()
    restored = [reconstructed("continuous", clip, window_frames) for clip in originals]
    for row, a, b in zip(found["clips"], originals, restored, strict=True):
        assert row["psnr_db"] == pytest.approx(clip_psnr(mean_square_error(a, b).mean().item()), abs=0.02)
        assert row["ssim"] == pytest.approx(ssim(a, b, "uniform").mean, abs=2e-3)
        assert (row["num_frames"], row["height_px"], row["width_px"]) == (11, 30, 36)
    for name in ("psnr_db", "ssim"):
        assert found["overall"][name] == pytest.approx(sum(row[name] for row in found["clips"]) / 3)
    network = MeanColours()
    features = [
        torch.cat([network(feature_frames(clip[0])[None]) for clip in videos]) for videos in (originals, restored)
    ]
    assert found["overall"]["rfvd"] == pytest.approx(frechet_distance(*features), rel=0.02)
    assert found["fvd_network"]["file"] == "network.pt" and "by network.pt" in Path("out/report.html").read_text()


def test_rates_are_counted(work: Path) -> None:
    found = evaluated("continuous clips")
    # 11 frames of 30 x 36 are padded to 13 of 32 x 40: 4 latent frames of 4 x 5, each of 4 values of 16 bits.
    pixels, latents = 11 * 30 * 36, 4 * 4 * 5
    assert found["overall"]["pixels_per_latent"] == pytest.approx(pixels / latents)
    assert found["overall"]["compression"] == pytest.approx(pixels * 24 / (latents * 4 * 16))
    assert "rfvd" not in found["overall"] and "code_usage" not in found["overall"]
    discrete = evaluated("discrete clips max_clips=2")
    assert discrete["overall"]["compression"] == pytest.approx(pixels * 24 / (latents * math.log2(12)))
    assert [row["name"] for row in discrete["clips"]] == ["a", "b"]


def test_codes_are_counted_by_clip_and_over_all(work: Path) -> None:
    found = evaluated("discrete clips padding=edge")
    model, config = load_tokenizer(Path("discrete"))
    seen: list[set[int]] = []
    for clip in clips():
        with torch.inference_mode():
            indices = model.indices(model.encode(pad(to_unit_range(clip), config, "edge")[0]))
        seen.append(set(indices.flatten().tolist()))
    assert [row["code_usage"] for row in found["clips"]] == pytest.approx([len(codes) / 12 for codes in seen])
    assert found["overall"]["code_usage"] == pytest.approx(len(set.union(*seen)) / 12)
    assert 1 <= found["overall"]["code_perplexity"] <= 12


def test_a_protocol_says_which_frames_are_taken(work: Path) -> None:
    found = evaluated("continuous clips first_frames=5 short_side_px=16 max_clips=1")
    assert [(row["num_frames"], row["height_px"], row["width_px"]) for row in found["clips"]] == [(5, 16, 19)]
    assert found["protocol"]["first_frames"] == 5
    tokenbench = load_protocol("evaluate/tokenbench")
    assert (tokenbench.num_frames(1000, 24.0), tokenbench.num_frames(1000, 59.94), tokenbench.num_frames(90, 24.0)) == (
        300,
        600,
        90,
    )
    assert load_protocol("evaluate/davis").num_frames(104, 24.0) == 104


def test_the_page_shows_worst_and_best(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluated("discrete clips --protocol evaluate/davis window_frames=9")
    page = Path("out/report.html").read_text()
    order = [row["name"] for row in sorted(found["clips"], key=lambda row: row["psnr_db"])]
    places = [page.index(f"<h2>{name}</h2>") for name in order]
    assert places == sorted(places) and len(order) <= 2 * NUM_SHOWN
    for words in (
        "Evaluation of a DV4x8x8 tokenizer",
        "not measured",
        "reconstruction",
        "difference x 8",
        "codes used",
    ):
        assert words in page
    assert page.count("data:image/webp") == 3 * len(order)
    assert "rFVD not measured (no --fvd-network)" in capsys.readouterr().out


WRONG = {
    "unknown key": ("continuous clips windows=5", "unknown key windows; the nearest: window_frames"),
    "wrong type": ("continuous clips window_frames=few", "window_frames=few is not "),
    "no frames": ("continuous clips window_frames=0", "window_frames=0 must be at least 1"),
    "seconds alone": ("continuous clips first_sec=5", "first_sec=5.0 without first_frames: it is what is taken where"),
    "unknown protocol": ("continuous clips --protocol evaluate/davos", "the nearest: evaluate/davis"),
    "no network": ("continuous clips --fvd-network none.pt", "none.pt is no file; name a TorchScript network"),
    "one clip": ("continuous clips/a --fvd-network network.pt", "clips/a holds one clip, and rFVD compares sets"),
    "no tokenizer": ("clips clips", "clips/config.json cannot be read"),
    "no videos": ("continuous discrete", "discrete holds no video"),
}


@pytest.mark.parametrize(("line", "said"), WRONG.values(), ids=WRONG)
def test_wrong_input(line: str, said: str, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "tokenizer", *line.split(), "--out", "out"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("cosmos-train: ") and said in err and err.count("\n") == 1
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (math.nan, r"broken/model.safetensors: \d+ of \d+ numbers of \S+ are not finite"),
        (1e30, r"a, encoded and decoded: [\d,]+ of [\d,]+ decoded values are not finite"),
    ],
    ids=["NaN in the weights", "weights that are too large"],
)
def test_numbers_that_are_not_finite_are_no_result(
    factor: float, said: str, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """NaN would become black pixels, and those have a PSNR."""
    model, config = load_tokenizer(work / "continuous")
    _scale(model, factor)
    save_tokenizer(tmp_path / "broken", model, config, {})
    line = ["evaluate", "tokenizer", str(tmp_path / "broken"), "clips/a", "--out", str(tmp_path / "out")]
    assert main(line) == 1
    assert re.search(said, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@torch.no_grad()
def _scale(model: CausalVideoTokenizer, factor: float) -> None:
    for param in model.decoder.parameters():
        param.mul_(factor)
