"""`python -m vqgan_train.check_data`: find damaged shards and images before training."""

from vqgan_train.cli import run_command
from vqgan_train.config.preparation import CheckDataConfig


def main() -> None:
    """Run the command."""
    run_command("check_data", CheckDataConfig, _run)


def _run(config: CheckDataConfig) -> None:
    # Importing torch takes seconds; a misspelt setting is reported before that.
    from vqgan_train.preparation.check.check_data import check_data

    check_data(config)


if __name__ == "__main__":
    main()
