"""`python -m vqgan_train.prepare_yfcc_links`: download YFCC100M's images into shards."""

from vqgan_train.cli import run_command
from vqgan_train.config.preparation import LinksConfig


def main() -> None:
    """Run the command."""
    run_command(
        "prepare_yfcc_links", LinksConfig, "vqgan_train.preparation.download:prepare_yfcc_links"
    )


if __name__ == "__main__":
    main()
