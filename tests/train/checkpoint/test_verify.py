"""A checkpoint is compared with its digests before it is read; what all ranks do together is in test_checkpoint.py."""

import re
from pathlib import Path

import pytest
from support.checkpoints import flip, write_common

from cosmos_train.train.checkpoint import folder as folders
from cosmos_train.train.checkpoint.verify import SHOWN, require_whole


def test_one_process_names_the_first_files_that_differ_and_counts_the_others(tmp_path: Path):
    partial = tmp_path / "step-00000004.partial"
    partial.mkdir()
    files = [f"weights_{number:05d}.distcp" for number in range(SHOWN + 2)]
    for name in files:
        (partial / name).write_text(f"what is in {name}")
    (partial / "run.yaml").write_text("recipe: world_dit\n")
    write_common(partial / "common.pt", {"adam_step": 4})
    folder = partial.with_suffix("")
    folders.seal(partial, folder, folders.Progress(step=4, samples_consumed=4, seed=0, data_digest="", layout=""), {})
    require_whole(folder, None, contents=True)
    for name in files:
        flip(folder / name)
    require_whole(folder, None, contents=False)  # the sizes are right
    with pytest.raises(folders.CheckpointError, match=re.escape("and 2 more")) as error:
        require_whole(folder, None, contents=True)
    assert all(f"{name} differs from its digest" in str(error.value) for name in files[:SHOWN])
