"""`python -m vqgan_train.export`: convert a checkpoint, or write a release with a model card."""

import logging
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from vqgan_train.checkpoint.export_formats import FORMATS
from vqgan_train.checkpoint.fetching import fetch_checkpoint
from vqgan_train.config.export import CardPictures, ExportConfig, ExportFormat
from vqgan_train.release.card import CardMetadata
from vqgan_train.release.conversion import Conversion, convert
from vqgan_train.release.hub import require_login, upload
from vqgan_train.release.onnx_graphs import ONNX_PACKAGES, export_graphs
from vqgan_train.release.release_folder import write_release
from vqgan_train.system.packages import require_packages
from vqgan_train.training.run.logs import configure_logging


def export(config: ExportConfig) -> None:
    """Write the export and log a report."""
    configure_logging()
    write = export_release if config.format == ExportFormat.release else export_weights
    logging.getLogger("vqgan_train.export").info(write(config))


def export_weights(config: ExportConfig) -> str:
    """Convert the checkpoint to one format; return a report of the files and their checks."""
    is_onnx = config.format == ExportFormat.onnx
    if is_onnx:
        require_packages("onnx", "format=onnx needs", *ONNX_PACKAGES)
    checkpoint = fetch_checkpoint(config.checkpoint, "checkpoint")
    output = Path(config.output).expanduser()
    if is_onnx:
        conversion = export_graphs(checkpoint, output, averaged=config.averaged)
    else:
        target = FORMATS[config.format.value]
        conversion = convert(checkpoint, target, output, averaged=config.averaged)
    lines = [*file_lines(conversion.files), *comparison_lines(conversion)]
    if conversion.omits_discriminator:
        lines.append("left out the discriminator, which format=taming includes")
    return "\n".join(lines)


def export_release(config: ExportConfig) -> str:
    """Write a release and upload it if `push_to_hub` is given; return a report."""
    repository = config.push_to_hub
    if repository is not None:
        require_login(repository)
    facts = asdict(config.card)
    has_pictures = facts.pop("pictures") == CardPictures.grid
    metadata = CardMetadata(repository=repository, **facts)
    checkpoint = fetch_checkpoint(config.checkpoint, "checkpoint")
    output = Path(config.output).expanduser()
    release = write_release(checkpoint, output, metadata, has_pictures=has_pictures)
    lines = file_lines([release.folder / name for name in release.files])
    for name, conversion in release.conversions.items():
        lines += [f"\n{name}", *comparison_lines(conversion)]
    lines.append(
        f"\nparts    {release.num_runs}, {release.num_runs_with_metrics} of them with metrics"
    )
    if repository is None:
        lines.append("hub      not uploaded")
    else:
        address = upload(repository, release.folder, release.files, private=config.private)
        lines.append(f"hub      uploaded to {address}")
    return "\n".join(lines)


def file_lines(files: Iterable[Path]) -> list[str]:
    """List files and their sizes."""
    first, *others = [f"{file} ({file.stat().st_size:,} bytes)" for file in files]
    return [f"wrote    {first}", *(f"         {other}" for other in others)]


def comparison_lines(conversion: Conversion) -> list[str]:
    """Describe how the written weights compare with the checkpoint, one property per line."""
    agreement = conversion.agreement
    weights = (
        f"weights  {conversion.num_weights} arrays, {conversion.num_parameters:,} numbers; read "
        "back, equal bit by bit"
    )
    return [
        *([weights] if conversion.num_weights else []),
        f"codes    {conversion.codebook_size:,}",
        f"tokens   {agreement.equal_tokens:,} of {agreement.num_tokens:,} equal on test images",
        f"images   decoded images differ by at most {agreement.largest_difference:.2g}",
    ]
