"""`python -m vqgan_train.export`: a checkpoint's networks in the format of another program."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

from vqgan_train.checkpoint import FORMATS
from vqgan_train.checkpoint.fetching import fetch_checkpoint
from vqgan_train.config import ExportConfig, ExportFormat
from vqgan_train.release.choices import Choices
from vqgan_train.release.conversion import Conversion, convert
from vqgan_train.release.hub import Hub
from vqgan_train.release.release_folder import Release, write_release
from vqgan_train.training.run.logs import configure_logging


def export(config: ExportConfig) -> None:
    """Write, read back, compare, report."""
    # Importing torch takes seconds, which nobody with a typo in a setting should wait for.

    configure_logging()
    write = export_release if config.format == ExportFormat.release else export_weights
    logging.getLogger("vqgan_train.export").info(write(config))


def export_weights(config: ExportConfig) -> str:
    """Write one format; what to say of it."""
    checkpoint = fetch_checkpoint(config.checkpoint, "checkpoint")
    made = convert(checkpoint, FORMATS[config.format.value], Path(config.output).expanduser())
    return report(made)


def export_release(config: ExportConfig) -> str:
    """Write a release, and upload it if that was asked for; what to say of it."""
    repository = config.push_to_hub
    hub = Hub(repository, private=config.private) if repository else None
    choices = Choices(repository=repository, **asdict(config.card))
    checkpoint = fetch_checkpoint(config.checkpoint, "checkpoint")
    release = write_release(checkpoint, Path(config.output).expanduser(), choices)
    address = hub.upload(release.folder, release.files) if hub else None
    return report_release(release, address)


def report(made: Conversion) -> str:
    """Say what lies where, and how it compares with the checkpoint."""
    files = [f"{file} ({file.stat().st_size:,} bytes)" for file in made.files]
    lines = ["wrote    " + "\n         ".join(files), *compared(made)]
    if made.without_discriminator:
        lines.append("left out the discriminator, which format=taming takes along")
    return "\n".join(lines)


def compared(made: Conversion) -> list[str]:
    """Say how what was written compares with the checkpoint."""
    agreement = made.agreement
    return [
        f"weights  {made.num_weights} arrays, {made.num_parameters:,} numbers; read back, equal to "
        "the bit",
        f"codes    {made.codebook_size:,}",
        f"tokens   {agreement.equal_tokens:,} of {agreement.num_tokens:,} equal on test images",
        f"images   decoded, they differ by {agreement.largest_difference:.2g} at most",
    ]


def report_release(release: Release, address: str | None) -> str:
    """Say what lies where, how it compares with the checkpoint, and who can see it."""
    files = [
        f"{release.folder / f} ({(release.folder / f).stat().st_size:,} bytes)"
        for f in release.files
    ]
    lines = ["wrote    " + "\n         ".join(files)]
    for name, made in release.conversions.items():
        lines += [f"\n{name}", *compared(made)]
    lines += [
        f"\nparts    {release.num_parts}, metrics of {release.num_parts_with_metrics}",
        f"hub      uploaded to {address}" if address else "hub      nothing was uploaded",
    ]
    return "\n".join(lines)
