"""`cosmos-train tokenize RUN.yaml`: a finished cache is compared with what is asked for; of a run that fills its own,
windows ahead of it. Such a run is sampled and judged without its cache."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch
from support import filled_run
from support.ranks import RankPool

from cosmos_data.caches.latents import LatentStore
from cosmos_data.config import DataConfig
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.sample_plan.plan import central_sample
from cosmos_data.sample_plan.window_conditions import WindowConditions, conditions_of
from cosmos_data.videos.video import probe_video
from cosmos_launch.cli.main import main
from cosmos_tok.whitening import load_statistics
from cosmos_train.config.load import load_run, to_yaml
from cosmos_train.config.schema import WorldDiTRun
from cosmos_train.encoding import filling_cache as encode_ahead
from cosmos_train.encoding import finished_cache as encode
from cosmos_train.text.encoder import FolderTextEncoder
from cosmos_train.train.signals import DONE, STOPPED
from cosmos_train.windows.kept import STATISTICS
from cosmos_train.windows.stream import stack_text


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled_run.write_inputs(tmp_path_factory.mktemp("inputs"))


def write_yaml(inputs: Path, folder: Path, **latents) -> str:
    """Of a run in folder/run with its cache in folder/cache."""
    path = folder / "run.yaml"
    path.write_text(to_yaml(filled_run.make_run(inputs, folder / "cache", folder / "run", **latents)))
    return str(path)


def test_a_run_finds_all_that_was_encoded_ahead(inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """The windows and their texts, in two goes; it is trained on the same bits as one that encodes as it goes."""
    (tmp_path / "ahead").mkdir()
    line = ["tokenize", write_yaml(inputs, tmp_path / "ahead"), "--samples"]
    assert main([*line, "5"]) == 0
    assert "5 windows encoded, 0 were there already; the run takes 12 samples" in capfd.readouterr().out
    assert main([*line, str(filled_run.NUM_WINDOWS)]) == 0
    assert "7 windows encoded, 5 were there already" in capfd.readouterr().out
    for name, num_encoded in (("ahead", 0), ("as_it_goes", filled_run.NUM_WINDOWS)):
        run = filled_run.make_run(inputs, tmp_path / name / "cache", tmp_path / name / "run")
        assert filled_run.train_here(run) == num_encoded
    trained = [filled_run.trained(tmp_path / name / "run") for name in ("ahead", "as_it_goes")]
    assert len(trained[0]) == 3 and trained[0] == trained[1]


def test_processes_share_what_is_encoded_ahead(inputs: Path, tmp_path: Path, ranks: Callable[[int], RankPool]):
    run = filled_run.make_run(inputs, tmp_path / "cache", tmp_path / "run")
    assert ranks(2).run(filled_run.encode_ahead, run, filled_run.NUM_WINDOWS, False) == [DONE, DONE]
    kept = filled_run.kept_windows(tmp_path / "cache")
    assert len(kept) == filled_run.NUM_WINDOWS and len(set(kept.values())) == 2, "a shard of each"
    assert filled_run.train_here(run) == 0


def test_what_is_encoded_stays_where_it_is_stopped(inputs: Path, tmp_path: Path):
    run = filled_run.make_run(inputs, tmp_path / "cache", tmp_path / "run")
    assert filled_run.encode_ahead(run, 5, True) == STOPPED
    assert 0 < len(filled_run.kept_windows(tmp_path / "cache")) < 5, "the first, and what was made ahead by then"
    assert filled_run.encode_ahead(run, 5, False) == DONE
    assert len(filled_run.kept_windows(tmp_path / "cache")) == 5


def test_an_epoch_by_default(inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert main(["tokenize", write_yaml(inputs, tmp_path)]) == 0
    assert "3 windows encoded" in capfd.readouterr().out, "of three training clips"


def test_a_run_that_filled_its_cache_is_sampled_and_judged_without_it(inputs: Path, tmp_path: Path):
    run = filled_run.make_run(inputs, tmp_path / "cache", tmp_path / "run")
    filled_run.train_here(replace(run, text=replace(run.text, cache=str(tmp_path / "texts"))))
    shutil.rmtree(tmp_path / "cache")
    kept = set((tmp_path / "texts").iterdir())
    out = tmp_path / "out"
    line = [str(tmp_path / "run"), "sample.num_steps=2", "--out"]
    assert main(["sample", *line, str(out), "--prompt", "rain"]) == 0
    assert len(kept) == 1 and len(set((tmp_path / "texts").iterdir()) - kept) == 1, "a prompt is kept, too"
    info = probe_video(out / "seed-0000.mp4")
    assert (info.num_frames, info.height_px, info.width_px) == (9, 32, 48)
    assert info.fps == pytest.approx(json.loads((out / "seed-0000.json").read_text())["fps"])
    assert main(["evaluate", "world", *line, str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [window["start_frame"] for window in figures["windows"]] == [90, 98, 106], "every 8 of the held-out clip"
    assert figures["latent_mse"]["model"] > 0


def test_what_can_not_be_filled_ahead(inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    filled = write_yaml(inputs, tmp_path)
    for more, said in (
        (["--samples", "0"], "--samples 0 must be at least 1"),
        (["--samples", "10", "latents.max_gib=1e-6"], "is less than the 1.07e-05 GiB of so many windows"),
        (["--samples", "1", "latents.fill=false"], "--samples is for a run with latents.fill=true"),
    ):
        assert main(["tokenize", filled, *more]) == 2
        assert said in capfd.readouterr().err


CAPTIONS: tuple[str, ...] = ("rain", "a ball", "red rain", "a red ball a red ball a red ball")


def write_captions(inputs: Path, folder: Path) -> str:
    """A manifest of the same clips, each with a caption of its own, as a setting."""
    clips = zip(Manifest.read(inputs / "footage.arrow"), CAPTIONS, strict=True)
    Manifest(replace(clip, caption=caption) for clip, caption in clips).write(folder / "clips.arrow")
    return f"data.manifest={folder}/clips.arrow"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Texts that the text encoder computes, as they are handed to it."""
    asked: list[list[str]] = []
    encode_texts = FolderTextEncoder.encode
    monkeypatch.setattr(
        FolderTextEncoder, "encode", lambda self, texts: asked.append(list(texts)) or encode_texts(self, texts)
    )
    return asked


