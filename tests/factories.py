"""Small models, images and weights that tests share. Everything is drawn from a seed of its own."""

import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from webdataset import TarWriter, WebDataset

from vqgan_train.models import VQGAN, PatchDiscriminator

TINY_ARCHITECTURE: Mapping[str, Any] = {
    "channels": 32,
    "channel_multipliers": [1, 2],
    "num_residual_blocks": 1,
    "attention_resolutions": [16],
    "resolution": 32,
    "latent_channels": 32,
    "code_dim": 16,
    "codebook_size": 64,
}
"""f = 2, about 0.7 M parameters; 32 channels is the least that the normalisation allows."""

OBJECTIVE: Mapping[str, Any] = {
    "perceptual_weight": 1.0,
    "adversarial_weight": 0.75,
    "codebook_weight": 1.0,
    "commitment_weight": 0.25,
    "legacy_codebook_loss": True,
}
"""Arguments of the recipe's `Objective`."""

FULL_ARCHITECTURE: Mapping[str, Any] = {
    "channels": 128,
    "channel_multipliers": [1, 1, 2, 2, 4],
    "num_residual_blocks": 2,
    "attention_resolutions": [16],
    "resolution": 256,
    "latent_channels": 256,
    "code_dim": 256,
    "codebook_size": 16_384,
}
"""f16-16384, the model that this project fine-tunes."""

VGG16_CHANNELS = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
LPIPS_HEAD_CHANNELS = (64, 128, 256, 512, 512)


def tiny_vqgan(**overrides: Any) -> VQGAN:
    """Build a tokenizer of `TINY_ARCHITECTURE` with changes, as the seed 0 draws it.

    Its codes are spread like the latents, so that images have many different tokens.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = VQGAN(**{**TINY_ARCHITECTURE, **overrides})
        spread_codes(model.quantizer.codebook.weight, model.quant_conv.weight)
    return model


def tiny_discriminator(*, in_channels: int = 3, num_layers: int = 2) -> PatchDiscriminator:
    """Build a discriminator with 8 channels, as the seed 0 draws it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PatchDiscriminator(in_channels=in_channels, channels=8, num_layers=num_layers)


def tiny_images(
    batch: int = 2, height: int = 32, width: int = 32, *, channels: int = 3, seed: int = 0
) -> Tensor:
    """Draw images (batch, channels, height, width), uniform in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, channels, height, width, generator=generator) * 2 - 1


def spread_codes(codebook: Tensor, quant_conv: Tensor) -> None:
    """Draw codes from N(0, 1) and widen the projection to them, in place.

    A fresh model's codes lie in a tiny cube, where all distances are near-ties; and its latents are
    so short that they all choose the shortest code.
    """
    with torch.no_grad():
        codebook.normal_()
        quant_conv.mul_(8)


def random_lpips_weights() -> dict[str, Tensor]:
    """Draw weights of LPIPS's shapes: what is compared on both sides needs no real ones."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for index, (inputs, outputs) in enumerate(pairwise(VGG16_CHANNELS)):
        kernel = torch.randn(outputs, inputs, 3, 3, generator=generator)
        weights[f"convolutions.{index}.weight"] = kernel * (2 / (9 * inputs)) ** 0.5
        weights[f"convolutions.{index}.bias"] = torch.rand(outputs, generator=generator) * 0.1
    for index, channels in enumerate(LPIPS_HEAD_CHANNELS):
        weights[f"heads.{index}.weight"] = torch.rand(1, channels, 1, 1, generator=generator)
    return weights


def image_bytes(
    height: int = 20, width: int = 24, *, seed: int = 0, file_format: str = "PNG", **options: Any
) -> bytes:
    """Encode an RGB image of noise, drawn from `seed`; `options` are those of PIL's save."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, format=file_format, **options)
    return encoded.getvalue()


def image_samples(
    count: int, *, first: int = 0, seeds: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """Make samples `000000`, ...: a PNG of noise, other sides for each, and a caption.

    The noise is drawn from the samples' own numbers, unless `seeds` has a seed for each number.
    """
    return [
        {
            "__key__": f"{number:06d}",
            "png": image_bytes(
                20 + number % 3, 26 - number % 4, seed=seeds[number] if seeds else number
            ),
            "txt": f"photo {number}".encode(),
        }
        for number in range(first, first + count)
    ]


def write_shard(path: Path, samples: Iterable[Mapping[str, Any]]) -> Path:
    """Write samples to a tar as WebDataset's users do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TarWriter(str(path), mtime=0) as tar:
        for sample in samples:
            tar.write(dict(sample))
    return path


def read_with_webdataset(path: Path) -> list[dict[str, Any]]:
    """List a shard's samples as WebDataset reads them: `__key__` and bytes under each field."""
    hidden = {"__url__", "__local_path__"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # WebDataset leaves the file open
        samples = list(WebDataset(str(path), shardshuffle=False))
    return [{k: v for k, v in sample.items() if k not in hidden} for sample in samples]
