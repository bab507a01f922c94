"""`python -m vqgan_train.export`: write a checkpoint for other programs."""

from vqgan_train.cli import run_command
from vqgan_train.config.export import ExportConfig


def main() -> None:
    """Run the command."""
    run_command("export", ExportConfig, "vqgan_train.release.export:export")


if __name__ == "__main__":
    main()
