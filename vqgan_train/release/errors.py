"""How a release is refused."""

from pathlib import Path

from vqgan_train.system.errors import UserError


class ReleaseError(UserError):
    """Nothing can be released like this; the message says why and what to do."""


class HolesError(ReleaseError):
    """A checkpoint of a run does not say all that a card needs.

    Args:
        checkpoint: the file.
        cause: what failed for it.
    """

    def __init__(self, checkpoint: Path, cause: Exception) -> None:
        super().__init__(
            f"{checkpoint} does not say all that a run of this version of vqgan_train would "
            f"({type(cause).__name__}: {cause}), so a model card would have holes. Release it with "
            "the version that wrote it, or export the weights alone: format=safetensors, for one."
        )


NOT_THERE = (ArithmeticError, LookupError, TypeError, AttributeError, ValueError)
"""What reading plain values raises that are not what they should be."""
