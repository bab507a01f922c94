"""The loss: L1 + LPIPS + adaptively weighted PatchGAN + codebook term."""

from vqgan_train.losses.adversarial import this_batch_alone
from vqgan_train.losses.lpips_weights import find_lpips_weights
from vqgan_train.losses.objective import Objective, StepTerms, ValidationTerms
from vqgan_train.losses.perceptual import LPIPS

__all__ = [
    "LPIPS",
    "Objective",
    "StepTerms",
    "ValidationTerms",
    "find_lpips_weights",
    "this_batch_alone",
]
