"""Pictures of high dynamic range as a screen of standard range shows them: PQ or HLG, BT.2020 -> BT.709, 8 bits.

Light is counted in nits (cd/m2). Signals are R'G'B' from 0 to 1.
"""

from functools import lru_cache

import numpy as np

PEAK_NITS = 1000.0
"""The film is taken to reach so much: the usual mastering display, and HLG's nominal one (ITU-R BT.2100)."""
WHITE_NITS = 203.0
"""A white page in a film of high range (ITU-R BT.2408), which becomes the screen's white."""
SCREEN_GAMMA = 2.4
"""A screen of standard range has it (ITU-R BT.1886)."""
# SMPTE ST 2084 (PQ).
PQ_M1, PQ_M2 = 2610 / 16384, 2523 / 4096 * 128
PQ_C1, PQ_C2, PQ_C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
PQ_NITS = 10_000.0
# ITU-R BT.2100 (HLG), whose system gamma at 1000 nits is 1.2.
HLG_A, HLG_B, HLG_C = 0.17883277, 0.28466892, 0.55991073
HLG_GAMMA = 1.2
LUMINANCE_2020 = np.array([0.2627, 0.6780, 0.0593], np.float32)
TO_709 = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]], np.float32
)
"""Linear BT.2020 to linear BT.709 (ITU-R BT.2087, inverted)."""


def to_standard_range(signal_HW3: np.ndarray, transfer: str) -> np.ndarray:
    """Map uint16 R'G'B' [H, W, 3] of the whole 16-bit range in BT.2020 to uint8 R'G'B' [H, W, 3] in BT.709.

    Args:
        transfer: "pq" or "hlg".
    """
    light_HW3 = _nits_of_pq()[signal_HW3] if transfer == "pq" else _nits_of_hlg(signal_HW3)
    brightest_HW1 = light_HW3.max(axis=-1, keepdims=True)
    # One factor for the three colours keeps the hue.
    light_HW3 = light_HW3 * (_compressed(brightest_HW1) / np.maximum(brightest_HW1, 1e-6))
    screen_HW3 = np.clip(light_HW3 @ TO_709.T / WHITE_NITS, 0, 1) ** (1 / SCREEN_GAMMA)
    return (screen_HW3 * 255).round().astype(np.uint8)


def pq_signal(nits: np.ndarray | float) -> np.ndarray:
    """Return the PQ signal of some light (SMPTE ST 2084, inverse EOTF)."""
    power = (np.asarray(nits, np.float32) / PQ_NITS) ** PQ_M1
    return ((PQ_C1 + PQ_C2 * power) / (1 + PQ_C3 * power)) ** PQ_M2


def pq_nits(signal: np.ndarray | float) -> np.ndarray:
    """Return the light of a PQ signal (SMPTE ST 2084, EOTF)."""
    power = np.asarray(signal, np.float32) ** (1 / PQ_M2)
    return PQ_NITS * (np.maximum(power - PQ_C1, 0) / (PQ_C2 - PQ_C3 * power)) ** (1 / PQ_M1)


@lru_cache(maxsize=1)
def _nits_of_pq() -> np.ndarray:
    return pq_nits(np.arange(65536, dtype=np.float32) / 65535).astype(np.float32)


@lru_cache(maxsize=1)
def _scene_of_hlg() -> np.ndarray:
    """Return scene light, 0 to 1, of each 16-bit signal (ITU-R BT.2100, inverse OETF)."""
    signal = np.arange(65536, dtype=np.float32) / 65535
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - HLG_C) / HLG_A) + HLG_B) / 12).astype(np.float32)


def _nits_of_hlg(signal_HW3: np.ndarray) -> np.ndarray:
    """Apply ITU-R BT.2100's OOTF for a display of PEAK_NITS."""
    scene_HW3 = _scene_of_hlg()[signal_HW3]
    luminance_HW1 = (scene_HW3 @ LUMINANCE_2020)[..., None]
    return PEAK_NITS * scene_HW3 * np.maximum(luminance_HW1, 1e-6) ** (HLG_GAMMA - 1)


def _compressed(nits: np.ndarray) -> np.ndarray:
    """Bring light of up to PEAK_NITS below WHITE_NITS (the EETF of ITU-R BT.2390, 5.4.1, for black at 0).

    Dark and middle tones stay as they are; a Hermite spline in PQ bends what lies above its knee.
    """
    source_peak, target_peak = pq_signal(PEAK_NITS), pq_signal(WHITE_NITS)
    signal = np.clip(pq_signal(nits) / source_peak, 0, 1)
    highest = target_peak / source_peak
    knee = 1.5 * highest - 0.5
    t = (np.maximum(signal, knee) - knee) / (1 - knee)
    bent = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * highest
    return pq_nits(np.where(signal < knee, signal, bent) * source_peak)
