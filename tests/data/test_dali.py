"""DALI against PyAV. On the CPU both compute the same pixels, bit for bit: that is the bound."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")

from cosmos_data.clip import clip_digest
from cosmos_data.config import DataConfig
from cosmos_data.dali import DaliDecoder
from cosmos_data.decode import PyAVDecoder, choose_decoder
from cosmos_data.errors import ClipError
from cosmos_data.location import file_sha256
from cosmos_data.pack import PackRequest, pack_manifest
from cosmos_data.plan import Part, SamplePlan

CPU = torch.device("cpu")


def config_of(**changes) -> DataConfig:
    return DataConfig(**({"manifest": "m.parquet", "num_frames": 5, "height_px": 48, "width_px": 64} | changes))


@pytest.mark.parametrize("codec", ["mjpeg", "vp9"])
@pytest.mark.parametrize("stride", [1, 3])
def test_pixels_equal_those_of_pyav(codec, stride, request):
    clips = request.getfixturevalue(codec)
    plan = SamplePlan([Part(clips)], 0, config_of(frame_stride=stride))
    samples = [plan.sample(i) for i in range(6)]
    assert torch.equal(DaliDecoder(CPU, 2).decode(samples), PyAVDecoder(2).decode(samples))


def test_batches_of_any_size_one_after_the_other(mjpeg, caplog):
    plan = SamplePlan([Part(mjpeg)], 0, config_of())
    samples = [plan.sample(i) for i in range(5)]
    expected = PyAVDecoder(2).decode(samples)
    decoder = DaliDecoder(CPU, 2)
    for first, last in ((0, 1), (0, 3), (3, 5), (2, 3), (0, 5)):
        assert torch.equal(decoder.decode(samples[first:last]), expected[first:last])
    assert caplog.text == ""  # no batch had to be decoded one by one


def test_auto_takes_dali_and_says_so(mjpeg, caplog):
    caplog.set_level(logging.INFO, logger="cosmos_data")
    assert isinstance(choose_decoder(config_of(), mjpeg), DaliDecoder)
    assert "decoder: DALI on cpu" in caplog.text
    assert isinstance(choose_decoder(config_of(decoder="pyav"), mjpeg), PyAVDecoder)
    assert "because data.decoder=pyav" in caplog.text


@pytest.fixture
def damaged(mjpeg, tmp_path):
    """Samples 0 and 1, the second one's file with its middle overwritten."""
    plan = SamplePlan([Part(mjpeg)], 0, config_of())
    samples = [plan.sample(0), plan.sample(1)]
    content = Path(samples[1].clip.path).read_bytes()
    middle = len(content) // 2
    path = tmp_path / "damaged.avi"
    path.write_bytes(content[:middle] + bytes(3000) + content[middle + 3000 :])
    samples[1] = replace(samples[1], clip=replace(samples[1].clip, path=str(path)))
    return samples


def test_changed_bytes_are_never_decoded(damaged):
    """DALI itself decodes this file to rubbish without a word."""
    decoder = DaliDecoder(CPU, 2)
    with pytest.raises(ClipError, match=r"damaged\.avi has changed since the manifest was built") as caught:
        decoder.decode(damaged)
    assert caught.value.position == 1
    with pytest.raises(ClipError, match="cannot be read"):
        decoder.decode([replace(damaged[0], clip=replace(damaged[0].clip, path="/absent.avi"))])


@pytest.mark.parametrize(
    ("content", "message"), [(b"this is no video", "no.avi: .*video decoder"), (None, "ends before the window does")]
)
def test_the_sample_that_dali_cannot_decode_is_named(mjpeg, tmp_path, content, message):
    """Files that the manifest really lists, as far as their digest goes."""
    plan = SamplePlan([Part(mjpeg)], 0, config_of())
    good, bad = plan.sample(0), plan.sample(1)
    path = tmp_path / "no.avi"
    path.write_bytes(content if content is not None else Path(bad.clip.path).read_bytes())
    digest = clip_digest(file_sha256(path), start_frame=0, num_frames=30)
    bad = replace(bad, clip=replace(bad.clip, path=str(path), digest=digest), start_frame=27)
    decoder = DaliDecoder(CPU, 2)
    with pytest.raises(ClipError, match=message) as caught:
        decoder.decode([good, bad])
    assert caught.value.position == 1
    assert torch.equal(decoder.decode([good]), PyAVDecoder(1).decode([good]))  # it goes on working


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nvdec_shows_the_frames_of_pyav(manifest, tmp_path):
    """H.264 through the GPU's video engine. Its RGB conversion is another one: the bound is 30 dB, and no frame may
    look more like a neighbour than like itself."""
    packed = pack_manifest(manifest, tmp_path / "h264", PackRequest(codec="h264", height_px=144, width_px=176))
    config = config_of(num_frames=9, height_px=128, width_px=160)
    plan = SamplePlan([Part(packed)], 0, config)
    samples = [plan.sample(i) for i in range(4)]
    decoder = choose_decoder(config, packed, "cuda:0")
    assert isinstance(decoder, DaliDecoder)
    pixels_B3THW = decoder.decode(samples)
    assert pixels_B3THW.device.type == "cuda"
    found, expected = pixels_B3THW.cpu().float(), PyAVDecoder(2).decode(samples).float()
    # error_BTT[b, i, j]: frame i of DALI against frame j of PyAV
    error_BTT = (found.unsqueeze(3) - expected.unsqueeze(2)).square().mean(dim=(1, 4, 5))
    assert torch.equal(error_BTT.argmin(dim=2), torch.arange(9).expand(4, 9))
    assert 10 * torch.log10(255**2 / error_BTT.diagonal(dim1=1, dim2=2)).min() > 30
