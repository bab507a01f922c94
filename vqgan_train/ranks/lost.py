"""What to say when another rank of the run is gone."""

from collections.abc import Iterator
from contextlib import contextmanager

from vqgan_train.ranks.errors import GONE, is_of_lost_rank
from vqgan_train.ranks.launch import LostRankError
from vqgan_train.ranks.log import RankLog
from vqgan_train.runtime import first_line


@contextmanager
def lost_ranks_named(rank_log: RankLog) -> Iterator[None]:
    """Say that another rank is gone, instead of what the connection to it noticed.

    Args:
        rank_log: this rank's; the others' lie beside it.

    Raises:
        LostRankError: one is.
    """
    try:
        yield
    except Exception as error:
        if not is_of_lost_rank(error):
            raise
        raise LostRankError(
            "Another rank of the run is gone, so this one ends, too. Why it went is said by that "
            f"rank: above, or at the end of its log among {rank_log.place}; one that was "
            "killed says nothing (out of memory?). The same command goes on from the newest "
            f"checkpoint.{_notice(error)}"
        ) from error


def _notice(error: Exception) -> str:
    """What else it may be, where no connection ended: an address that is taken, say."""
    if GONE.search(str(error)):
        return ""
    return f" What this rank noticed: {first_line(error)[:300]}"
