"""Weights of a training that diverged are refused."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from vqgan_train.checkpoint.errors import CheckpointError


def require_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights of which one is infinite or no number.

    Raises:
        CheckpointError: there are such; it names the first.
    """
    infinite = [name for name, weight in weights.items() if not weight.isfinite().all()]
    if infinite:
        raise CheckpointError(
            f"{path} has numbers that are infinite or no numbers in {len(infinite)} of its "
            f"{len(weights)} weights, {infinite[0]} for one: its training diverged. Take an "
            "earlier checkpoint."
        )
