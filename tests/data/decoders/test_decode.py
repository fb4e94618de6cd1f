import logging
from dataclasses import replace

import pytest
import torch

from cosmos_data.config import DataConfig
from cosmos_data.decoders import decode
from cosmos_data.decoders.decode import PyAVDecoder, choose_decoder
from cosmos_data.decoders.transform import cut_and_scale
from cosmos_data.errors import ClipError, DataError
from cosmos_data.sample_plan.plan import Part, SamplePlan
from cosmos_data.videos.video import RgbConverter, read_frames


def config_of(**changes) -> DataConfig:
    return DataConfig(**({"manifest": "m.parquet", "num_frames": 5, "height_px": 48, "width_px": 64} | changes))


def test_pixels_are_the_frames_of_the_window(manifest):
    config = config_of(frame_stride=2)
    plan = SamplePlan([Part(manifest)], 0, config)
    samples = [plan.sample(i) for i in range(4)]
    pixels_B3THW = PyAVDecoder(num_threads=2).decode(samples)
    assert pixels_B3THW.shape == (4, 3, 5, 48, 64)
    assert pixels_B3THW.dtype == torch.uint8
    for sample, window in zip(samples, pixels_B3THW, strict=True):
        # From the start of the file: independent of seeking.
        frames = list(read_frames(sample.clip, start_frame=0, num_frames=sample.start_frame + 9))[sample.start_frame :]
        frames_THWC = torch.stack([torch.from_numpy(RgbConverter()(frame)) for frame in frames[::2]])
        assert torch.equal(window, cut_and_scale(frames_THWC, sample.box, 48, 64, flip=sample.flip))


def test_the_number_of_threads_changes_nothing(manifest):
    plan = SamplePlan([Part(manifest)], 0, config_of())
    samples = [plan.sample(i) for i in range(5)]
    assert torch.equal(PyAVDecoder(num_threads=1).decode(samples), PyAVDecoder(num_threads=4).decode(samples))


def test_the_bad_sample_is_named(manifest, tmp_path):
    plan = SamplePlan([Part(manifest)], 0, config_of())
    samples = [plan.sample(i) for i in range(4)]
    for position in (2, 3):
        absent = replace(samples[position].clip, path=str(tmp_path / f"absent{position}.mp4"))
        samples[position] = replace(samples[position], clip=absent)
    with pytest.raises(ClipError, match="absent2") as caught:
        PyAVDecoder(num_threads=4).decode(samples)
    assert caught.value.position == 2


def test_another_size_than_the_manifest_says(manifest):
    sample = SamplePlan([Part(manifest)], 0, config_of()).sample(0)
    with pytest.raises(ClipError, match="the manifest says 640x300"):
        PyAVDecoder(1).decode([replace(sample, clip=replace(sample.clip, height_px=300, width_px=640))])


def test_h264_on_the_cpu_goes_to_pyav_and_the_log_says_why(manifest, caplog):
    caplog.set_level(logging.INFO, logger="cosmos_data")
    assert isinstance(choose_decoder(config_of(), [manifest]), PyAVDecoder)
    assert "PyAV with 4 threads for 12 of 12 clips" in caplog.text
    assert "no decoder for h264" in caplog.text or "not installed" in caplog.text
    with pytest.raises(DataError, match=r"data\.decoder=dali cannot be had"):
        choose_decoder(config_of(decoder="dali"), [manifest])


def test_without_dali(mjpeg, monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="cosmos_data")
    monkeypatch.setattr(decode, "find_spec", lambda name: None)
    assert isinstance(choose_decoder(config_of(), [mjpeg]), PyAVDecoder)
    assert "DALI is not installed" in caplog.text
