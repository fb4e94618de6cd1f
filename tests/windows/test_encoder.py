"""The same bits for any number of threads; latents or codes, each window as it is encoded alone."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from support.tiny_tokenizer import CONTINUOUS, DISCRETE

from cosmos_tok.config import NotFiniteError, TokenizerConfig
from cosmos_tok.model import CausalVideoTokenizer, to_unit_range
from cosmos_train.windows.encoder import WindowEncoder

CPU = torch.device("cpu")


def tokenizer_of(config: TokenizerConfig) -> CausalVideoTokenizer:
    torch.manual_seed(0)
    tokenizer = CausalVideoTokenizer(config).eval()
    tokenizer.init_weights()
    return tokenizer


@pytest.fixture
def pixels_B3THW() -> torch.Tensor:
    return torch.randint(256, (4, 3, 9, 32, 48), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.mark.parametrize("config", [CONTINUOUS, DISCRETE], ids=["latents", "codes"])
def test_windows_are_encoded_alone_by_one_thread(config: TokenizerConfig, pixels_B3THW: torch.Tensor):
    tokenizer, as_codes, before = tokenizer_of(config), config.kind == "discrete", torch.get_num_threads()
    encode, seen = tokenizer.encode, []

    def watched(video_B3THW: torch.Tensor) -> torch.Tensor:
        seen.append((len(video_B3THW), torch.get_num_threads(), threading.current_thread() is threading.main_thread()))
        return encode(video_B3THW)

    tokenizer.encode = watched
    found = []
    try:
        for num_threads in (1, 3):
            torch.set_num_threads(num_threads)
            with WindowEncoder(tokenizer, CPU, as_codes=as_codes) as encoder:
                found.append(encoder.encode(encoder.send(pixels_B3THW)))
            assert torch.get_num_threads() == num_threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert seen == [(1, 1, False)] * 8
    with torch.inference_mode():
        expected = tokenizer.encode(to_unit_range(pixels_B3THW[2:3])).float()
        if as_codes:
            expected = tokenizer.indices(expected)[:, None].int()
    assert found[0].dtype == encoder.dtype
    torch.testing.assert_close(found[0][2:3], expected)


@pytest.mark.parametrize("config", [CONTINUOUS, DISCRETE], ids=["latents", "codes"])
def test_weights_that_overflow_make_no_latents(config: TokenizerConfig, pixels_B3THW: torch.Tensor):
    tokenizer = tokenizer_of(config)
    with torch.no_grad():
        for param in tokenizer.encoder.parameters():
            param.mul_(1e30)  # finite each, and not what comes of them
    with (
        WindowEncoder(tokenizer, CPU, as_codes=config.kind == "discrete") as encoder,
        pytest.raises(NotFiniteError, match="encodes a window to NaN or infinity"),
    ):
        encoder.encode(encoder.send(pixels_B3THW))


@pytest.mark.parametrize("config", [CONTINUOUS, DISCRETE], ids=["latents", "codes"])
def test_one_window_at_a_time_from_several_threads(config: TokenizerConfig, pixels_B3THW: torch.Tensor):
    """What a run trains on while it fills its cache: outside of a `with` block, and usable in an autograd graph."""
    tokenizer, as_codes = tokenizer_of(config), config.kind == "discrete"
    encoder = WindowEncoder(tokenizer, CPU, as_codes=as_codes)
    alone = [encoder.encode_one(window_3THW) for window_3THW in pixels_B3THW]
    encode, at_once, most_at_once = tokenizer.encode, [], []

    def watched(video_B3THW: torch.Tensor) -> torch.Tensor:
        at_once.append(len(video_B3THW))
        most_at_once.append(len(at_once))
        z_BCTHW = encode(video_B3THW)
        at_once.pop()
        return z_BCTHW

    tokenizer.encode = watched
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(encoder.encode_one, pixels_B3THW))
    assert most_at_once == [1] * 4
    assert all(torch.equal(one, other) for one, other in zip(found, alone, strict=True))
    with encoder:
        torch.testing.assert_close(torch.stack(found), encoder.encode(encoder.send(pixels_B3THW)))
    assert found[0].dtype == encoder.dtype
    assert as_codes or (found[0] * torch.ones(1, requires_grad=True)).sum().backward() is None
