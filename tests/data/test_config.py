import pytest
from omegaconf import OmegaConf
from omegaconf.errors import ValidationError

from cosmos_data.config import DataConfig


def test_yaml_becomes_a_config():
    schema = OmegaConf.structured(DataConfig)
    merged = OmegaConf.merge(schema, {"manifest": "m.parquet", "num_frames": 9, "height_px": 64, "width_px": 96})
    config = OmegaConf.to_object(merged)
    assert config == DataConfig(manifest="m.parquet", num_frames=9, height_px=64, width_px=96)


def test_unknown_resize_in_yaml():
    with pytest.raises(ValidationError, match="stretch"):
        OmegaConf.merge(OmegaConf.structured(DataConfig), {"resize": "stretch"})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_frames", 0),
        ("height_px", -1),
        ("width_px", 0),
        ("frame_stride", 0),
        ("prefetch_batches", 0),
        ("num_workers", 0),
        ("max_bad_share", 1.5),
        ("resize", "stretch"),
        ("decoder", "magic"),
        ("manifest", ""),
    ],
)
def test_bad_value_is_named(key, value):
    good = {"manifest": "m.parquet", "num_frames": 9, "height_px": 64, "width_px": 96}
    with pytest.raises(ValueError, match=rf"data\.{key}={value!r}.*; (use|give)"):
        DataConfig(**(good | {key: value}))
