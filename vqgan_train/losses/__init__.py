"""Training loss: L1, LPIPS, adaptively weighted PatchGAN and codebook terms."""

from vqgan_train.losses.adversarial import no_reduction
from vqgan_train.losses.lpips_files import ALEXNET, VGG16, LpipsNetwork
from vqgan_train.losses.lpips_weights import LpipsWeightsNotFoundError, find_lpips_weights
from vqgan_train.losses.objective import Objective, StepTerms, ValidationTerms
from vqgan_train.losses.perceptual import LPIPS

__all__ = [
    "ALEXNET",
    "LPIPS",
    "VGG16",
    "LpipsNetwork",
    "LpipsWeightsNotFoundError",
    "Objective",
    "StepTerms",
    "ValidationTerms",
    "find_lpips_weights",
    "no_reduction",
]
