"""Boxes and crops.

Convention, used everywhere in tabrt: points are (x, y) in pixels of the frame, pixel centres at whole
numbers, origin at the top left pixel's centre; angles in radians, positive turning x towards y (clockwise
on the screen); times in seconds. Nothing here is ever rounded to whole pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

CROP_SIZE = 256  # px, side of the square that a network looks at, unless its card says another
HEATMAP_SIZE = 64  # cells, side of its output maps
STRIDE = CROP_SIZE // HEATMAP_SIZE  # crop px per cell, of every network
CROP_SIZES = range(64, 513, 64)  # px: 64 is the least that the hourglasses can halve six times
assert STRIDE * HEATMAP_SIZE == CROP_SIZE


@dataclass(frozen=True)
class Box:
    """An upright or rolled rectangle, in frame pixels. `roll` turns it about its own centre."""

    left: float
    top: float
    right: float
    bottom: float
    score: float = 1.0
    roll: float = 0.0

    @property
    def centre(self) -> tuple[float, float]:
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top

    @classmethod
    def of(cls, points: np.ndarray, score: float = 1.0) -> Box:
        """The upright box of points (L, 2)."""
        (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        return cls(left, top, right, bottom, float(score))

    def overlap(self, other: Box) -> float:
        """Intersection over union, both boxes taken upright."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        if width <= 0 or height <= 0:
            return 0.0
        both = width * height
        return both / (self.width * self.height + other.width * other.height - both)


@dataclass(frozen=True)
class Crop:
    """A square of the frame, turned by `roll`, that becomes the network's picture of `size`×`size` px.

    One object moves pixels (`cut`) and points (`to_crop`, `to_frame`), so the two cannot disagree. Where the frame's
    pixels are not square, it is a square as they are shown, and `side` counts them from top to bottom.
    """

    centre: tuple[float, float]  # frame px
    side: float  # frame px
    roll: float = 0.0  # radians
    pixel_aspect: float = 1.0  # width of a frame pixel over its height
    size: int = CROP_SIZE  # crop px

    @classmethod
    def around(cls, box: Box, margin: float = 1.25, size: int = CROP_SIZE) -> Crop:
        """The crop of a face box: its centre, and `margin` times its longer side."""
        return cls(box.centre, margin * max(box.width, box.height), box.roll, size=size)

    @classmethod
    def following(cls, points: np.ndarray, roll: float = 0.0, margin: float = 1.25, size: int = CROP_SIZE) -> Crop:
        """The crop for the frame after the one in which a face had these points (L, 2).

        The box is measured in the face's own upright frame, so a rolled face keeps its size.
        """
        cos, sin = math.cos(roll), math.sin(roll)
        box = Box.of(points @ np.array([[cos, -sin], [sin, cos]]))
        x, y = box.centre
        return cls((cos * x - sin * y, sin * x + cos * y), margin * max(box.width, box.height), float(roll), size=size)

    @property
    def matrix(self) -> np.ndarray:
        """(2, 3): frame px to crop px."""
        scale, (x, y), middle = self.size / self.side, self.centre, (self.size - 1) / 2
        cos, sin = scale * math.cos(self.roll), scale * math.sin(self.roll)
        across, down = cos * self.pixel_aspect, -sin * self.pixel_aspect
        return np.array([[across, sin, middle - across * x - sin * y], [down, cos, middle - down * x - cos * y]])

    @cached_property
    def _inverse(self) -> np.ndarray:
        """(2, 3): crop px to frame px."""
        scale, (x, y), middle = self.side / self.size, self.centre, (self.size - 1) / 2
        cos, sin = scale * math.cos(self.roll), scale * math.sin(self.roll)
        right, up = cos / self.pixel_aspect, sin / self.pixel_aspect
        return np.array([[right, -up, x - (right - up) * middle], [sin, cos, y - (sin + cos) * middle]])

    def to_crop(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 2) in frame px, to crop px."""
        matrix = self.matrix
        return points @ matrix[:, :2].T + matrix[:, 2]

    def to_frame(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 2) in crop px, to frame px."""
        return (points - (self.size - 1) / 2) @ self._inverse[:, :2].T + np.asarray(self.centre)

    def cut(self, image: np.ndarray, out: np.ndarray | None = None, border: int = cv2.BORDER_CONSTANT) -> np.ndarray:
        """Cut image uint8 (H, W, 3) BGR to uint8 (size, size, 3) RGB, into `out` if given.

        border: what is seen beyond the frame, by OpenCV's names; black, unless told.
        """
        part, inverse = self._seen(image)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(part, inverse, (self.size, self.size), dst=out, flags=flags, borderMode=border)

    def _seen(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The part of an image that the crop sees, in RGB, and `_inverse` to its pixels.

        It is halved until bilinear sampling skips no pixels, or it would alias. A copy in any case: a warp reads here
        and there, which is slow in memory that is in no cache yet.
        """
        halvings = int(math.log2(max(1.0, self.side / self.size)))
        shrink = 2**halvings
        reach = self.side / 2 * (abs(math.cos(self.roll)) + abs(math.sin(self.roll))) + shrink
        left, right = _span(self.centre[0], reach / self.pixel_aspect, image.shape[1], shrink)
        top, bottom = _span(self.centre[1], reach, image.shape[0], shrink)
        if right <= left or bottom <= top:
            return cv2.cvtColor(image, cv2.COLOR_BGR2RGB), self._inverse
        part = image[top:bottom, left:right]
        for _ in range(halvings):  # by three or four at once OpenCV takes five times as long
            part = cv2.resize(part, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        # The centre of small pixel 0 lies (shrink - 1) / 2 into the part.
        inside = (shrink - 1) / 2
        inverse = (self._inverse - [[0, 0, left + inside], [0, 0, top + inside]]) / shrink
        return cv2.cvtColor(part, cv2.COLOR_BGR2RGB), inverse


def _span(centre: float, reach: float, size: int, multiple: int) -> tuple[int, int]:
    """The whole pixels within reach of centre, a multiple of `multiple` long, inside 0…size."""
    low = max(0, math.floor(centre - reach))
    high = min(size, math.ceil(centre + reach) + 1)
    return low, low + max(0, high - low) // multiple * multiple
