"""`python -m vqgan_train.export`: a checkpoint's networks in the format of another program."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vqgan_train.command import run_command
from vqgan_train.config import ExportConfig

if TYPE_CHECKING:
    from vqgan_train.conversion import Conversion


def main() -> None:
    """Run the command."""
    run_command("export", ExportConfig, export)


def export(config: ExportConfig) -> None:
    """Write, read back, compare, report."""
    # Importing torch takes seconds, which nobody with a typo in a setting should wait for.
    import logging
    from pathlib import Path

    from vqgan_train.checkpoint import FORMATS
    from vqgan_train.conversion import convert
    from vqgan_train.runtime import configure_logging

    configure_logging()
    made = convert(Path(config.checkpoint), FORMATS[config.format.value], Path(config.output))
    logging.getLogger("vqgan_train.export").info(report(made))


def report(made: Conversion) -> str:
    """Say what lies where, and how it compares with the checkpoint."""
    agreement = made.agreement
    files = [f"{file} ({file.stat().st_size:,} bytes)" for file in made.files]
    lines = [
        "wrote    " + "\n         ".join(files),
        f"weights  {made.num_weights} arrays, {made.num_parameters:,} numbers; read back, equal to "
        "the bit",
        f"codes    {made.codebook_size:,}",
        f"tokens   {agreement.equal_tokens:,} of {agreement.num_tokens:,} equal on test images",
        f"images   decoded, they differ by {agreement.largest_difference:.2g} at most",
    ]
    if made.without_discriminator:
        lines.append("left out the discriminator, which format=taming takes along")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
