"""The page of an evaluation: the family's name, clips worst first, codes where there are any."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.page import Page

from cosmos_launch.pages.tokenizer_page import write_page
from cosmos_train.evaluate.tokenizer import ShownClip, ShownFrame

PROTOCOL = {"window_frames": 17, "ssim_window": "gaussian"}


def page(tmp_path: Path, architecture: dict[str, Any], **codes: float) -> Page:
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    shown = ShownClip("worst.mp4", 20.0, 0.5, 8.0, [ShownFrame(pixels, pixels, pixels)])
    scores = {"ssim": 0.9, "compression": 96.0, "num_frames": 17, **codes}
    clips = [
        {"name": name, "psnr_db": psnr_db, **scores} for name, psnr_db in (("best.mp4", 40.0), ("worst.mp4", 20.0))
    ]
    overall = {"psnr_db": 30.0, "num_clips": 2, "pixels_per_latent": 512.0, **scores}
    result = {"architecture": architecture, "overall": overall, "clips": clips, "protocol": PROTOCOL}
    result |= {"tokenizer": "runs/tok", "tokenizer_digest": "d1e5", "videos": "footage"}
    write_page(tmp_path / "a.html", result, [shown])
    return Page((tmp_path / "a.html").read_text(encoding="utf-8"))


def test_a_continuous_one(tmp_path: Path):
    found = page(tmp_path, {"kind": "continuous", "media": "video", "temporal_rate": 4, "spatial_rate": 16})
    assert "Evaluation of a CV4x16x16 tokenizer" in found.text and "runs/tok" in found.text
    table = found.text[found.text.index("Clips") :]
    assert table.index("worst.mp4") < table.index("best.mp4"), "worst first"
    assert "in windows of 17 frames" in found.text and "codes used" not in found.text
    assert "not measured" in found.text, "rFVD"


@pytest.mark.parametrize(("media", "name"), [("image", "DI16x16"), ("video", "DV8x16x16")])
def test_a_discrete_one(tmp_path: Path, media: str, name: str):
    architecture = {"kind": "discrete", "media": media, "temporal_rate": 8, "spatial_rate": 16}
    found = page(tmp_path, architecture, code_usage=0.25, code_perplexity=12345.0)
    assert f"Evaluation of a {name} tokenizer" in found.text
    assert "25.00%" in found.text and "12,345" in found.text
