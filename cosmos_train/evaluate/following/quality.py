"""Whether a post-training has kept what the model could do before it.

B clips, T frames, H W pixels.
"""

import numpy as np

from cosmos_train.evaluate.following.figure import Figure


def kept_quality_figure(after_BTHW3: np.ndarray, before_BTHW3: np.ndarray, true_BTHW3: np.ndarray) -> Figure:
    """Return the mean squared error of a post-trained model's frames, in that of the model it was made of: above 1 the
    held-out clips are worse than before.

    Args:
        after_BTHW3, before_BTHW3: what each model makes of the same held-out first frames.
        true_BTHW3: the true frames; the ceiling compares with those of the next clip.
    """
    error_before = _mean_squared_error(before_BTHW3, true_BTHW3)
    errors = [
        _mean_squared_error(after_BTHW3, true_BTHW3),
        0.0,
        _mean_squared_error(after_BTHW3, np.roll(true_BTHW3, -1, axis=0)),
    ]
    value, floor, ceiling = (error / error_before if error_before else float("nan") for error in errors)
    return Figure(
        name="held-out error, in the error before the post-training",
        value=value,
        floor=floor,
        ceiling=ceiling,
        num_clips=len(after_BTHW3),
    )


def _mean_squared_error(clips_BTHW3: np.ndarray, true_BTHW3: np.ndarray) -> float:
    """Return the mean over all frames but the first, which is given."""
    difference = clips_BTHW3[:, 1:].astype(np.float64) - true_BTHW3[:, 1:]
    return float((difference * difference).mean())
