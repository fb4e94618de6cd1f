"""Whether actions reach the network at a scale that it can learn from, measured on what it is really given.

A normaliser that is built and not applied changes nothing that anybody sees: training goes on, and the actions, 50
times too small, are not followed.
"""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from cosmos_data.manifests.conditions import Action

log = logging.getLogger(__name__)

USUAL = (0.2, 3.0)
"""Root mean squares between which a network's input lies."""
NUM_WINDOWS = 64
"""Windows of an embodiment that are looked at."""


class ActionRms:
    """The root mean square of each dimension of the actions of a run's first windows; said once an embodiment."""

    def __init__(self) -> None:
        self._squares = dict[str, list[Tensor]]()
        self.said = dict[str, dict[str, float]]()
        """Embodiment -> the root mean square of each of its dimensions by name."""

    def note(self, actions: Sequence[Action], steps_B: Sequence[int], action_BTRA: Tensor) -> None:
        """Take the windows of a batch: what they come with, its steps of a latent frame, and what the network is given
        of it."""
        later_BTW = action_BTRA.flatten(2)
        if later_BTW.shape[1] > 1:
            later_BTW = later_BTW[:, 1:]  # of the first frame there are none
        for action, steps, later_TW in zip(actions, steps_B, later_BTW, strict=True):
            steps_TRA = later_TW.unflatten(1, (steps, -1))
            seen = self._squares.setdefault(action.embodiment, [])
            if len(seen) < NUM_WINDOWS:
                seen.append(steps_TRA[..., : len(action.names)].square().mean(dim=(0, 1)))
                if len(seen) == NUM_WINDOWS:
                    self._say(action)

    def _say(self, action: Action) -> None:
        rms_A = torch.stack(self._squares[action.embodiment]).mean(dim=0).sqrt().tolist()
        found = dict(zip(action.names, rms_A, strict=True))
        self.said[action.embodiment] = found
        who = f"of embodiment {action.embodiment!r} " if action.embodiment else ""
        log.info("actions %sat the network's input: rms %s", who, _shown(found))
        unusual = {name: rms for name, rms in found.items() if not USUAL[0] <= rms <= USUAL[1]}
        if unusual:
            log.warning(
                "actions %sreach the network with rms %s, outside of %g to %g, and will hardly be followed; see "
                "condition.action_normalize, and whether a dimension ever changes",
                who,
                _shown(unusual),
                *USUAL,
            )


def _shown(rms: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in rms.items())
