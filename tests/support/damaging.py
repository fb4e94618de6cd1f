"""Damage to a checkpoint, drawn by hypothesis: of any of its files, of any kind that disks and people make."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from cosmos_train.train.checkpoint.folder import MARKER

OTHER_VALUES = (None, True, 0, -1, 10**30, 1.5, "", "13", [], {}, [1], {"step": 4})
WAYS = ("flip", "cut", "remove", "other's", "link", "folder", "field", "rename", "swap folders")


@dataclass(frozen=True)
class Damage:
    """What was done to a checkpoint."""

    path: Path
    """The file; of `swap folders` any."""
    before: bytes
    way: str

    def is_none(self) -> bool:
        """Whether all is said as before: of complete.json, which is in no digest, a tab in the place of a blank is."""
        now, before = self.path.read_bytes() if self.path.is_file() else b"", self.before
        if self.path.name == MARKER:
            now, before = (b"".join(each.split()) for each in (now, before))
        return now == before and self.way != "swap folders"


def draw_damage(data: st.DataObject, folder: Path, other: Path) -> Damage:
    """Damage the checkpoint `folder`, beside which is another one of the same run."""
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    content, way = path.read_bytes(), data.draw(st.sampled_from(WAYS))
    if way == "flip":
        at = data.draw(st.integers(0, len(content) - 1))
        changed = bytearray(content)
        changed[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(changed)
    elif way == "cut":
        path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    elif way == "other's":
        path.write_bytes((other / path.name).read_bytes())
    elif way == "rename":
        path.rename(path.with_name("another"))
    elif way == "swap folders":
        shutil.rmtree(folder)
        other.rename(folder)
    elif way == "field" and path.suffix == ".json":
        values = json.loads(content)
        name = data.draw(st.sampled_from(sorted(values)))
        value = data.draw(st.sampled_from(OTHER_VALUES))
        path.write_text(json.dumps(values | {name: value} if data.draw(st.booleans()) else value))
    else:
        path.unlink()
        if way == "link":
            path.symlink_to(data.draw(st.sampled_from([path, path.parent / "absent", other / path.name])))
        elif way == "folder":
            path.mkdir()
    return Damage(path, content, way)
