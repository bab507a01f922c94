"""A checkpoint's tokenizer on a device: pixels to tokens and back."""

from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vqgan_train.checkpoint.load_report import require_finite, weights_sha256
from vqgan_train.checkpoint.reading import read_networks
from vqgan_train.images.pixels import PIXEL_RANGES
from vqgan_train.images.transforms import Size, height_and_width
from vqgan_train.models import VQGAN
from vqgan_train.system.devices import arithmetic
from vqgan_train.system.errors import UserError
from vqgan_train.system.files import file_sha256
from vqgan_train.tokens.metadata import TokenMetadata

FULL_RANGE = ("fp32", "tf32", "bf16")
"""Precisions with the range of float32, in which only a diverged model overflows."""


class Tokenizer(NamedTuple):
    """A model on one device in one precision, with hashes that identify its checkpoint."""

    model: VQGAN
    device: torch.device
    precision: str
    checkpoint: str
    """Name of the checkpoint file."""

    checkpoint_sha256: str
    weights_sha256: str

    @property
    def codebook_size(self) -> int:
        """Number of codes; every token is below it."""
        return self.model.quantizer.codebook.num_embeddings

    @torch.inference_mode()
    def encode(self, pixels: Tensor, pixel_range: str) -> Tensor:
        """Encode pixels (B, 3, H, W) uint8 into tokens (B, N) int32 on the CPU.

        Raises:
            UserError: the encoder produced NaN or infinite values.
        """
        images = PIXEL_RANGES[pixel_range].to_model(pixels.to(self.device, non_blocking=True))
        with arithmetic(self.precision, self.device):
            latents = self.model.latents(images)
            self._require_finite(latents)  # the nearest code to NaN would be code 0
            return self.model.quantizer.nearest(latents).int().cpu()

    @torch.inference_mode()
    def decode(self, tokens: Tensor, grid: tuple[int, int], pixel_range: str) -> Tensor:
        """Decode tokens (B, rows * columns) of integers into pixels (B, 3, H, W) uint8 on the CPU.

        Raises:
            UserError: the decoder produced NaN or infinite values.
        """
        with arithmetic(self.precision, self.device):
            decoded = self.model.decode(tokens.to(self.device, torch.int64), grid)
        self._require_finite(decoded)
        return PIXEL_RANGES[pixel_range].to_pixels(decoded).cpu()

    def _require_finite(self, values: Tensor) -> None:
        is_finite = values.isfinite().flatten(1).all(1)
        if is_finite.all():
            return
        problem = (
            f"{self.checkpoint} produced NaN or infinite values for {int((~is_finite).sum())} of "
            f"{len(is_finite)} images"
        )
        if self.precision in FULL_RANGE:
            raise UserError(
                f"{problem}. Its training probably diverged; use an earlier checkpoint."
            )
        raise UserError(
            f"{problem} in precision={self.precision}, whose largest number is 65,504. Use "
            "precision=bf16, which is as fast and has the range of float32, or precision=fp32."
        )

    def describe(
        self, *, pixel_range: str, resize: Size, image_size: Size, interpolation: str = "bilinear"
    ) -> TokenMetadata:
        """Return the metadata of tokens that this tokenizer makes; arguments as in `TokenMetadata`.

        Raises:
            UserError: a side of `image_size` is not a multiple of the model's f.
        """
        factor = self.model.downsampling
        sides = height_and_width(image_size)
        if any(side % factor for side in sides):
            nearest = [max(factor, round(side / factor) * factor) for side in sides]
            raise UserError(
                f"image_size is {' x '.join(map(str, sides))}, but the model of {self.checkpoint} "
                f"makes a token per {factor} x {factor} pixels: use multiples of {factor}, such as "
                f"{' x '.join(map(str, nearest))}."
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
    """Load a checkpoint's tokenizer.

    Raises:
        CheckpointError: the file is missing, cannot be read, is not a VQGAN, or has weights that
            are not finite.
        UserError: the model's images do not have 3 channels.
    """
    networks = read_networks(path)
    weights = networks.generator
    model = VQGAN.from_weights(networks.architecture, weights, path)
    require_finite(weights, path)
    channels = model.encoder.conv_in.in_channels
    if channels != 3:
        raise UserError(
            f"{path} is a model of images with {channels} channels, but pictures have 3. Use a "
            "checkpoint that was trained on RGB images."
        )
    return Tokenizer(
        # Channels last is twice as fast on a CPU (docs/tokens.md).
        model=model.to(device).to(memory_format=torch.channels_last),
        device=device,
        precision=precision,
        checkpoint=path.name,
        checkpoint_sha256=file_sha256(path),
        weights_sha256=weights_sha256(weights),
    )
