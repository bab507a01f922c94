"""The networks: VQGAN (encoder, quantizer, decoder) and the PatchGAN discriminator. Torch only."""

from vqgan_train.models.agreement import Agreement, agreement
from vqgan_train.models.discriminator import PatchDiscriminator
from vqgan_train.models.quantizer import VectorQuantizer
from vqgan_train.models.recomputation import recompute_activations
from vqgan_train.models.vqgan import VQGAN

__all__ = [
    "VQGAN",
    "Agreement",
    "PatchDiscriminator",
    "VectorQuantizer",
    "agreement",
    "recompute_activations",
]
