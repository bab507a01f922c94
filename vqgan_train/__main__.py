"""`python -m vqgan_train`: settings from conf/ and the command line, checked; then train."""

from vqgan_train.command import run_command
from vqgan_train.config import Config


def main() -> None:
    """Run the command."""
    run_command("train", _train)


def _train(config: Config) -> None:
    # Importing Lightning takes seconds, which nobody with a typo in a setting should wait for.
    from vqgan_train.train import train

    train(config)


if __name__ == "__main__":
    main()
