"""`python -m vqgan_train.check_data`: find damaged shards and images before training."""

from vqgan_train.cli import run_command
from vqgan_train.config.preparation import CheckDataConfig


def main() -> None:
    """Run the command."""
    run_command(
        "check_data", CheckDataConfig, "vqgan_train.preparation.check.check_data:check_data"
    )


if __name__ == "__main__":
    main()
