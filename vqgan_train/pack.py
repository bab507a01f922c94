"""`python -m vqgan_train.pack`: pack folders of images into shards."""

from vqgan_train.cli import run_command
from vqgan_train.config.preparation import PackConfig


def main() -> None:
    """Run the command."""
    run_command("pack", PackConfig, "vqgan_train.preparation.pack:pack")


if __name__ == "__main__":
    main()
