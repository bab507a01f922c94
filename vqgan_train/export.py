"""`python -m vqgan_train.export`: write a checkpoint for other programs."""

from vqgan_train.cli import run_command
from vqgan_train.config import ExportConfig


def main() -> None:
    """Run the command."""
    run_command("export", ExportConfig, _run)


def _run(config: ExportConfig) -> None:
    # Importing torch takes seconds; a misspelt setting is reported before that.
    from vqgan_train.release.export import export

    export(config)


if __name__ == "__main__":
    main()
