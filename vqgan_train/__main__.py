"""`python -m vqgan_train`: train, with settings from conf/ and the command line."""

import os
import sys

from vqgan_train.cli import run_command
from vqgan_train.config.run import Config
from vqgan_train.system.launch import rank_of


def main() -> None:
    """Run the command."""
    run_command("train", Config, "vqgan_train.__main__:train")


def train(config: Config) -> None:
    """Print a line at once, because importing Lightning takes seconds; then train."""
    if rank_of(os.environ) == 0:
        sys.stdout.write("starting vqgan_train\n")
        sys.stdout.flush()
    from vqgan_train.training.train import train

    train(config)


if __name__ == "__main__":
    main()
