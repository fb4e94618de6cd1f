"""Curves of high range at values that the standards state, and what is left of pictures of it."""

import numpy as np
import pytest

from cosmos_data.videos.tone_mapping import pq_nits, pq_signal, to_standard_range


def mapped(levels: list[float], transfer: str) -> list[int]:
    """8-bit grays of signals from 0 to 1."""
    signal = np.repeat((np.array(levels) * 65535).round().astype(np.uint16)[None, :, None], 3, axis=2)
    screen = to_standard_range(signal, transfer)[0].astype(int)
    assert (np.ptp(screen, axis=1) <= 1).all(), "gray stays gray"
    return screen[:, 1].tolist()


def test_pq_is_that_of_st_2084():
    """ITU-R BT.2408, table 1: 100 cd/m2 are 51 % of the signal, 203 are 58 %, 1000 are 75 %."""
    assert [round(100 * float(pq_signal(nits))) for nits in (100, 203, 1000)] == [51, 58, 75]
    nits = np.array([0.01, 1, 50, 203, 4000, 10000])
    assert pq_nits(pq_signal(nits)) == pytest.approx(nits, rel=2e-3)


@pytest.mark.parametrize("transfer", ["pq", "hlg"])
def test_brighter_stays_brighter_and_nothing_wraps(transfer: str):
    peak = 0.7518 if transfer == "pq" else 1.0  # 1000 cd/m2
    grays = mapped(np.linspace(0, peak, 40).tolist(), transfer)
    assert grays == sorted(grays) and grays[0] == 0 and grays[-1] >= 250
    assert mapped([1.0], transfer)[0] == 255


def test_middle_tones_stay_as_they_are():
    """20 cd/m2 of a white of 203 are, at a gamma of 2.4, 38 % of the signal: below the knee."""
    assert mapped([float(pq_signal(20.0))], "pq")[0] == pytest.approx(255 * (20 / 203) ** (1 / 2.4), abs=2)


def test_white_is_the_same_in_both_curves():
    """ITU-R BT.2408, table 1: the white of a page, 203 cd/m2, is 75 % of an HLG signal and 58 % of a PQ signal."""
    [of_hlg], [of_pq] = mapped([0.75], "hlg"), mapped([float(pq_signal(203))], "pq")
    assert of_hlg == pytest.approx(of_pq, abs=2) and of_pq < 255
