"""Networks in plain torch: the VQGAN tokenizer and the PatchGAN discriminator."""

from vqgan_train.models.discriminator import PatchDiscriminator
from vqgan_train.models.quantizer import VectorQuantizer
from vqgan_train.models.vqgan import VQGAN, recompute_activations

__all__ = ["VQGAN", "PatchDiscriminator", "VectorQuantizer", "recompute_activations"]
