"""`python -m vqgan_train.prepare_yfcc`: pack YFCC100M's records and images into shards."""

from vqgan_train.cli import run_command
from vqgan_train.config.preparation import PrepareYfccConfig


def main() -> None:
    """Run the command."""
    run_command(
        "prepare_yfcc", PrepareYfccConfig, "vqgan_train.preparation.prepare_yfcc:prepare_yfcc"
    )


if __name__ == "__main__":
    main()
