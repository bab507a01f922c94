"""`python -m vqgan_train.select`: select samples of several sources and copy them to new shards."""

from vqgan_train.cli import run_command
from vqgan_train.config.preparation import SelectConfig


def main() -> None:
    """Run the command."""
    run_command("select", SelectConfig, "vqgan_train.preparation.select:select")


if __name__ == "__main__":
    main()
