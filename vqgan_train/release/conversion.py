"""How far two tokenizers that should be the same differ."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vqgan_train.checkpoint import (
    CheckpointWeights,
    Format,
    LoadReport,
    discriminator_architecture,
    read_networks,
)
from vqgan_train.checkpoint.load_report import require_finite
from vqgan_train.models import VQGAN, PatchDiscriminator
from vqgan_train.release.whole_export import whole_export
from vqgan_train.shards.sample_photos import sample_views
from vqgan_train.system.errors import CheckpointError, ExportError
from vqgan_train.system.files import file_sha256


class Agreement(NamedTuple):
    """What two tokenizers make of the same images."""

    num_tokens: int
    equal_tokens: int
    """Places that have the same token in both."""

    largest_difference: float
    """Of two decoded values at the same place, about [-1, 1], from the first one's tokens."""


@torch.no_grad()
def agreement(first: VQGAN, second: VQGAN, images: Tensor) -> Agreement:
    """Compare two tokenizers on images (B, C, H, W) in [-1, 1]."""
    tokens = first.encode(images)
    grid = (images.shape[2] // first.downsampling, images.shape[3] // first.downsampling)
    equal = int((tokens == second.encode(images)).sum())
    difference = first.decode(tokens, grid) - second.decode(tokens, grid)
    return Agreement(tokens.numel(), equal, float(difference.abs().max()))


PROBE_SIDE = 128
"""Pixels a side of the images that two models are compared on; more if f is more."""

LEAST_EQUAL_TOKENS = 0.999
LARGEST_DIFFERENCE = 1e-3
"""Equal weights give equal results on one machine, but for the order of sums on many cores."""


class Conversion(NamedTuple):
    """What was written, and how it compares with what it was made from."""

    files: tuple[Path, ...]
    num_weights: int
    """Arrays, all of them equal to the bit."""

    num_parameters: int
    """Numbers in them."""

    codebook_size: int
    """Codes that the weights have, whatever a model card says."""

    without_discriminator: bool
    """Whether the checkpoint has one, which the format leaves out."""

    agreement: Agreement


def convert(checkpoint: Path, target: Format, folder: Path) -> Conversion:
    """Write the networks of a checkpoint in a format.

    Args:
        checkpoint: any file that `read_networks` reads.
        target: the format.
        folder: where to; what is there is never overwritten.

    Raises:
        CheckpointError: the checkpoint cannot be read, or does not hold all of a tokenizer.
        ExportError: the format cannot hold it, `folder` holds something else, or what was written
            is not what was read. Then nothing is left of it.
    """
    with whole_export(folder) as partial:
        networks = whole_networks(checkpoint)
        made = write_compared(networks, origin(checkpoint), target, partial)
    return made._replace(files=tuple(folder / file.name for file in made.files))


def write_compared(
    networks: CheckpointWeights, made_from: Mapping[str, str], target: Format, folder: Path
) -> Conversion:
    """Write networks in a format, read them back, and compare.

    Args:
        networks: from `whole_networks`.
        made_from: from `origin`.
        target: the format.
        folder: where to; it is there, and no file of the format's names is.

    Raises:
        ExportError: the format cannot hold them, or what was written is not what was given.
    """
    there = set(folder.iterdir())
    target.write(networks, made_from, folder)
    written = folder / target.weights_file
    read_back = read_networks(written)
    num_weights = _require_equal(_kept(networks, target), _kept(read_back, target), written)
    return Conversion(
        files=tuple(sorted(set(folder.iterdir()) - there)),
        num_weights=num_weights,
        num_parameters=sum(weight.numel() for weight in _kept(networks, target).values()),
        codebook_size=networks.architecture["codebook_size"],
        without_discriminator=bool(networks.discriminator) and not target.has_discriminator,
        agreement=_require_agreement(networks, read_back, written),
    )


def probe_images(model: VQGAN) -> Tensor:
    """Some views of photos (4, in_channels, H, H) in [-1, 1], float32, that a model can encode."""
    side = max(PROBE_SIDE, model.downsampling)
    views = [np.asarray(view.resize((side, side))) for view in sample_views()[::2]]
    images = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).float() / 127.5 - 1
    channels = model.encoder.conv_in.in_channels
    return images[:, [channel % images.shape[1] for channel in range(channels)]]


def whole_networks(checkpoint: Path) -> CheckpointWeights:
    """Read networks of which nothing is missing, and nothing infinite.

    Raises:
        CheckpointError: the checkpoint cannot be read, or is not like that.
    """
    networks = read_networks(checkpoint)
    VQGAN.from_weights(networks.architecture, networks.generator, checkpoint)
    if networks.discriminator:
        _require_discriminator(networks.discriminator, checkpoint)
    require_finite({**networks.generator, **networks.discriminator}, checkpoint)
    return networks


def _require_discriminator(weights: Mapping[str, Tensor], path: Path) -> None:
    try:
        with torch.device("meta"):
            network = PatchDiscriminator(**discriminator_architecture(weights))
    except (LookupError, ArithmeticError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} has an incomplete discriminator: {error}.") from error
    expected, found = (
        {f"discriminator.{name}": weight for name, weight in part.items()}
        for part in (network.state_dict(), weights)
    )
    advice = "Its discriminator is not all there, or not a PatchGAN's."
    LoadReport.compare(expected, found).require_fit(path, advice)


def origin(checkpoint: Path) -> dict[str, str]:
    """Where an export comes from, the same whenever it is made."""
    return {
        "source": checkpoint.name,
        "source_sha256": file_sha256(checkpoint),
        "made_by": f"vqgan_train {version('vqgan_train')}",
    }


def _kept(networks: CheckpointWeights, target: Format) -> dict[str, Tensor]:
    """The weights that a format keeps, under our full names."""
    parts = {"generator": networks.generator}
    if target.has_discriminator:
        parts["discriminator"] = networks.discriminator
    return {f"{part}.{name}": w for part, weights in parts.items() for name, w in weights.items()}


def _require_equal(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], written: Path
) -> int:
    """Compare bit by bit; 0 and -0 are not the same."""
    different = sorted(expected.keys() ^ found.keys()) + [
        name
        for name, weight in expected.items()
        if name in found and not _same_bits(weight, found[name])
    ]
    if different:
        raise ExportError(
            f"{written.name} does not hold what was to be written: {len(different)} weights "
            f"differ, {different[0]} for one. It was not kept. That is a defect of vqgan_train or "
            "of the disk; please report it."
        )
    return len(expected)


def _same_bits(first: Tensor, second: Tensor) -> bool:
    if (first.shape, first.dtype) != (second.shape, second.dtype):
        return False
    return torch.equal(first.reshape(-1).view(torch.uint8), second.reshape(-1).view(torch.uint8))


def _require_agreement(
    networks: CheckpointWeights, read_back: CheckpointWeights, written: Path
) -> Agreement:
    model = VQGAN.from_weights(networks.architecture, networks.generator, written)
    again = VQGAN.from_weights(read_back.architecture, read_back.generator, written)
    agreed = agreement(model, again, probe_images(model))
    if (
        agreed.equal_tokens < LEAST_EQUAL_TOKENS * agreed.num_tokens
        or not agreed.largest_difference < LARGEST_DIFFERENCE
    ):
        raise ExportError(
            f"{written.name} gives another model: {agreed.equal_tokens} of {agreed.num_tokens} "
            f"tokens are equal, and decoded images differ by {agreed.largest_difference:.2g}. It "
            "was not kept. That is a defect of vqgan_train; please report it."
        )
    return agreed
