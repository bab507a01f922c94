"""`python -m vqgan_train.pack`: pack folders of images into shards."""

from vqgan_train.cli import run_command
from vqgan_train.config import PackConfig


def main() -> None:
    """Run the command."""
    run_command("pack", PackConfig, _run)


def _run(config: PackConfig) -> None:
    # Importing torch takes seconds; a misspelt setting is reported before that.
    from vqgan_train.preparation.pack import pack

    pack(config)


if __name__ == "__main__":
    main()
