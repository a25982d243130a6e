"""Faces made from the mean head: turned, moved, mirrored, and with an expression."""

from __future__ import annotations

import numpy as np

from tabrt.faces import Face, Frame, Scene
from tabrt.geometry import Box
from tabrt.measures import Lens, Person, Sight, rotation_of
from tabrt.measures.head import EYE_DISTANCE, HEAD, marked
from tabrt.topology import WFLW98

LENS = Lens.usual(640, 480)
SURE = np.full(98, 0.9)
AHEAD = (0.0, 0.0, 0.6)  # m


def seen(
    yaw: float = 0, pitch: float = 0, roll: float = 0, at: tuple[float, float, float] = AHEAD, head: np.ndarray = HEAD
) -> np.ndarray:
    """Where a head's points (98, 3) are marked: turned by angles against the camera's axes."""
    rotation = rotation_of(yaw, pitch, roll)
    sight = rotation.T @ at / np.linalg.norm(at)
    placed = (head + marked(sight) - HEAD) @ rotation.T + at
    return placed[:, :2] / placed[:, 2:] * LENS.focal + LENS.centre


def changed(*moves: tuple[tuple[int, ...], tuple[float, float]]) -> np.ndarray:
    """The mean head with some points moved by (x, y), in eye distances to the picture's right and down."""
    head = HEAD.copy()
    for points, move in moves:
        head[list(points), :2] += np.multiply(move, EYE_DISTANCE)
    return head


UPPER_LIDS, LOWER_LIDS = (61, 62, 63), (67, 66, 65)  # of the person's right eye, the picture's left


def shut_eye(right: bool) -> np.ndarray:
    head = HEAD.copy()
    upper, lower = (np.array(UPPER_LIDS), np.array(LOWER_LIDS))
    if not right:
        upper, lower = WFLW98.mirror[upper], WFLW98.mirror[lower]
    middle = (head[upper, 1] + head[lower, 1]) / 2
    head[upper, 1], head[lower, 1] = (middle + (head[side, 1] - middle) * 0.5 for side in (upper, lower))
    return head


def mirrored(points: np.ndarray) -> np.ndarray:
    """The points of a face whose picture, 640 px wide, was mirrored."""
    return points[WFLW98.mirror] * (-1, 1) + (639, 0)


def calm() -> Person:
    """A person whose neutral face is the mean head."""
    person = Person()
    person.read(seen(), SURE, person.pose(seen(), SURE, LENS, -1.0), -1.0)
    person.be_neutral()
    return person


def looking(x: float, y: float) -> np.ndarray:
    """The mean head with both pupils moved to the picture's right and down, in millimetres."""
    return changed(((96, 97), (x / 1000 / EYE_DISTANCE, y / 1000 / EYE_DISTANCE)))


def face(points: np.ndarray, number: int = 1, person: Person | None = None, time: float = 0.0) -> Face:
    """A face of 98 points in a picture of 640×480 px, of a person whose neutral face is the mean head."""
    sight = Sight(LENS, person or calm(), time, time)
    return Face(number, points, points, SURE, Box.of(points, 0.9), sight=sight)


def scene(*faces: Face, index: int = 0, time: float = 0.0) -> Scene:
    return Scene(Frame(np.zeros((480, 640, 3), np.uint8), index, time), faces)
