"""`python -m vqgan_train.decode`: decode tokens into pictures."""

from vqgan_train.cli import run_command
from vqgan_train.config.tokens import DecodeConfig


def main() -> None:
    """Run the command."""
    run_command("decode", DecodeConfig, "vqgan_train.tokens.decode:decode")


if __name__ == "__main__":
    main()
