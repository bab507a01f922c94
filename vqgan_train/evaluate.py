"""`python -m vqgan_train.evaluate`: measure checkpoints on the same images, side by side."""

from vqgan_train.cli import run_command
from vqgan_train.config.evaluation import EvaluateConfig


def main() -> None:
    """Run the command."""
    run_command("evaluate", EvaluateConfig, "vqgan_train.evaluation.evaluate:evaluate")


if __name__ == "__main__":
    main()
