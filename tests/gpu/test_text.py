"""A text encoder on CUDA: bf16, texts in batches. `make test-gpu`; left out without CUDA."""

from pathlib import Path

import pytest
import torch
from support.tiny_t5 import write_t5

from cosmos_data.caches.text_cache import TextCache
from cosmos_train.text.cache import CachedTextEncoder
from cosmos_train.text.config import TextConfig
from cosmos_train.text.encoder import FolderTextEncoder

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


def test_states_are_those_of_a_cpu_within_bf16(tmp_path: Path):
    (tmp_path / "t5").mkdir()
    folder = write_t5(tmp_path / "t5")
    prompts = [" ".join(["rain", "a red ball"] * number) for number in range(1, 40)]
    wanted = FolderTextEncoder(folder, 64).encode(prompts)
    precision = TextConfig().precision_on("cuda")
    assert precision == "bf16"
    for num_computed in (len(prompts), 0):
        encoder = CachedTextEncoder(folder, 64, TextCache(tmp_path / "cache"), "cuda", precision)
        found = encoder.encode(prompts)
        encoder.flush()
        assert encoder.num_computed == num_computed and torch.equal(found.length_B, wanted.length_B)
        torch.testing.assert_close(found.states_BSE, wanted.states_BSE, rtol=0.1, atol=0.1)
