"""Patches and rotary positions, against cases worked out by hand."""

import pytest
import torch

from cosmos_train.models.common.patchify import patchify, unpatchify
from cosmos_train.models.common.rope3d import apply_rope, axis_widths, inverse_frequencies, rope_angles


def test_patch_goes_in_channel_first():
    x = torch.arange(2 * 4 * 4).reshape(1, 2, 1, 4, 4)
    tokens = patchify(x, 2)
    assert tokens.shape == (4, 1, 8)
    assert tokens[1, 0].tolist() == [2, 3, 6, 7, 18, 19, 22, 23], (
        "second patch: channel 0's four cells, then channel 1's"
    )


def test_patch_comes_out_channel_last():
    tokens = torch.zeros(4, 1, 8)
    tokens[1, 0] = torch.arange(8)
    x = unpatchify(tokens, 2, (1, 2, 2))
    assert x.shape == (1, 2, 1, 4, 4)
    assert x[0, 0, 0, :2, 2:].tolist() == [[0, 2], [4, 6]]
    assert x[0, 1, 0, :2, 2:].tolist() == [[1, 3], [5, 7]]


def test_tokens_run_over_time_last():
    x = torch.arange(3.0).reshape(1, 1, 3, 1, 1).expand(1, 1, 3, 4, 4)
    assert patchify(x, 2)[:, 0, 0].tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_widths_of_the_axes():
    assert axis_widths(128) == (44, 42, 42)


def test_ntk_stretches_the_slowest_frequency_by_the_ratio():
    plain, stretched = (inverse_frequencies(44, scale) for scale in (1.0, 2.0))
    assert plain[0] == stretched[0] == 1
    assert (plain[-1] / stretched[-1]).item() == pytest.approx(2.0, rel=1e-5)


def angles(frames: int, fps: float) -> torch.Tensor:
    return rope_angles(frames, 2, 3, head_dim=24, scales_thw=(1.0, 1.0, 1.0), fps_B=[fps], base_fps=24.0)


def test_frames_are_placed_by_time():
    assert angles(3, 24.0).shape == (18, 1, 1, 12)
    torch.testing.assert_close(angles(3, 12.0)[6, ..., :4], angles(3, 24.0)[12, ..., :4])
    torch.testing.assert_close(angles(3, 12.0)[..., 4:], angles(3, 24.0)[..., 4:])


def test_an_image_has_no_frame_rate():
    assert torch.equal(angles(1, 24.0), angles(1, 5.0))


def test_attention_sees_differences_of_positions_only():
    q, k = torch.randn(2, 24, generator=torch.Generator().manual_seed(0))
    turned = angles(3, 24.0)

    def score(i: int, j: int) -> torch.Tensor:
        a, b = (apply_rope(x, turned[p, 0, 0].cos(), turned[p, 0, 0].sin()) for x, p in ((q, i), (k, j)))
        return a @ b

    torch.testing.assert_close(score(0, 7), score(6, 13))  # token 7 is (1, 0, 1); one frame later is 13
    assert (score(0, 7) - score(0, 8)).abs() > 1e-3
    norm = apply_rope(q, turned[5, 0, 0].cos(), turned[5, 0, 0].sin()).norm()
    torch.testing.assert_close(norm, q.norm())
