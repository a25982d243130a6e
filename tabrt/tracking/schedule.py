"""When to let the detector look: it costs as much as the network, and mostly finds what is known already."""

from __future__ import annotations

import math

SEARCH_SECONDS = 0.5  # between searches while fewer faces are followed than asked for …
CHECK_SECONDS = 2.0  # … and when all are
MAX_WAIT = 60  # frames between searches at most …
LOST_WAIT = 4  # … and while one is lost that may come back


class Schedule:
    """Searches soon after something changed, and then less and less often."""

    def __init__(self) -> None:
        self.wake()

    def wake(self) -> None:
        """Search with the next frame."""
        self._wait, self._waited, self._searched = 1, MAX_WAIT, -math.inf

    def is_due(self, now: float, wanting: bool, lost: bool, doubtful: bool) -> bool:
        """Whether to search in this frame, at `now` s. To be asked once a frame.

        wanting: fewer faces are followed than asked for. lost: one may come back. doubtful: one waits to be confirmed.
        """
        self._waited += 1
        elapsed = now - self._searched
        if doubtful:
            return True
        if not wanting:
            return elapsed >= CHECK_SECONDS or self._waited > MAX_WAIT
        return self._waited >= min(self._wait, LOST_WAIT if lost else MAX_WAIT) or elapsed >= SEARCH_SECONDS

    def searched(self, now: float, found: bool) -> None:
        """A search was made; where one face was found there may be more."""
        self._wait = 1 if found else min(2 * self._wait, MAX_WAIT)
        self._waited, self._searched = 0, now
