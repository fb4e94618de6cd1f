import pytest

from cosmos_data.errors import DataError
from cosmos_data.readers.poses import refuse_poses


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a/transforms.json", "a/v.mp4"], r"nerfstudio \(a/transforms.json\)"),
        (["sparse/0/cameras.bin", "sparse/0/images.bin"], "COLMAP"),
        (["text/cameras.txt", "text/images.txt"], "COLMAP"),
        (["annotation/val/1.json", "videos/val/1/rgb.mp4"], r"Bridge's layout \(annotation/val\)"),
        (["x/annotations/train/0.json"], "Bridge's layout"),
    ],
)
def test_layouts_with_poses_are_refused_by_name(names, words):
    with pytest.raises(DataError, match=words):
        refuse_poses("/data", names)


def test_other_files_are_not(tmp_path):
    refuse_poses("/data", ["cameras.txt", "images/a.mp4", "annotation/a.json", "train/0.json", "val/annotation.json"])
