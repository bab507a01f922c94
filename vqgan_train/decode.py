"""`python -m vqgan_train.decode`: decode tokens into pictures."""

from vqgan_train.cli import run_command
from vqgan_train.config import DecodeConfig


def main() -> None:
    """Run the command."""
    run_command("decode", DecodeConfig, _run)


def _run(config: DecodeConfig) -> None:
    # Importing torch takes seconds; a misspelt setting is reported before that.
    from vqgan_train.tokens.decode import decode

    decode(config)


if __name__ == "__main__":
    main()
