"""Conversion of a checkpoint to another format, checked by comparing the models' results."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vqgan_train.checkpoint.architecture import discriminator_architecture
from vqgan_train.checkpoint.export_formats import Format
from vqgan_train.checkpoint.load_report import LoadReport, require_finite
from vqgan_train.checkpoint.reading import CheckpointWeights, read_networks
from vqgan_train.models import VQGAN, PatchDiscriminator
from vqgan_train.release.atomic_export import atomic_export
from vqgan_train.shards.sample_photos import sample_views
from vqgan_train.system.errors import CheckpointError, ExportError
from vqgan_train.system.files import file_sha256


class Agreement(NamedTuple):
    """Comparison of two models on the same images."""

    num_tokens: int
    equal_tokens: int
    """Positions at which both models have the same token."""

    largest_difference: float
    """Largest difference between the values that both models decode from the same tokens."""


@torch.no_grad()
def compare_models(first: VQGAN, second: VQGAN, images: Tensor) -> Agreement:
    """Compare two models on images (B, C, H, W) in [-1, 1]; both decode the first one's tokens."""
    tokens = first.encode(images)
    grid = (images.shape[2] // first.downsampling, images.shape[3] // first.downsampling)
    equal = int((tokens == second.encode(images)).sum())
    difference = first.decode(tokens, grid) - second.decode(tokens, grid)
    return Agreement(tokens.numel(), equal, float(difference.abs().max()))


PROBE_SIDE = 128
"""Smallest height and width, in pixels, of the images that two models are compared on."""

# Equal weights give equal results on one machine, except that several cores may add up sums in
# another order.
MIN_EQUAL_TOKENS = 0.999
"""Smallest accepted fraction of equal tokens."""

MAX_DIFFERENCE = 1e-3
"""Decoded values, about in [-1, 1], must differ by less than this."""


class Conversion(NamedTuple):
    """Files of a converted checkpoint, and how they compare with the checkpoint."""

    files: tuple[Path, ...]
    num_weights: int
    """Number of weight arrays written; all are equal to the checkpoint's bit by bit. 0 for ONNX,
    whose arrays have other names and shapes."""

    num_parameters: int
    """Total of the numbers in these arrays."""

    codebook_size: int
    """Codes in the codebook, counted in the weights because a card may state a wrong number."""

    omits_discriminator: bool
    """Whether the checkpoint has a discriminator that the format does not store."""

    agreement: Agreement


def convert(
    checkpoint: Path, target: Format, folder: Path, *, averaged: bool = False
) -> Conversion:
    """Write the networks of a checkpoint in another format.

    Args:
        checkpoint: any file that `read_networks` reads.
        target: format to write.
        folder: output folder, created if missing; a different file in it is never overwritten.
        averaged: take moving averages of the weights, which the checkpoint must have.

    Raises:
        CheckpointError: the checkpoint cannot be read, or its weights are no VQGAN's or not finite.
        ExportError: the format cannot store the model, `folder` is a file or holds a different
            file of the same name, or the written weights or their results differ from the
            checkpoint's. Nothing is kept.
    """
    with atomic_export(folder) as partial:
        networks = read_complete_networks(checkpoint, averaged=averaged)
        conversion = write_verified(networks, origin_of(checkpoint), target, partial)
    return conversion._replace(files=tuple(folder / file.name for file in conversion.files))


def write_verified(
    networks: CheckpointWeights, origin: Mapping[str, str], target: Format, folder: Path
) -> Conversion:
    """Write networks in a format, read them back, and compare weights, tokens and images.

    Args:
        networks: result of `read_complete_networks`.
        origin: result of `origin_of`.
        target: format to write.
        folder: existing folder without files of the names that the format uses.

    Raises:
        ExportError: the format cannot store the model, or written weights or results differ.
    """
    existing = set(folder.iterdir())
    target.write(networks, origin, folder)
    written = folder / target.weights_file
    read_back = read_networks(written)
    weights = _stored_weights(networks, target)
    _require_equal(weights, _stored_weights(read_back, target), written)
    return Conversion(
        files=tuple(sorted(set(folder.iterdir()) - existing)),
        num_weights=len(weights),
        num_parameters=sum(weight.numel() for weight in weights.values()),
        codebook_size=networks.architecture["codebook_size"],
        omits_discriminator=bool(networks.discriminator) and not target.has_discriminator,
        agreement=_require_agreement(networks, read_back, written),
    )


def probe_images(model: VQGAN) -> Tensor:
    """Return scaled sample photos to compare models on.

    Returns:
        float32 (4, in_channels, H, H) in [-1, 1]; H is `PROBE_SIDE`, or the downsampling factor of
        the model if that is larger.
    """
    side = max(PROBE_SIDE, model.downsampling)
    views = [np.asarray(view.resize((side, side))) for view in sample_views()[::2]]
    images = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).float() / 127.5 - 1
    channels = model.encoder.conv_in.in_channels
    return images[:, [channel % images.shape[1] for channel in range(channels)]]


