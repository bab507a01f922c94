"""The loss: L1 + LPIPS + adaptively weighted PatchGAN + codebook term."""

from vqgan_train.losses.adversarial import no_reduction
from vqgan_train.losses.lpips_weights import find_lpips_weights
from vqgan_train.losses.objective import Objective, StepTerms, ValidationTerms
from vqgan_train.losses.perceptual import LPIPS

__all__ = [
    "LPIPS",
    "Objective",
    "StepTerms",
    "ValidationTerms",
    "find_lpips_weights",
    "no_reduction",
]
