"""The corners of the eyes while these shut: lids draw them down, and a pose that rested on them would nod."""

from __future__ import annotations

import math

import numpy as np

from tabrt.measures.expression import frontal
from tabrt.measures.pose import Held, Pose

DROP, FULL_DROP = 0.03, 0.10  # of an eye's height: from which on its corners are held, and wholly held
FADING = 0.5  # s, time constant in which the height before fades to the present one: who looks down is no blinker
SHUT = 0.3  # share from which on nothing is learnt of corners that are held
SETTLING = 0.1  # s, time constant of what is known of corners
_UPPER, _LOWER = np.array([61, 62, 63, 71, 70, 69]), np.array([67, 66, 65, 73, 74, 75])  # right eye, left eye


class Corners:
    """Where one person's corners of the eyes are, off the mean head's, while the eyes are open.

    It needs no calibration: only what the eyes did in the last second counts.
    """

    def __init__(self) -> None:
        self._off: np.ndarray | None = None  # (2, 4) metres, as Fit.corners
        self._tops = [0.0, 0.0]  # of the open eyes, right and left, in any unit

    def held(self, points: np.ndarray, last: Pose, step: float) -> Held | None:
        """The corners of eyes that shut in points (98, 2) in frame px, `step` seconds after a pose; None where none do.

        Of a head that is turned far it is not known well how open its eyes are.
        """
        apart = (points[_UPPER] - points[_LOWER]) * last.translation[2]
        lengths = list(map(math.hypot, *apart.T.tolist()))
        heights = sum(lengths[:3]), sum(lengths[3:])
        kept = math.exp(-step / FADING)
        self._tops = [max(now, now + (top - now) * kept) for now, top in zip(heights, self._tops, strict=True)]
        drops = [1 - now / max(top, 1e-6) for now, top in zip(heights, self._tops, strict=True)]
        share = [min(max((drop - DROP) / (FULL_DROP - DROP), 0.0), 1.0) * frontal(last.yaw) for drop in drops]
        return None if self._off is None or not any(share) else Held(np.repeat(share, 2), self._off)

    def learn(self, pose: Pose, held: Held | None, step: float) -> None:
        """Take in a pose that was found with corners held so, `step` seconds after the last."""
        if self._off is None:
            self._off = pose.fit.corners
            return
        rate = 1 - math.exp(-step / SETTLING)
        share = rate if held is None else rate * (held.share < SHUT)
        self._off = self._off + (pose.fit.corners - self._off) * share
