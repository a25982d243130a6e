"""Where a face is hidden: a rounded shape about its head, turned with it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from tabrt.geometry import Box

FOREHEAD = 0.35  # face sides above the brows, where the points end
NARROWEST = 0.8  # of a head's width over its height: a profile's points leave out the back of the head
INNER = 0.7  # of a region's half sides: where it is sampled
POWER = 2.5  # of the superellipse: 2 is an ellipse, whose corners would cut off jaws and temples


@dataclass(frozen=True)
class Region:
    """A superellipse in frame px, turned by `roll` radians about its centre."""

    centre: tuple[float, float]
    half: tuple[float, float]  # of its sides: across and down the face
    roll: float = 0.0

    @classmethod
    def of(cls, points: np.ndarray, roll: float, margin: float) -> Region:
        """The region of a head with points (N, 2), turned by roll.

        It holds all points, the forehead, and `margin` face sides more on every side, for ears and hair.
        """
        upright = points @ _turn(roll)
        low, high = upright.min(axis=0), upright.max(axis=0)
        side = max(float((high - low).max()), 1.0)
        low, high = low - (margin * side, (FOREHEAD + margin) * side), high + margin * side
        half = (high - low) / 2
        half[0] = max(half[0], NARROWEST * half[1])
        centre = (low + high) / 2
        half *= max(1.0, float(_radius((upright - centre) / half).max()))
        x, y = (_turn(roll) @ centre).tolist()
        return cls((x, y), (float(half[0]), float(half[1])), roll)

    @classmethod
    def around(cls, box: Box, margin: float) -> Region:
        """The region of a head whose points lie in a box, rolled, as a detector gives it."""
        # Points fill an ellipse of their box, about: its corners are empty.
        middles = np.array([(box.width, 0), (-box.width, 0), (0, box.height), (0, -box.height)]) / 2
        rounded = (corners(box) - box.centre) * 0.8
        return cls.of(np.concatenate([rounded, middles @ _turn(box.roll).T]) + box.centre, box.roll, margin)

    @property
    def side(self) -> float:
        """The longer one, px."""
        return 2 * max(self.half)

    def grown(self, factor: float) -> Region:
        return replace(self, half=(self.half[0] * factor, self.half[1] * factor))

    def moved(self, by: np.ndarray) -> Region:
        return replace(self, centre=(self.centre[0] + float(by[0]), self.centre[1] + float(by[1])))

    def towards(self, other: Region, share: float) -> Region:
        """The region at this share 0…1 of the way to another."""
        centre, half = (
            (np.array(mine) * (1 - share) + np.array(its) * share).tolist()
            for mine, its in ((self.centre, other.centre), (self.half, other.half))
        )
        turn = math.remainder(other.roll - self.roll, math.tau)
        return Region((centre[0], centre[1]), (half[0], half[1]), self.roll + share * turn)

    def grid(self, count: int) -> np.ndarray:
        """(count², 2): points spread over what lies well inside."""
        places = np.linspace(-INNER, INNER, count)
        square = np.stack(np.meshgrid(places, places), axis=-1).reshape(-1, 2)
        spread: np.ndarray = square * self.half @ _turn(self.roll).T + self.centre
        return spread

    def radius(self, points: np.ndarray) -> np.ndarray:
        """How far points (N, 2) lie from the centre, in the region's own size: (N,), 1 on its edge."""
        return _radius((points - self.centre) @ _turn(self.roll) / self.half)

    def holds(self, place: tuple[float, float]) -> bool:
        """Whether a place lies inside."""
        return bool(self.radius(np.array([place]))[0] <= 1)

    def is_of(self, box: Box) -> bool:
        """Whether a detector's box is of this head: centred in it, and not of something larger about it."""
        return box.width <= self.side and self.holds(box.centre)


def corners(box: Box) -> np.ndarray:
    """(4, 2): where the corners of a rolled box are."""
    upright = np.array([(x, y) for x in (box.left, box.right) for y in (box.top, box.bottom)])
    turned: np.ndarray = (upright - box.centre) @ _turn(box.roll).T + box.centre
    return turned


def rounded(ratio: tuple[float, float], size: int, reach: float, power: float = POWER) -> np.ndarray:
    """(size, size): the radius at each cell of a square that is `reach` times as wide as a region's longer side.

    ratio: the region's half sides over the longer one. power: of the superellipse; infinite is a rectangle.
    """
    places = (np.arange(size) - (size - 1) / 2) * (2 * reach / size)
    x, y = np.meshgrid(places / ratio[0], places / ratio[1])
    return _radius(np.stack([x, y], axis=-1), power)


def _turn(roll: float) -> np.ndarray:
    """(2, 2): from the axes of a face turned by roll to the picture's; `points @ turn` goes the other way."""
    cos, sin = math.cos(roll), math.sin(roll)
    return np.array([[cos, -sin], [sin, cos]])


def _radius(places: np.ndarray, power: float = POWER) -> np.ndarray:
    radius: np.ndarray = np.linalg.norm(places, ord=power, axis=-1)
    return radius
