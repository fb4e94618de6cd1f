"""What CUDA does that a CPU does not, without TransformerEngine: a whole run, its resume, its figures, decoding and the
tokenizer. `make test-gpu`; left out without CUDA."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support import tiny_tokenizer, tiny_world, training
from support.footage import carphone_clips
from support.gpu_dit import NATIVE

from cosmos_data.config import DataConfig
from cosmos_data.decoders.decode import PyAVDecoder, choose_decoder
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.manifests.pack import PackRequest, pack_manifest
from cosmos_data.sample_plan.plan import Part, SamplePlan
from cosmos_tok.model import CausalVideoTokenizer
from cosmos_train.parallel import init
from cosmos_train.train.loop import DONE, STOPPED

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


@pytest.fixture(autouse=True)
def groups() -> Iterator[None]:
    """Each of the runs builds its own; the last one's are gone afterwards."""
    yield
    init.stop()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path, precision: str):
    """NCCL, gradients summed on the way, torch's fused Adam or apex', events for phases, the GPU's memory."""
    cache = tiny_world.write_cache(tmp_path / "cache")
    settings = {"num_steps": 6, "precision": precision}
    assert training.run_loop(cache, tmp_path / "whole", NATIVE, settings) == DONE
    for stop in (3, None):
        code = training.run_loop(cache, tmp_path / "parts", NATIVE, settings | {"stop_at_step": stop})
        assert code == (DONE if stop is None else STOPPED)
    whole, parts = training.losses(tmp_path / "whole"), training.losses(tmp_path / "parts")
    assert parts == pytest.approx(whole, rel=1e-5 if precision == "fp32" else 1e-3)  # kernels add in any order
    last = training.records(tmp_path / "whole")[-1]
    assert last["peak_gpu_memory_gib"] > 0 and math.isfinite(last["grad_norm"])


def test_a_tokenizer_trains_and_its_pixels_are_those_of_a_cpu(tmp_path: Path):
    assert tiny_tokenizer.run_loop(carphone_clips(tmp_path), tmp_path / "run", {}) == DONE
    assert all(math.isfinite(loss) for loss in training.losses(tmp_path / "run").values())
    tokenizer = CausalVideoTokenizer(tiny_tokenizer.CONTINUOUS).eval()
    video = torch.rand(1, 3, 9, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected = tokenizer.encode(video)
        found = tokenizer.cuda().encode(video.cuda()).cpu()
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)  # TF32 has ten bits


def test_decoding_on_the_gpu_gives_the_frames_that_pyav_gives(tmp_path: Path):
    pytest.importorskip("nvidia.dali")
    clips = Manifest.read(carphone_clips(tmp_path))
    packed = pack_manifest(clips, tmp_path / "packed", PackRequest(height_px=64, width_px=96, codec="h264"))
    config = DataConfig(manifest="m.parquet", num_frames=5, height_px=48, width_px=64, decoder="auto")
    samples = [SamplePlan([Part(packed)], 0, config).sample(index) for index in range(4)]
    found = choose_decoder(config, [packed], torch.device("cuda")).decode(samples).cpu().float()
    expected = PyAVDecoder(2).decode(samples).float()
    error = (found - expected).abs()
    assert error.mean() < 3 and found.shape == expected.shape, "another frame errs by far more than another chroma"
