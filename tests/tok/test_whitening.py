"""Latent statistics: against numpy, the round trip, files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cosmos_tok.whitening import LatentStatistics, LatentStatisticsAccumulator, load_statistics, save_statistics


def batches() -> list[torch.Tensor]:
    """Latents whose spread depends on channel and frame, far from zero, some clips shorter than others."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.arange(1, 13, dtype=torch.float32).view(1, 4, 3, 1, 1)
    return [
        (torch.randn(b, 4, 3, 5, 6, generator=generator) * scale + 100 * scale)[:, :, :t]
        for b, t in ((2, 3), (3, 2), (1, 3), (4, 1))
    ]


def accumulated() -> LatentStatistics:
    accumulator = LatentStatisticsAccumulator(num_channels=4, num_latent_frames=3)
    for batch in batches():
        accumulator.update(batch)
    return accumulator.statistics({"tokenizer": "abc"})


def test_statistics_are_those_of_numpy() -> None:
    statistics = accumulated()
    for channel in range(4):
        for frame in range(3):
            chosen = [batch[:, channel, frame].numpy().ravel() for batch in batches() if batch.shape[2] > frame]
            values = np.concatenate(chosen).astype(np.float64)
            assert statistics.mean_CT[channel, frame].item() == pytest.approx(values.mean(), rel=1e-6)
            assert statistics.std_CT[channel, frame].item() == pytest.approx(values.std(), rel=1e-6)
    assert statistics.metadata == {"tokenizer": "abc"}


def test_parts_are_merged_into_the_whole() -> None:
    parts = [
        LatentStatisticsAccumulator(num_channels=4, num_latent_frames=3) for _ in range(3)
    ]  # the last one is empty
    for number, batch in enumerate(batches()):
        parts[number % 2].update(batch)
    total = LatentStatisticsAccumulator(num_channels=4, num_latent_frames=3)
    for part in (parts[2], *parts):
        total.merge(part)
    torch.testing.assert_close(total.statistics().mean_CT, accumulated().mean_CT)
    torch.testing.assert_close(total.statistics().std_CT, accumulated().std_CT)


def test_what_was_taken_in_goes_through_json_exactly() -> None:
    accumulator = LatentStatisticsAccumulator(num_channels=4, num_latent_frames=3)
    accumulator.update(torch.randn(2, 4, 3, 5, 6, generator=torch.Generator().manual_seed(1)) / 3)
    back = LatentStatisticsAccumulator.from_lists(json.loads(json.dumps(accumulator.to_lists())))
    for name in ("count_T", "mean_CT", "squares_CT"):
        assert torch.equal(getattr(back, name), getattr(accumulator, name))


def test_accumulation_does_not_cancel_far_from_zero() -> None:
    accumulator = LatentStatisticsAccumulator(num_channels=1, num_latent_frames=1)
    for value in (1e7 - 1, 1e7 + 1):
        accumulator.update(torch.full((1, 1, 1, 8, 8), value, dtype=torch.float64))
    assert accumulator.statistics().std_CT.item() == 1.0


def test_whitened_latents_have_mean_0_and_deviation_1_and_come_back() -> None:
    z = batches()[0]
    accumulator = LatentStatisticsAccumulator(num_channels=4, num_latent_frames=3)
    accumulator.update(z)
    statistics = accumulator.statistics()
    white = statistics.whiten(z)
    torch.testing.assert_close(white.mean(dim=(0, 3, 4)), torch.zeros(4, 3), rtol=0, atol=1e-4)
    torch.testing.assert_close(white.std(dim=(0, 3, 4), unbiased=False), torch.ones(4, 3), rtol=0, atol=1e-4)
    torch.testing.assert_close(statistics.unwhiten(white), z, rtol=1e-6, atol=1e-4)


def test_a_shorter_clip_uses_the_first_frames() -> None:
    statistics, z = accumulated(), batches()[0]
    assert torch.equal(statistics.whiten(z[:, :, :2]), statistics.whiten(z)[:, :, :2])
    assert not torch.equal(statistics.whiten(z[:, :, 1:]), statistics.whiten(z)[:, :, 1:])
    assert statistics.whiten(z.bfloat16()).dtype == torch.bfloat16


def test_file_round_trip(tmp_path: Path) -> None:
    statistics = accumulated()
    save_statistics(tmp_path / "s.safetensors", statistics)
    loaded = load_statistics(tmp_path / "s.safetensors")
    assert torch.equal(loaded.mean_CT, statistics.mean_CT)
    assert torch.equal(loaded.std_CT, statistics.std_CT)
    assert loaded.metadata == {"tokenizer": "abc"}
    assert [path.name for path in tmp_path.iterdir()] == ["s.safetensors"]


def test_a_damaged_or_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    with pytest.raises(ValueError, match=r"latent statistics .*s.safetensors cannot be read"):
        load_statistics(path)
    save_statistics(path, accumulated())
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"latent statistics .*s.safetensors cannot be read"):
        load_statistics(path)


@pytest.mark.parametrize("shape", [(1, 3, 2, 4, 4), (1, 4, 5, 4, 4), (4, 2, 4, 4)])
def test_latents_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"do not fit statistics of 4 channels and 3 latent frames"):
        accumulated().whiten(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"do not fit an accumulator of 4 channels and 3 latent frames"):
        LatentStatisticsAccumulator(num_channels=4, num_latent_frames=3).update(torch.zeros(shape))


def test_statistics_of_too_little_are_refused() -> None:
    accumulator = LatentStatisticsAccumulator(num_channels=1, num_latent_frames=2)
    accumulator.update(torch.randn(1, 1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"no clip had a latent frame 1, of 2 asked for"):
        accumulator.statistics()
    accumulator.update(torch.ones(1, 1, 2, 4, 4))
    with pytest.raises(ValueError, match=r"channel 0, latent frame 1 are mean 1 and deviation 0; both must be finite"):
        accumulator.statistics()
