"""`python -m vqgan_train.select`: chosen samples become training and validation shards."""

from vqgan_train.command import run_command
from vqgan_train.config import SelectConfig


def main() -> None:
    """Run the command."""
    run_command("select", SelectConfig, select)


def select(config: SelectConfig) -> None:
    """Make the selection."""
    from vqgan_train.make_selection import make_selection

    make_selection(config)


if __name__ == "__main__":
    main()
