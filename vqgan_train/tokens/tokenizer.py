"""A checkpoint's tokenizer on a device, and what tells it from others."""

from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vqgan_train.checkpoint import read_networks
from vqgan_train.checkpoint.load_report import require_finite, weights_sha256
from vqgan_train.images.pixels import PIXEL_RANGES
from vqgan_train.images.transforms import Size, height_and_width
from vqgan_train.models import VQGAN
from vqgan_train.system.devices import arithmetic
from vqgan_train.system.errors import TokenError
from vqgan_train.system.files import file_sha256
from vqgan_train.tokens.metadata import TokenMetadata

FULL_RANGE = ("fp32", "tf32", "bf16")
"""Precisions that reach as far as float32."""


class Tokenizer(NamedTuple):
    """Pixels to tokens and back, on one device in one precision."""

    model: VQGAN
    device: torch.device
    precision: str
    checkpoint: str
    """The file's name."""

    checkpoint_sha256: str
    weights_sha256: str

    @property
    def codebook_size(self) -> int:
        """How many codes there are."""
        return self.model.quantizer.codebook.num_embeddings

    @torch.inference_mode()
    def encode(self, pixels: Tensor, pixel_range: str) -> Tensor:
        """Tokens (B, N) int32 on the CPU of pixels (B, 3, H, W) uint8.

        Raises:
            TokenError: numbers of the networks are too large for the precision.
        """
        images = PIXEL_RANGES[pixel_range].to_model(pixels.to(self.device, non_blocking=True))
        with arithmetic(self.precision, self.device):
            latents = self.model.latents(images)
            self._require_finite(latents)  # else it would be token 0
            return self.model.quantizer.nearest(latents).int().cpu()

    @torch.inference_mode()
    def decode(self, tokens: Tensor, grid: tuple[int, int], pixel_range: str) -> Tensor:
        """Pixels (B, 3, H, W) uint8 on the CPU of tokens (B, N) of integers.

        Raises:
            TokenError: numbers of the networks are too large for the precision.
        """
        with arithmetic(self.precision, self.device):
            decoded = self.model.decode(tokens.to(self.device, torch.int64), grid)
        self._require_finite(decoded)
        return PIXEL_RANGES[pixel_range].to_pixels(decoded).cpu()

    def _require_finite(self, numbers: Tensor) -> None:
        whole = numbers.isfinite().flatten(1).all(1)
        if whole.all():
            return
        found = (
            f"The networks of {self.checkpoint} come to infinite numbers for "
            f"{int((~whole).sum())} of {len(whole)} images"
        )
        if self.precision in FULL_RANGE:
            raise TokenError(f"{found}. Its training diverged; take an earlier checkpoint.")
        raise TokenError(
            f"{found} in precision={self.precision}, whose largest is 65,504. Take precision=bf16, "
            "which is as fast and reaches as far as float32, or precision=fp32."
        )

    def describe(
        self, *, pixel_range: str, resize: Size, image_size: Size, interpolation: str = "bilinear"
    ) -> TokenMetadata:
        """Say how tokens will have been made.

        Raises:
            TokenError: a side is no multiple of the model's f.
        """
        factor = self.model.downsampling
        sides = height_and_width(image_size)
        if any(side % factor for side in sides):
            near = [max(factor, round(side / factor) * factor) for side in sides]
            raise TokenError(
                f"image_size is {' x '.join(map(str, sides))}, but the model of {self.checkpoint} "
                f"makes a token of {factor} x {factor} pixels: take multiples of {factor}, such as "
                f"{' x '.join(map(str, near))}."
            )
        return TokenMetadata(
            pixel_range=pixel_range,
            checkpoint=self.checkpoint,
            checkpoint_sha256=self.checkpoint_sha256,
            weights_sha256=self.weights_sha256,
            codebook_size=self.codebook_size,
            downsampling=factor,
            image_size=list(sides),
            grid=[side // factor for side in sides],
            resize=list(height_and_width(resize)),
            interpolation=interpolation,
            crop="center",
            precision=self.precision,
            version=version("vqgan_train"),
        )


def load_tokenizer(path: Path, device: torch.device, precision: str) -> Tokenizer:
    """Read a tokenizer whose images are RGB.

    Raises:
        CheckpointError: the file is missing, cannot be read, is no VQGAN, or has weights that are
            not finite.
        TokenError: its images have other channels.
    """
    networks = read_networks(path)
    weights = networks.generator
    model = VQGAN.from_weights(networks.architecture, weights, path)
    require_finite(weights, path)
    channels = model.encoder.conv_in.in_channels
    if channels != 3:
        raise TokenError(f"{path} takes images of {channels} channels; pictures have 3.")
    return Tokenizer(
        # A pixel's channels side by side: twice as fast on a CPU (docs/tokens.md).
        model=model.to(device).to(memory_format=torch.channels_last),
        device=device,
        precision=precision,
        checkpoint=path.name,
        checkpoint_sha256=file_sha256(path),
        weights_sha256=weights_sha256(weights),
    )