def test_captions_are_encoded_ahead_some_at_a_time(
    inputs: Path, tmp_path: Path, asked: list[list[str]], monkeypatch: pytest.MonkeyPatch
):
    """After the first, of which it is seen whether the text encoder fits the model."""
    monkeypatch.setattr(encode_ahead, "TEXTS_AT_ONCE", 2)
    line = ["tokenize", write_yaml(inputs, tmp_path), write_captions(inputs, tmp_path)]
    assert main(line) == 0
    [first], others = asked
    assert len(others) == 2 and sorted([first, *others]) == sorted(CAPTIONS[:3])
    assert main(line) == 0 and len(asked) == 2


def test_captions_of_a_finished_cache_are_encoded_together_and_once(
    inputs: Path,
    tmp_path: Path,
    asked: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    """Some captions at a time; where there is a text cache, another cache of latents finds them there."""
    line = ["tokenize", write_yaml(inputs, tmp_path, fill=False), write_captions(inputs, tmp_path)]
    line.append(f"text.cache={tmp_path}/texts")
    direct = FolderTextEncoder(inputs / "t5", 8).encode(CAPTIONS)
    asked.clear()
    monkeypatch.setattr(encode, "TEXTS_AT_ONCE", 2)
    for name in ("cache", "other"):
        assert main([*line, f"latents.folder={tmp_path / name}"]) == 0
        assert f"caption cut by 2 tokens to text.max_tokens=8: {CAPTIONS[3]}" in capfd.readouterr().out
        assert sorted(chain.from_iterable(asked)) == sorted(CAPTIONS), "nothing is encoded twice"
        assert max(map(len, asked)) == 2
        store = LatentStore(tmp_path / name)
        wanted = {caption: direct.states_BSE[n, : int(direct.length_B[n])] for n, caption in enumerate(CAPTIONS)}
        for k in (*store.indices("train"), *store.indices("heldout")):
            states_SE = wanted[store.describe(k).caption]
            assert torch.equal(store.window(k).text_SE[: len(states_SE)], states_SE)


def test_states_that_are_computed_in_bf16_are_kept_in_bf16(inputs: Path, tmp_path: Path):
    """Without loss, in half the room, and a run is trained on them."""
    settings = ["text.precision=bf16", write_captions(inputs, tmp_path)]
    assert main(["tokenize", write_yaml(inputs, tmp_path, fill=False), *settings]) == 0
    store = LatentStore(tmp_path / "cache")
    windows = [store.window(k) for k in store.indices("train")]
    direct_BSE = FolderTextEncoder(inputs / "t5", 8, precision="bf16").encode(CAPTIONS).states_BSE
    wanted = dict(zip(CAPTIONS, direct_BSE, strict=True))
    text_BSE = stack_text(windows, 8)
    assert text_BSE.dtype == torch.bfloat16
    assert torch.equal(text_BSE.float(), torch.stack([wanted[window.caption] for window in windows]))
    run = load_run(str(tmp_path / "run.yaml"), settings)
    assert isinstance(run, WorldDiTRun)
    filled_run.train_here(run)
    assert len(filled_run.trained(tmp_path / "run")) == 3


def test_a_finished_cache_is_of_what_was_asked_for(inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    line = ["tokenize", write_yaml(inputs, tmp_path, fill=False)]
    assert main(line) == 0 and "windows, " in capfd.readouterr().out
    assert main(line) == 0 and "is complete already" in capfd.readouterr().out
    (tmp_path / "bad.jsonl").write_text(json.dumps({"digest": "0" * 64}))
    for change, said in (
        (f"data.quarantine={tmp_path}/bad.jsonl", " quarantine="),
        ("data.height_px=48", "was made with height_px=32, and this run has 48; remove it and make it again"),
        ("data.width_px=32", "was made with width_px=48, and this run has 32"),
        ("data.frame_stride=2", "was made with frame_stride=1, and this run has 2"),
        ("latents.hop_frames=4", "was made with windows=hop_frames=8 target_fps=None resize=resize_crop, and this run"),
        ("latents.planned_per_clip=2", "planned_per_clip=2 seed=3 flip=True"),
    ):
        assert main([*line, change]) == 2
        assert said in capfd.readouterr().err


def test_clips_of_two_aspects_with_conditions(inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """Each clip in the bucket of its shape; shards say what training needs, without the manifest."""
    manifest = filled_run.write_two_aspects(tmp_path)
    settings = [f"data.manifest={manifest}", "data.num_frames=5", "data.resize=pad"]
    settings += ["data.height_px=256", "data.width_px=256", "data.buckets=256"]
    line = ["tokenize", write_yaml(inputs, tmp_path, fill=False, hop_frames=1, shard_mib=0.04), *settings]
    assert main(line) == 0 and "4 windows, 20 frames" in capfd.readouterr().out
    store = LatentStore(tmp_path / "cache")
    store.verify()
    wide, high = (4, 2, 24, 40), (4, 2, 32, 40)
    assert store.shapes == (wide, high)
    assert [store.indices("train", wide), store.indices("train", high)] == [range(1), range(1, 3)]
    assert store.indices("heldout", high) == range(3, 4)
    windows = [store.window(k) for k in range(4)]
    assert len(list((store.folder / "windows").iterdir())) == 4, "0.04 MiB hold one of the larger ones"
    assert [tuple(window.z_CTHW.shape) for window in windows] == [wide, high, high, high]
    rows = windows[0].padding_1HW[0].mean(dim=1).tolist()
    assert rows == [float(row < 4 or row > 20) for row in range(24)], "136 of its 192 rows of pixels, after 28"

    run = load_run(line[1], settings)
    assert isinstance(run, WorldDiTRun)
    sizes_px = {"bikes": (192, 320), "carphone_pristine": (256, 320)}
    for window in windows:
        [clip] = [clip for clip in Manifest.read(manifest) if clip.clip_id == window.clip_id]
        size_px = sizes_px[Path(clip.path).stem]
        assert window.conditions == conditions_of(central_sample(clip, run.data.of_size(*size_px)))
    assert windows[0].conditions.action is not None and windows[1].conditions == WindowConditions()
    for window in windows[2:]:
        camera = window.conditions.camera
        assert camera is not None and (camera.height_px, camera.width_px) == (256, 320)
        assert camera.intrinsics_px[2:] == pytest.approx((160, 128), abs=0.51), "the middle stays the middle"

    statistics = load_statistics(store.folder / STATISTICS)
    values_CTN = torch.cat([window.z_CTHW.flatten(2) for window in windows[:3]], dim=2).double()
    torch.testing.assert_close(statistics.mean_CT, values_CTN.mean(dim=2).float())
    torch.testing.assert_close(statistics.std_CT, values_CTN.std(dim=2, correction=0).float())

    images = tmp_path / "images"
    assert main([*line, "data.num_frames=1", "latents.hop_frames=5", f"latents.folder={images}"]) == 0
    assert LatentStore(images).shapes == ((4, 1, 24, 40), (4, 1, 32, 40)) and len(LatentStore(images)) == 4
    capfd.readouterr()

    assert main(line) == 0 and "is complete already" in capfd.readouterr().out
    assert main([*line, "data.buckets=one"]) == 2
    assert "was made with windows=hop_frames=1 target_fps=None resize=pad buckets=256, and" in capfd.readouterr().err
    assert main([*line, "data.blend={other.arrow: 2}", f"latents.folder={tmp_path / 'blended'}"]) == 2
    assert "a finished latent cache has each window once" in capfd.readouterr().err


def test_what_windows_are_a_function_of_is_said_of_a_cache():
    """Shards are named by that: a setting that is new here belongs to encode._windows_asked, or to reading."""
    in_metadata = {"manifest", "num_frames", "frame_stride", "height_px", "width_px"}
    in_windows_asked = {"target_fps", "resize", "flip", "quarantine", "buckets"}
    of_no_finished_cache = {"blend"}
    of_reading = {"decoder", "max_bad_share", "prefetch_batches", "memory_mib", "stall_sec", "num_workers"}
    known = in_metadata | in_windows_asked | of_no_finished_cache | of_reading
    assert {setting.name for setting in dataclasses.fields(DataConfig)} == known
