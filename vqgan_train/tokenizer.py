"""A checkpoint's tokenizer on a device, and what tells it from others."""

from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vqgan_train.checkpoint import read_generator
from vqgan_train.checkpoint.identity import file_sha256, weights_sha256
from vqgan_train.models import VQGAN
from vqgan_train.tokens.devices import arithmetic
from vqgan_train.tokens.errors import TokenError
from vqgan_train.tokens.metadata import TokenMetadata
from vqgan_train.tokens.pixel_range import PIXEL_RANGES


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
        """Tokens (B, N) int32 on the CPU of pixels (B, 3, H, W) uint8."""
        images = PIXEL_RANGES[pixel_range].to_model(pixels.to(self.device, non_blocking=True))
        with arithmetic(self.precision, self.device):
            return self.model.encode(images).int().cpu()

    @torch.inference_mode()
    def decode(self, tokens: Tensor, grid: tuple[int, int], pixel_range: str) -> Tensor:
        """Pixels (B, 3, H, W) uint8 on the CPU of tokens (B, N) of integers."""
        with arithmetic(self.precision, self.device):
            decoded = self.model.decode(tokens.to(self.device, torch.int64), grid)
        return PIXEL_RANGES[pixel_range].to_pixels(decoded).cpu()

    def describe(self, *, pixel_range: str, resize: int, image_size: int) -> TokenMetadata:
        """Say how tokens of squares will have been made.

        Raises:
            TokenError: the side is no multiple of the model's f.
        """
        factor = self.model.downsampling
        if image_size % factor:
            near = max(factor, round(image_size / factor) * factor)
            raise TokenError(
                f"image_size is {image_size}, but the model of {self.checkpoint} makes a token of "
                f"{factor} x {factor} pixels: take a multiple of {factor}, such as {near}."
            )
        return TokenMetadata(
            pixel_range=pixel_range,
            checkpoint=self.checkpoint,
            checkpoint_sha256=self.checkpoint_sha256,
            weights_sha256=self.weights_sha256,
            codebook_size=self.codebook_size,
            downsampling=factor,
            image_size=[image_size, image_size],
            grid=[image_size // factor, image_size // factor],
            resize=resize,
            crop="center",
            precision=self.precision,
            version=version("vqgan_train"),
        )


def load_tokenizer(path: Path, device: torch.device, precision: str) -> Tokenizer:
    """Read a tokenizer whose images are RGB.

    Raises:
        CheckpointError: the file is missing, cannot be read, or is no VQGAN.
        TokenError: its images have other channels.
    """
    architecture, weights = read_generator(path)
    model = VQGAN.from_weights(architecture, weights, path)
    channels = model.encoder.conv_in.in_channels
    if channels != 3:
        raise TokenError(f"{path} takes images of {channels} channels; pictures have 3.")
    return Tokenizer(
        model=model.to(device),
        device=device,
        precision=precision,
        checkpoint=path.name,
        checkpoint_sha256=file_sha256(path),
        weights_sha256=weights_sha256(weights),
    )