def read_complete_networks(checkpoint: Path, *, averaged: bool = False) -> CheckpointWeights:
    """Read networks as `read_networks` does, and require all weights to be present and finite.

    Raises:
        CheckpointError: the file cannot be read, or weights are missing, unexpected or not finite.
    """
    networks = read_networks(checkpoint, averaged=averaged)
    VQGAN.from_weights(networks.architecture, networks.generator, checkpoint)
    if networks.discriminator:
        _require_discriminator(networks.discriminator, checkpoint)
    require_finite({**networks.generator, **networks.discriminator}, checkpoint)
    return networks


def origin_of(checkpoint: Path) -> dict[str, str]:
    """Return file name and SHA-256 of a checkpoint, and the version of this package.

    Date and folder are left out, so that the same checkpoint always gives the same export.
    """
    return {
        "source": checkpoint.name,
        "source_sha256": file_sha256(checkpoint),
        "made_by": f"vqgan_train {version('vqgan_train')}",
    }


def _require_discriminator(weights: Mapping[str, Tensor], path: Path) -> None:
    advice = "Its discriminator is incomplete, or is no PatchGAN. Export a complete checkpoint."
    try:
        with torch.device("meta"):
            network = PatchDiscriminator(**discriminator_architecture(weights))
    except (LookupError, ArithmeticError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be exported. {advice}") from error
    expected, found = (
        {f"discriminator.{name}": weight for name, weight in state.items()}
        for state in (network.state_dict(), weights)
    )
    LoadReport.compare(expected, found).require_fit(path, advice)


def _stored_weights(networks: CheckpointWeights, target: Format) -> dict[str, Tensor]:
    """Return the weights that a format stores, with the network's name before each name."""
    stored = {"generator": networks.generator}
    if target.has_discriminator:
        stored["discriminator"] = networks.discriminator
    return {
        f"{network}.{name}": weight
        for network, weights in stored.items()
        for name, weight in weights.items()
    }


def _require_equal(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], written: Path
) -> None:
    """Require weights to be equal bit by bit, where 0 and -0 differ."""
    different = sorted(expected.keys() ^ found.keys()) + [
        name
        for name, weight in expected.items()
        if name in found and not _same_bits(weight, found[name])
    ]
    if different:
        raise ExportError(
            f"{written.name} differs from the checkpoint in {len(different)} weights, for example "
            f"{different[0]}, so it was not kept. This is a bug of vqgan_train or a disk failure; "
            "please report it."
        )


def _same_bits(first: Tensor, second: Tensor) -> bool:
    if (first.shape, first.dtype) != (second.shape, second.dtype):
        return False
    return torch.equal(first.reshape(-1).view(torch.uint8), second.reshape(-1).view(torch.uint8))


def _require_agreement(
    networks: CheckpointWeights, read_back: CheckpointWeights, written: Path
) -> Agreement:
    """Require equal tokens and images from the model before and after the conversion."""
    before = VQGAN.from_weights(networks.architecture, networks.generator, written)
    after = VQGAN.from_weights(read_back.architecture, read_back.generator, written)
    result = compare_models(before, after, probe_images(before))
    if (
        result.equal_tokens < MIN_EQUAL_TOKENS * result.num_tokens
        # Not `>=`, which would accept NaN.
        or not result.largest_difference < MAX_DIFFERENCE
    ):
        raise ExportError(
            f"{written.name} gives other results than the checkpoint: {result.equal_tokens} of "
            f"{result.num_tokens} tokens are equal, and decoded images differ by up to "
            f"{result.largest_difference:.2g}. It was not kept. This is a bug of vqgan_train; "
            "please report it."
        )
    return result
