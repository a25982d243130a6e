"""Cuts: whether a picture goes on where the one before it ended."""

from __future__ import annotations

import enum
import math

import cv2
import numpy as np

CHANGED = 22.0  # grey levels of mean change of the thumbnail from which a cut is suspected …
UNCHANGED = 5.0  # … and below which there is none
FLAT = 4.0  # grey levels, standard deviation of a thumbnail that shows nothing
UNLIKE = 0.4  # correlation of the thumbnails below which it is likely: another light leaves it high, a fast pan above
THUMBNAIL = 32  # px
ALIKE = 0.8  # correlation of what two crops show from which it is one face in one place


class Change(enum.IntEnum):
    """From one picture to the next."""

    NONE = 0
    SUSPECTED = 1  # much of the picture changed: another light, a pan, or a cut
    LIKELY = 2  # hardly anything is where it was
    SIZE = 3


class Cuts:
    """Tells what changed from picture to picture: `cuts(image)`."""

    def __init__(self) -> None:
        self._thumbnail = np.empty(0)
        self._shape: tuple[int, ...] | None = None

    def __call__(self, image: np.ndarray) -> Change:
        """The change to image uint8 (H, W, 3) from the one before.

        A black or white moment is none: what comes next is held against what was.
        """
        now = _thumbnail(image)
        if self._shape != image.shape:
            first, self._shape, self._thumbnail = self._shape is None, image.shape, now
            return Change.NONE if first else Change.SIZE
        change = cv2.norm(now, self._thumbnail, cv2.NORM_L1) / now.size
        if change > UNCHANGED and now.std() < FLAT:
            return Change.NONE
        before, self._thumbnail = self._thumbnail, now
        if change > UNCHANGED and correlation(before, now) < UNLIKE:
            return Change.LIKELY
        return Change.SUSPECTED if change > CHANGED else Change.NONE


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """A grid of single pixels: enough to tell a cut, and cheap on any picture."""
    rows, columns = (max(1, length // THUMBNAIL) for length in image.shape[:2])
    return image[rows // 2 :: rows, columns // 2 :: columns].copy()


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Of two pictures (H, W, 3) of one shape, −1…1: 0 where one is of one colour."""
    (mean, spread), (other_mean, other_spread) = (cv2.meanStdDev(picture) for picture in (one, other))
    both = math.sqrt(float((spread * spread).sum()) * float((other_spread * other_spread).sum()))
    product = np.dot(one.ravel().astype(float), other.ravel().astype(float)) / (one.size / 3)
    return (float(product) - float((mean * other_mean).sum())) / both if both > 0 else 0.0


def glimpse(cut: np.ndarray) -> np.ndarray:
    """What is kept of a crop uint8 (S, S, 3), to hold the next one against it: single pixels, (32, 32, 3)."""
    step = cut.shape[0] // THUMBNAIL
    return cut[step // 2 :: step, step // 2 :: step].copy()


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two glimpses show one face in one place, in whatever light."""
    smooth = (cv2.blur(each, (3, 3)).astype(np.float32) for each in (one, other))
    return correlation(*smooth) >= ALIKE
