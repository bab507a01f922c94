"""`python -m vqgan_train.prepare_cc3m`: download the images of CC3M's list of links into shards."""

from vqgan_train.cli import run_command
from vqgan_train.config.preparation import LinksConfig


def main() -> None:
    """Run the command."""
    run_command("prepare_cc3m", LinksConfig, "vqgan_train.preparation.download:prepare_cc3m")


if __name__ == "__main__":
    main()
