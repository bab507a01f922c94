"""`python -m vqgan_train.export`: convert a checkpoint, or write a release with a model card."""

import logging
from dataclasses import asdict
from pathlib import Path

from vqgan_train.checkpoint import FORMATS
from vqgan_train.checkpoint.fetching import fetch_checkpoint
from vqgan_train.config import ExportConfig, ExportFormat
from vqgan_train.release.card import CardMetadata
from vqgan_train.release.conversion import Conversion, convert
from vqgan_train.release.hub import Hub
from vqgan_train.release.release_folder import Release, write_release
from vqgan_train.training.run.logs import configure_logging


def export(config: ExportConfig) -> None:
    """Write the export and log a report."""
    configure_logging()
    write = export_release if config.format == ExportFormat.release else export_weights
    logging.getLogger("vqgan_train.export").info(write(config))


def export_weights(config: ExportConfig) -> str:
    """Convert the checkpoint to one format; return the report."""
    checkpoint = fetch_checkpoint(config.checkpoint, "checkpoint")
    output = Path(config.output).expanduser()
    return report_conversion(convert(checkpoint, FORMATS[config.format.value], output))


def export_release(config: ExportConfig) -> str:
    """Write a release, and upload it if `push_to_hub` is given; return the report."""
    repository = config.push_to_hub
    hub = Hub(repository, private=config.private) if repository else None
    metadata = CardMetadata(repository=repository, **asdict(config.card))
    checkpoint = fetch_checkpoint(config.checkpoint, "checkpoint")
    release = write_release(checkpoint, Path(config.output).expanduser(), metadata)
    address = hub.upload(release.folder, release.files) if hub else None
    return report_release(release, address)


def report_conversion(conversion: Conversion) -> str:
    """List the written files and how they compare with the checkpoint."""
    files = [f"{file} ({file.stat().st_size:,} bytes)" for file in conversion.files]
    lines = ["wrote    " + "\n         ".join(files), *comparison_lines(conversion)]
    if conversion.omits_discriminator:
        lines.append("left out the discriminator, which format=taming includes")
    return "\n".join(lines)


def report_release(release: Release, address: str | None) -> str:
    """List the written files, how they compare with the checkpoint, and the upload address.

    Args:
        release: the release that was written.
        address: web address of the uploaded release; None if it was not uploaded.
    """
    files = [
        f"{release.folder / f} ({(release.folder / f).stat().st_size:,} bytes)"
        for f in release.files
    ]
    lines = ["wrote    " + "\n         ".join(files)]
    for name, conversion in release.conversions.items():
        lines += [f"\n{name}", *comparison_lines(conversion)]
    lines += [
        f"\nparts    {release.num_runs}, {release.num_runs_with_metrics} of them with metrics",
        f"hub      uploaded to {address}" if address else "hub      not uploaded",
    ]
    return "\n".join(lines)


def comparison_lines(conversion: Conversion) -> list[str]:
    """Describe how the written weights compare with the checkpoint, one property per line."""
    agreement = conversion.agreement
    return [
        f"weights  {conversion.num_weights} arrays, {conversion.num_parameters:,} numbers; read "
        "back, equal bit by bit",
        f"codes    {conversion.codebook_size:,}",
        f"tokens   {agreement.equal_tokens:,} of {agreement.num_tokens:,} equal on test images",
        f"images   decoded images differ by at most {agreement.largest_difference:.2g}",
    ]
