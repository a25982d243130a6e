"""Carries heads along with what they show, by optical flow, to pictures in which nobody sees them.

A profile at the picture's edge, or a face behind a hand, is found a moment sooner or later than it is there.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from tabrt.geometry import Crop
from tabrt.hiding.regions import Region
from tabrt.hiding.sightings import Head, Heads, Moment
from tabrt.tracking import correlation

LONGEST = 320  # px of the pictures in which it is done
POINTS = 8  # along a region, that are followed
STEADY = 1.0  # px: a point that does not come back so near to where it was is lost (Kalal et al. 2010, §2)
ENOUGH = 0.4  # of the points
FEWEST = 12  # of them in the picture
ALIKE = 0.5  # correlation of what a region shows with what it showed where it was seen
PATCH = 32  # px in which that is looked at
RESIZED = (0.9, 1.1)  # from picture to picture
WINDOW = (15, 15)  # px of the flow about each point


@dataclass(frozen=True, eq=False)
class Glance:
    """A picture, small, at its moment."""

    moment: Moment
    image: np.ndarray  # uint8 (h, w, 3)
    grey: np.ndarray
    scale: float  # of the picture

    @classmethod
    def at(cls, image: np.ndarray, moment: Moment) -> Glance:
        scale = min(1.0, LONGEST / max(image.shape[:2]))
        size = tuple(max(1, round(length * scale)) for length in image.shape[1::-1])
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return cls(moment, small, cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), scale)

    def shows(self, region: Region) -> np.ndarray:
        """(PATCH, PATCH, 3): what a region shows."""
        crop = Crop(region.centre, region.side, region.roll, size=PATCH)
        matrix = crop.matrix
        matrix[:, :2] /= self.scale
        return cv2.warpAffine(self.image, matrix, (PATCH, PATCH), borderMode=cv2.BORDER_REPLICATE)


class Carrying:
    """Carries the heads of a film: `carrying(image, moment, heads)` after it was noted who is seen there.

    Forwards from where a head was last seen, and back from where it was first seen; never past a cut, and only as long
    as what it showed is found again.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._glances: deque[Glance] = deque()

    def __call__(self, image: np.ndarray, moment: Moment, heads: Heads) -> None:
        now = Glance.at(image, moment)
        while self._glances and not self._glances[0].moment.reaches(moment, self._seconds):
            self._glances.popleft()
        self._glances.append(now)
        for head in heads:
            if not head.believed or not head.reach:
                continue
            if head.seen(moment) is None:
                self._forwards(head)
            elif not head.traced:
                head.traced = True
                self._back(head)

    def _forwards(self, head: Head) -> None:
        last, region = head.sightings[-1]
        if len(self._glances) < 2 or not last.reaches(self._glances[-1].moment, head.reach):
            return
        before, now = self._glances[-2], self._glances[-1]
        here = head.carried.get(before.moment.number) or head.seen(before.moment)
        seen = next((each for each in self._glances if each.moment.number == last.number), None)
        if here is not None and seen is not None:
            there = carried(here, before, now)
            if there is not None and _alike(seen.shows(region), now.shows(there)):
                head.carried[now.moment.number] = there

    def _back(self, head: Head) -> None:
        first, region = head.sightings[0]
        until = [each for each in self._glances if each.moment.number <= first.number]
        if not until or until[-1].moment.number != first.number:
            return
        shown, here = until[-1].shows(region), region
        for now, before in pairwise(reversed(until)):
            there = carried(here, now, before) if first.reaches(before.moment, head.reach) else None
            if there is None or not _alike(shown, before.shows(there)):
                return
            head.carried.setdefault(before.moment.number, there)
            here = there


def carried(region: Region, here: Glance, there: Glance) -> Region | None:
    """Where what a region holds in one picture is in another, small and not long after; None where it is not found."""
    points = region.grid(POINTS) * here.scale
    points = points[((points >= 0) & (points <= np.array(here.grey.shape[::-1]) - 1)).all(axis=1)].astype(np.float32)
    if len(points) < FEWEST or here.grey.shape != there.grey.shape:
        return None
    moved, found = _flow(here, there, points)
    back, returned = _flow(there, here, moved)
    kept = found & returned & (np.linalg.norm(back - points, axis=1) < STEADY)
    if kept.mean() < ENOUGH:
        return None
    points, moved = points[kept], moved[kept]
    middle = np.median(moved - points, axis=0) / here.scale
    spread = np.median(np.linalg.norm(points - np.median(points, axis=0), axis=1))
    now = np.median(np.linalg.norm(moved - np.median(moved, axis=0), axis=1))
    resized = float(np.clip(now / max(spread, 1e-3), *RESIZED))
    return region.moved(middle).grown(resized)


def _flow(here: Glance, there: Glance, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where points (N, 2) went, and which were found (N,)."""
    moved, found, _ = cv2.calcOpticalFlowPyrLK(here.grey, there.grey, points, np.empty(0), winSize=WINDOW)
    return np.asarray(moved), np.asarray(found).ravel() > 0


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    return correlation(one.astype(np.float32), other.astype(np.float32)) >= ALIKE
