"""Decide when a failed download is tried again, and when to give up."""

import random
import time

FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 1.0, 30.0
"""Longest pause before the first retry; it doubles with each retry, up to the maximum."""


class Retries:
    """Budget of one download: it ends once enough attempts were made and enough time has passed.

    Args:
        attempts: least number of attempts.
        patience_seconds: time for which a failing download is tried again, if more attempts fit.
    """

    def __init__(self, attempts: int, patience_seconds: float) -> None:
        self.attempts = attempts
        self.patience_seconds = patience_seconds
        self.attempt = 1
        """Number of the current attempt, from 1 on."""
        self._failing_since: float | None = None

    def next_pause(self, retry_after: float = 0, failing_since: float | None = None) -> float:
        """Count a failed attempt; return the seconds to wait before the next, or -1 to give up.

        Args:
            retry_after: seconds for which the source asked to be left alone.
            failing_since: time, by `time.monotonic`, of the first failure of this download's
                source, if other downloads from it have failed before. An outage is waited for
                once, and not once for each shard.
        """
        now = time.monotonic()
        self._failing_since = min(self._failing_since or now, failing_since or now)
        longest = min(FIRST_PAUSE_SECONDS * 2 ** min(self.attempt - 1, 10), MAX_PAUSE_SECONDS)
        # Random, so that ranks spread out. The system's random numbers, because Python's own
        # belong to the run and its seed.
        pause = retry_after + longest * random.SystemRandom().uniform(0.5, 1)
        has_time = now + pause - self._failing_since <= self.patience_seconds
        if not has_time and (self.attempt >= self.attempts or retry_after > self.patience_seconds):
            return -1
        self.attempt += 1
        return pause
