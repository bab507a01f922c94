"""`python -m vqgan_train.encode`: encode images into tokens."""

from vqgan_train.cli import run_command
from vqgan_train.config import EncodeConfig


def main() -> None:
    """Run the command."""
    run_command("encode", EncodeConfig, _run)


def _run(config: EncodeConfig) -> None:
    # Importing torch takes seconds; a misspelt setting is reported before that.
    from vqgan_train.tokens.encode import encode

    encode(config)


if __name__ == "__main__":
    main()
