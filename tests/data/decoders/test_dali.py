"""DALI against PyAV. On the CPU both compute the same pixels, bit for bit: that is the bound."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import ColorRange, Colorspace

pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")

from cosmos_data.config import DataConfig
from cosmos_data.decoders.dali import DaliDecoder
from cosmos_data.decoders.dali_limits import dali_obstacle
from cosmos_data.decoders.decode import DecoderPerClip, PyAVDecoder, choose_decoder
from cosmos_data.errors import ClipError, DataError
from cosmos_data.location import file_sha256
from cosmos_data.manifests.build import build_manifest
from cosmos_data.manifests.clip import Clip, clip_digest
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.manifests.pack import PackRequest, pack_manifest
from cosmos_data.sample_plan.plan import Part, Sample, SamplePlan, central_sample

CPU = torch.device("cpu")


def config_of(**changes) -> DataConfig:
    return DataConfig(**({"manifest": "m.parquet", "num_frames": 5, "height_px": 48, "width_px": 64} | changes))


def windows_of(clips: Sequence[Clip]) -> list[Sample]:
    return [central_sample(clip, config_of(), index=index) for index, clip in enumerate(clips)]


@pytest.mark.parametrize("codec", ["mjpeg", "vp9"])
@pytest.mark.parametrize("stride", [1, 3])
def test_pixels_equal_those_of_pyav(codec, stride, request):
    clips = request.getfixturevalue(codec)
    plan = SamplePlan([Part(clips)], 0, config_of(frame_stride=stride))
    samples = [plan.sample(i) for i in range(6)]
    assert torch.equal(DaliDecoder(CPU, 2).decode(samples), PyAVDecoder(2).decode(samples))


def colourful(path: Path, matrix: Colorspace, color_range: ColorRange) -> Manifest:
    """VP9 that says its matrix and range, of noise whose levels are all those there are."""
    random = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=25, options={"lossless": "1", "cpu-used": "8"})
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, color_range
        for number in range(6):
            levels = random.integers(0, 256, (96, 96), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(levels, format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            frame.colorspace, frame.color_range = matrix, color_range
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return build_manifest(path.parent, None, None, split_shots=False).manifest


@pytest.mark.parametrize("matrix", [Colorspace.ITU601, Colorspace.ITU709])
@pytest.mark.parametrize("color_range", [ColorRange.MPEG, ColorRange.JPEG])
def test_dali_obeys_the_range_and_not_the_matrix(tmp_path, matrix, color_range):
    """Which is why it is given one of them: should it learn the other, this test says so."""
    [clip] = colourful(tmp_path / "noise.webm", matrix, color_range)
    assert clip.color_range == ("full" if color_range == ColorRange.JPEG else "limited")
    samples = windows_of([clip])
    is_equal = torch.equal(DaliDecoder(CPU, 1).decode(samples), PyAVDecoder(1).decode(samples))
    assert is_equal == (dali_obstacle(clip, "cpu") is None) == (matrix == Colorspace.ITU601)


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
    assert isinstance(choose_decoder(config_of(), [mjpeg]), DecoderPerClip)
    assert caplog.messages == ["decoder: DALI on cpu with 4 threads for 12 of 12 clips"]
    assert isinstance(choose_decoder(config_of(decoder="pyav"), [mjpeg]), PyAVDecoder)
    assert "for 12 of 12 clips, because data.decoder=pyav" in caplog.text


@pytest.fixture(scope="module")
def mixed(mjpeg, vp9, manifest) -> list[Manifest]:
    """Two manifests: clips of three codecs, one of them said to lie on its side; none of it decoded yet."""
    lying = replace(mjpeg[5], clip_id="lying", rotation_deg=90)
    renamed = [replace(clip, clip_id=f"vp9 {clip.clip_id}") for clip in vp9]
    originals = [replace(clip, clip_id=f"h264 {clip.clip_id}") for clip in manifest]
    return [Manifest([*mjpeg.clips[:5], lying, *originals[:3]]), Manifest([*renamed, *originals[3:5]])]


class Noting:
    """A real decoder, and the samples that it was asked for."""

    def __init__(self, decoder: DaliDecoder) -> None:
        self._decoder, self.asked = decoder, list[Sample]()

    def decode(self, samples):
        self.asked += samples
        return self._decoder.decode(samples)


def test_each_clip_has_its_decoder_and_batches_keep_their_order(mixed):
    clips = [mixed[k % 2][k // 2] for k in range(2 * len(mixed[1]))]  # both manifests in turns
    samples = windows_of([clip for clip in clips if clip.clip_id != "lying"])
    noting = Noting(DaliDecoder(CPU, 2))
    decoder = DecoderPerClip(noting, PyAVDecoder(2), CPU)
    assert torch.equal(decoder.decode(samples), PyAVDecoder(2).decode(samples))
    assert noting.asked == [sample for sample in samples if sample.clip.codec != "h264"]
    assert 0 < len(noting.asked) < len(samples)
    noting.asked.clear()
    h264 = [sample for sample in samples if sample.clip.codec == "h264"]
    assert torch.equal(decoder.decode(h264), PyAVDecoder(2).decode(h264))
    assert noting.asked == []


def test_the_log_counts_the_clips_of_each_decoder(mixed, caplog):
    caplog.set_level(logging.INFO, logger="cosmos_data")
    choose_decoder(config_of(num_workers=3), mixed)
    assert caplog.messages == [
        "decoder: PyAV with 3 threads for 5 of 15 clips, because DALI on cpu has no decoder for h264",
        "decoder: PyAV with 3 threads for 1 of 15 clips, because DALI does not turn pictures upright",
        "decoder: DALI on cpu with 3 threads for 9 of 15 clips",
    ]
    with pytest.raises(DataError, match=r"has no decoder for h264 \(5 clips\), DALI does not turn"):
        choose_decoder(config_of(decoder="dali"), mixed)


def test_all_by_dali_is_all_or_an_error(mjpeg, manifest):
    """The clip of a view is in no column of the manifest: it is met when it is decoded."""
    decoder = choose_decoder(config_of(decoder="dali"), [mjpeg])
    samples = windows_of([mjpeg[0], mjpeg[1]])
    assert torch.equal(decoder.decode(samples), PyAVDecoder(1).decode(samples))
    with pytest.raises(DataError, match=r"clip .*: DALI on cpu has no decoder for h264; use auto or pyav"):
        decoder.decode(windows_of([mjpeg[0], manifest[0]]))


@pytest.mark.parametrize("order", [("absent", "good", "gone"), ("gone", "good", "absent")])
def test_the_first_bad_clip_is_named_whichever_decoder_has_it(mjpeg, manifest, tmp_path, order):
    clips = {
        "absent": replace(manifest[0], path=str(tmp_path / "absent.mp4")),
        "gone": replace(mjpeg[0], path=str(tmp_path / "gone.avi")),
        "good": mjpeg[1],
    }
    decoder = choose_decoder(config_of(), [Manifest([mjpeg[1], manifest[0]])])
    with pytest.raises(ClipError, match=order[0]) as caught:
        decoder.decode(windows_of([clips["good"], *(clips[name] for name in order)]))
    assert caught.value.position == 1


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
    ("content", "message"),
    [
        (b"RIFF....AVI , and then no video", "no.avi: .*video decoder"),
        (b"ffconcat version 1.0\nfile good.avi\n", "no.avi is a text, which DALI is not given"),
        (b"ffconcat version 1.0\nfile good.avi\n#\0", "no.avi is of a format that is not known here"),
        (None, "ends before the window does"),
    ],
)
def test_the_sample_that_dali_cannot_decode_is_named(mjpeg, tmp_path, monkeypatch, content, message):
    """Files that the manifest really lists, as far as their digest goes."""
    plan = SamplePlan([Part(mjpeg)], 0, config_of())
    good, bad = plan.sample(0), plan.sample(1)
    path = tmp_path / "no.avi"
    monkeypatch.chdir(tmp_path)  # there DALI looks for files that a script names
    (tmp_path / "good.avi").write_bytes(Path(good.clip.path).read_bytes())
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
    decoder = choose_decoder(config, [packed], "cuda:0")
    assert isinstance(decoder, DecoderPerClip)
    pixels_B3THW = decoder.decode(samples)
    assert pixels_B3THW.device.type == "cuda"
    found, expected = pixels_B3THW.cpu().float(), PyAVDecoder(2).decode(samples).float()
    # error_BTT[b, i, j]: frame i of DALI against frame j of PyAV
    error_BTT = (found.unsqueeze(3) - expected.unsqueeze(2)).square().mean(dim=(1, 4, 5))
    assert torch.equal(error_BTT.argmin(dim=2), torch.arange(9).expand(4, 9))
    assert 10 * torch.log10(255**2 / error_BTT.diagonal(dim1=1, dim2=2)).min() > 30
