"""The networks: VQGAN (encoder, quantizer, decoder) and the PatchGAN discriminator. Torch only."""

from vqgan_train.models.discriminator import PatchDiscriminator
from vqgan_train.models.quantizer import Quantized, VectorQuantizer
from vqgan_train.models.vqgan import VQGAN, Generated, recompute_activations

__all__ = [
    "VQGAN",
    "Generated",
    "PatchDiscriminator",
    "Quantized",
    "VectorQuantizer",
    "recompute_activations",
]
