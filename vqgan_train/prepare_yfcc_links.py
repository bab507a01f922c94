"""`python -m vqgan_train.prepare_yfcc_links`: the links in YFCC100M's records become shards."""

from vqgan_train.command import run_command
from vqgan_train.config import LinksConfig


def main() -> None:
    """Run the command."""
    run_command("prepare_yfcc_links", LinksConfig, prepare_yfcc_links)


def prepare_yfcc_links(config: LinksConfig) -> None:
    """Download what the records name."""
    from vqgan_train.download import download
    from vqgan_train.preparation.links import read_yfcc_links

    download(config, read_yfcc_links)


if __name__ == "__main__":
    main()
