"""Copies to a GPU and back beside the step, and a tokenizer on a stream of its own. `make test-gpu`; left out without
CUDA."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from support.tiny_tokenizer import CONTINUOUS, DISCRETE

from cosmos_tok.config import TokenizerConfig
from cosmos_tok.model import CausalVideoTokenizer, to_unit_range
from cosmos_train.parallel.device_copy import DeviceCopier
from cosmos_train.windows.ahead import Ahead, as_it_is
from cosmos_train.windows.encoder import WindowEncoder

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]
MIB = 2**20
BUSY_CYCLES = 20_000_000
"""About 10 ms of a GPU: far longer than a copy of a MiB."""


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture
def copier(device: torch.device) -> DeviceCopier:
    return DeviceCopier(device)


def test_values_survive_a_thousand_uses_of_the_same_memory(copier: DeviceCopier, device: torch.device):
    """Sent by one thread and used by another, whose stream is kept busy: blocks on both sides are let go while copies
    and steps that need them are still to come."""
    sent = (copier.send([torch.full((MIB,), number % 251, dtype=torch.uint8)]) for number in range(1000))
    lows_highs = []
    for number, on_its_way in enumerate(Ahead(sent, as_it_is, 4)):
        if number % 50 == 0:
            torch.cuda._sleep(BUSY_CYCLES)
        (pixels,) = on_its_way.wait()
        lows_highs.append(torch.stack([pixels.min(), pixels.max()]))
    (found,) = copier.fetch([torch.stack(lows_highs)])
    assert found.device.type == "cpu" and found.is_pinned()
    assert found.tolist() == [[number % 251] * 2 for number in range(1000)]


def test_the_step_waits_for_a_copy_and_the_host_does_not(copier: DeviceCopier):
    """The copying stream is busy: whoever did not wait would read what lay there before."""
    assert copier._copies is not None
    is_there = True
    for value in (0, 7):  # once before: to load kernels and to allocate waits for all streams
        torch.cuda.synchronize()
        with torch.cuda.stream(copier._copies):
            torch.cuda._sleep(100 * BUSY_CYCLES)
        sent = copier.send([torch.full((MIB,), value, dtype=torch.uint8)])
        (found,) = sent.wait()
        total = found.long().sum()
        is_there = sent.arrival is None or sent.arrival.query()
        assert total.item() == value * MIB
    assert not is_there, "it was still on its way"


def test_a_step_may_write_to_its_input(copier: DeviceCopier):
    """What is let go goes back to the copying stream only after the step: later copies get other memory, and the step's
    own values stay."""
    sums = []
    for number in range(100):
        (x,) = copier.send([torch.full((MIB,), float(number))]).wait()
        if number % 10 == 0:
            torch.cuda._sleep(BUSY_CYCLES)
        x += 1
        sums.append(x.double().mean())
        del x  # while the stream has not come to it
    assert torch.stack(sums).tolist() == [number + 1.0 for number in range(100)]


def test_what_is_on_the_device_is_handed_on(copier: DeviceCopier, device: torch.device):
    there = torch.arange(5, device=device)
    pinned = torch.arange(5).pin_memory()
    found = copier.send([there, pinned, torch.arange(6).view(2, 3).T]).wait()
    assert found[0] is there
    assert [tensor.tolist() for tensor in found[1:]] == [[0, 1, 2, 3, 4], [[0, 3], [1, 4], [2, 5]]]


def test_work_beside_the_step_does_not_wait_for_it(copier: DeviceCopier, device: torch.device):
    is_over = True
    for _ in range(2):  # once before: to load kernels and to allocate waits for all streams
        torch.cuda.synchronize()
        torch.cuda._sleep(100 * BUSY_CYCLES)
        step = torch.cuda.Event()
        step.record()
        with copier.stream():
            (found,) = copier.fetch([torch.ones(3, device=device) * 2])
        is_over = step.query()
        assert found.tolist() == [2.0] * 3
    assert not is_over, "the default stream had a second to go"


@pytest.mark.parametrize("config", [CONTINUOUS, DISCRETE], ids=["latents", "codes"])
def test_the_encoders_stream_gives_what_the_default_stream_gives(config: TokenizerConfig, device: torch.device):
    """Also while steps keep that busy; and one window gives the same bits each time, from whichever thread."""
    torch.manual_seed(0)
    tokenizer, as_codes = CausalVideoTokenizer(config).eval(), config.kind == "discrete"
    tokenizer.init_weights()
    pixels_B3THW = torch.randint(256, (4, 3, 9, 32, 48), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    encoder = WindowEncoder(tokenizer, device, as_codes=as_codes)
    torch.cuda._sleep(BUSY_CYCLES)
    with ThreadPoolExecutor(4) as threads:
        alone = list(threads.map(encoder.encode_one, pixels_B3THW))
    torch.cuda._sleep(BUSY_CYCLES)
    with encoder:
        together = encoder.encode(encoder.send(pixels_B3THW))

    def on_the_default_stream(window_13THW: torch.Tensor) -> torch.Tensor:
        z_BCTHW = tokenizer.encode(to_unit_range(window_13THW.to(device))).float()
        return (tokenizer.indices(z_BCTHW)[:, None].int() if as_codes else z_BCTHW).cpu()

    with torch.no_grad():
        expected = [on_the_default_stream(window_3THW[None])[0] for window_3THW in pixels_B3THW]
    assert all(torch.equal(found, wanted) for found, wanted in zip(alone, expected, strict=True))
    if not as_codes:  # a batch's kernels may round otherwise, and a code hang on that
        torch.testing.assert_close(together, torch.stack(alone), rtol=1e-2, atol=1e-3)
    assert together.dtype == encoder.dtype and together.device.type == "cpu"
