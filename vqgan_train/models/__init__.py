"""The networks: VQGAN (encoder, quantizer, decoder) and the PatchGAN discriminator. Torch only."""

from vqgan_train.models.discriminator import PatchDiscriminator
from vqgan_train.models.quantizer import VectorQuantizer
from vqgan_train.models.vqgan import VQGAN, recompute_activations

__all__ = [
    "VQGAN",
    "PatchDiscriminator",
    "VectorQuantizer",
    "recompute_activations",
]
