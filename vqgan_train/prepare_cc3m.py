"""`python -m vqgan_train.prepare_cc3m`: CC3M's list of links becomes shards."""

from vqgan_train.command import run_command
from vqgan_train.config import LinksConfig


def main() -> None:
    """Run the command."""
    run_command("prepare_cc3m", LinksConfig, prepare_cc3m)


def prepare_cc3m(config: LinksConfig) -> None:
    """Download what the TSV names."""
    from vqgan_train.download import download
    from vqgan_train.preparation.links import read_cc3m

    download(config, read_cc3m)


if __name__ == "__main__":
    main()
