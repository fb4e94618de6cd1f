"""What a tokenizer's reconstruction is asked for, beside being believed by a discriminator (`adversarial`).

The terms are those of Cosmos, arXiv 2501.03575, section 4, in the form of its released training code, except the flow
term (see `flow`). All compare with the video itself; none is about latents.

B batch, C channels, T frames, H rows, W columns.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from cosmos_train.objectives.config import ReconstructionConfig
from cosmos_train.objectives.features import Features, load_features
from cosmos_train.objectives.flow import FlowNetwork, flow_consistency, import_cv2


def l1(video_B3THW: Tensor, reconstruction_B3THW: Tensor) -> Tensor:
    """Mean |x' - x|."""
    return (reconstruction_B3THW - video_B3THW).abs().mean()


def perceptual(real: Sequence[Tensor], fake: Sequence[Tensor], layer_weights: Sequence[float]) -> Tensor:
    """sum_l a_l mean |f_l(x') - f_l(x)| over features of each frame, [B, C, T, H, W] each."""
    differences = [(f.float() - r.float()).abs().mean() for r, f in zip(real, fake, strict=True)]
    return _weighted(differences, layer_weights)


def gram(real: Sequence[Tensor], fake: Sequence[Tensor], layer_weights: Sequence[float]) -> Tensor:
    """sum_l a_l mean (G_l(x') - G_l(x))^2: the same textures, wherever they are. The paper has |.|, its code ^2."""
    pairs = zip(real, fake, strict=True)
    return _weighted([(gram_matrix(f) - gram_matrix(r)).square().mean() for r, f in pairs], layer_weights)


def gram_matrix(features_BCTHW: Tensor) -> Tensor:
    """G = F F^T / (T H W), [B, C, C] (Gatys et al., arXiv 1508.06576), over space and time together, in fp32."""
    features_BCL = features_BCTHW.float().flatten(2)
    return features_BCL @ features_BCL.transpose(1, 2) / features_BCL.shape[2]


class ReconstructionTerms:
    """All of these terms that a run has, with the frozen network that two of them look through."""

    def __init__(self, config: ReconstructionConfig, device: torch.device, dtype: torch.dtype) -> None:
        self.config = config
        self.features: Features | None = None
        if config.perceptual.weight or config.gram.weight:
            self.features = load_features(config.features).to(device, dtype)
        self.motion: FlowNetwork | None = None
        if config.flow.weight and config.motion.file is not None:
            self.motion = FlowNetwork(Path(config.motion.file), device, halve=config.motion.halve)
        elif config.flow.weight:
            import_cv2()  # now, not after the term's start_step

    def __call__(self, video_B3THW: Tensor, reconstruction_B3THW: Tensor, step: int) -> dict[str, Tensor]:
        """Unweighted terms, scalars in fp32, by their names in the configuration; only what counts in this step.

        Args:
            video_B3THW: float32 in [-1, 1]; the reconstruction is of any float dtype.
            step: finished steps of the run.
        """
        config, fake_B3THW, found = self.config, reconstruction_B3THW.float(), {}
        if config.l1.at(step):
            found["l1"] = l1(video_B3THW, fake_B3THW)
        if config.perceptual.at(step) or config.gram.at(step):
            assert self.features is not None
            with torch.no_grad():
                real = features_of(self.features, video_B3THW.to(reconstruction_B3THW.dtype))
            fake = features_of(self.features, reconstruction_B3THW)
            for name, term in (("perceptual", perceptual), ("gram", gram)):
                if config.terms[name].at(step):
                    found[name] = term(real, fake, self.features.layer_weights)
        if config.flow.at(step):
            difference = flow_consistency if self.motion is None else self.motion.difference
            found["flow"] = difference(video_B3THW, fake_B3THW)
        return found


def features_of(features: Features, video_B3THW: Tensor) -> list[Tensor]:
    """Features [B, C, T, H', W'] of a video's frames, each frame by itself."""
    batch = video_B3THW.shape[0]
    frames_N3HW = video_B3THW.transpose(1, 2).flatten(0, 1)
    return [f_NCHW.unflatten(0, (batch, -1)).transpose(1, 2) for f_NCHW in features(frames_N3HW)]


def weighted_sum(terms: Mapping[str, Tensor], config: ReconstructionConfig, step: int) -> Tensor:
    """sum of weight * term, over the terms of this step."""
    return torch.stack([config.terms[name].at(step) * value for name, value in terms.items()]).sum()


def _weighted(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    return torch.stack([weight * value for weight, value in zip(weights, values, strict=True)]).sum()
