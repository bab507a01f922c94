"""`python -m vqgan_train.encode`: encode images into tokens."""

from vqgan_train.cli import run_command
from vqgan_train.config.tokens import EncodeConfig


def main() -> None:
    """Run the command."""
    run_command("encode", EncodeConfig, "vqgan_train.tokens.encode:encode")


if __name__ == "__main__":
    main()
