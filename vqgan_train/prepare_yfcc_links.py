"""`python -m vqgan_train.prepare_yfcc_links`: download YFCC100M's images into shards."""

from vqgan_train.cli import run_command
from vqgan_train.config import LinksConfig


def main() -> None:
    """Run the command."""
    run_command("prepare_yfcc_links", LinksConfig, _run)


def _run(config: LinksConfig) -> None:
    # Importing torch takes seconds; a misspelt setting is reported before that.
    from vqgan_train.preparation.download import download
    from vqgan_train.preparation.links import read_yfcc_links

    download(config, read_yfcc_links)


if __name__ == "__main__":
    main()
