"""All ranks of a run read the same data, wherever their copies lie."""

from typing import Any

from vqgan_train.data.shards import ShardError


def require_agreement(strategy: Any, fingerprints: tuple[str, ...]) -> None:
    """Check that each rank found the same; else some samples would be repeated, and others missed.

    Args:
        strategy: Lightning's, which asks the other ranks.
        fingerprints: of this rank's data.

    Raises:
        ShardError: they differ, on all ranks.
    """
    agrees = tuple(strategy.broadcast(fingerprints)) == fingerprints
    if not strategy.reduce_boolean_decision(agrees, all=True):
        raise ShardError(
            "The machines of this run do not agree on what the shards hold. Compare the copies of "
            "those that lie on each of them; of remote ones remove the count.json files in "
            "data.cache_dir. Then start again."
        )
