"""The tracker's own time: that of the frames where they have one."""

from __future__ import annotations

import logging
import math

from tabrt.tracking.frames import NOMINAL_STEP

LONG_STEP = 5.0  # s between frames: no film, but what milliseconds look like
LONG_STEPS = 3  # such steps in a row are said

log = logging.getLogger("tabrt")


class Clock:
    """Seconds that only go forward: `clock(frame.time)`.

    in_seconds: the times are known to be, so that nobody has to be told that they are to be.
    """

    def __init__(self, in_seconds: bool = False) -> None:
        self._in_seconds = in_seconds
        self.now = 0.0
        self._time: float | None = None
        self._long = 0  # steps in a row; negative once that has been said

    def __call__(self, time: float) -> float:
        """Move on by the frames' own times, or nominally where those do not advance or are not numbers."""
        step = NOMINAL_STEP
        if self._time is not None and math.isfinite(time) and time > self._time:
            step = time - self._time
            self._notice(step)
        self._time = time if math.isfinite(time) else self._time
        self.now += step
        return self.now

    def _notice(self, step: float) -> None:
        """Times in milliseconds would switch smoothing off, and nobody would know why."""
        if self._long < 0:
            return
        self._long = self._long + 1 if step >= LONG_STEP else 0
        if self._long == LONG_STEPS:
            self._long = -1
            advice = "" if self._in_seconds else ": times are seconds; if these are milliseconds, divide them by 1000"
            log.warning("frames come %g s apart, too far for smoothing%s", step, advice)
