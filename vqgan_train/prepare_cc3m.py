"""`python -m vqgan_train.prepare_cc3m`: download the images of CC3M's list of links into shards."""

from vqgan_train.cli import run_command
from vqgan_train.config import LinksConfig


def main() -> None:
    """Run the command."""
    run_command("prepare_cc3m", LinksConfig, _run)


def _run(config: LinksConfig) -> None:
    # Importing torch takes seconds; a misspelt setting is reported before that.
    from vqgan_train.preparation.download import download
    from vqgan_train.preparation.links import read_cc3m

    download(config, read_cc3m)


if __name__ == "__main__":
    main()
