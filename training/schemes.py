"""Labels in other schemes teach a network of 98 points: exact points as they are, curves by their nearest place.

What a scheme does not mark is distilled from the network that training starts from, where that is sure, or masked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tabrt.engines import Engine
from tabrt.topology import AFLW19, COFW29, IBUG68, WFLW98, Topology
from training.relabel import mean_points
from training.sets import FaceSet

_SURE = 0.3  # confidence below which nothing is learnt from what a network says of a point
_DENSE = 12  # places on a curve between two of its points


@dataclass(frozen=True)
class Scheme:
    """Which wflw98 points a scheme marks, as {wflw98: its own}, and which lie on a curve through several of its own."""

    exact: dict[int, int]
    curves: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()  # (wflw98 points, the curve they lie on)


def _run(first: int, own: int, count: int) -> dict[int, int]:
    return {first + i: own + i for i in range(count)}


SCHEMES = {
    IBUG68: Scheme(
        exact={
            **{2 * i: i for i in range(17)}, **_run(51, 27, 9), **_run(76, 48, 20),
            33: 17, 36: 20, 43: 23, 46: 26, 60: 36, 64: 39, 68: 42, 72: 45,
        },
        curves=(
            *(((2 * i + 1,), (i, i + 1)) for i in range(16)),
            ((34, 35), (17, 18, 19, 20)), ((44, 45), (23, 24, 25, 26)),
            ((61, 62, 63), (36, 37, 38, 39)), ((65, 66, 67), (39, 40, 41, 36)),
            ((69, 70, 71), (42, 43, 44, 45)), ((73, 74, 75), (45, 46, 47, 42)),
        ),
    ),
    COFW29: Scheme(
        exact={
            33: 0, 46: 1, 60: 8, 64: 10, 68: 11, 72: 9, 62: 12, 66: 13, 70: 14, 74: 15, 96: 16, 97: 17,
            55: 18, 59: 19, 54: 20, 57: 21, 76: 22, 82: 23, 79: 24, 90: 25, 94: 26, 85: 27, 16: 28,
        },
    ),
    # Its nose and lips are marked elsewhere than wflw98's, or in between.
    AFLW19: Scheme(exact={33: 0, 46: 5, 60: 6, 96: 7, 64: 8, 68: 9, 97: 10, 72: 11, 54: 13, 76: 15, 82: 17, 16: 18}),
}  # fmt: skip


def teaches(faces: FaceSet, topology: Topology) -> bool:
    """Whether faces of one scheme can teach a network of another."""
    return faces.topology is topology or (topology is WFLW98 and faces.topology in SCHEMES)


def exact_points(faces: FaceSet) -> FaceSet:
    """The same faces with 98 points: those that their scheme marks, NaN for the others."""
    points = np.full((len(faces), WFLW98.points, 2), np.nan, np.float32)
    exact = SCHEMES[faces.topology].exact
    points[:, list(exact)] = faces.points[:, list(exact.values())]
    return replace(faces, topology=WFLW98, points=points)


def taught(faces: FaceSet, engine: Engine | None = None, say: Callable[[str], None] = print) -> FaceSet:
    """Faces with 98 points to learn from: see the module. engine: the network that training starts from, of 98 points.

    Without one, only the points that the scheme marks are known.
    """
    out = exact_points(faces)
    if engine is None:
        return out
    scheme = SCHEMES[faces.topology]
    for i in range(len(faces)):
        found, sure = mean_points(engine, faces.read(i), faces.points[i], WFLW98.mirror)
        guessed = np.where(sure[:, None] < _SURE, np.nan, found)
        for members, line in scheme.curves:
            curve = smooth(faces.points[i, list(line)])
            for member in members:
                guessed[member] = nearest_on(curve, found[member])
        unmarked = np.isin(np.arange(WFLW98.points), list(scheme.exact), invert=True)
        out.points[i, unmarked] = guessed[unmarked]
        if i % 200 == 199 or i == len(faces) - 1:
            say(f"{faces.name}, from {faces.topology.name} to {WFLW98.name}: {i + 1} of {len(faces)}")
    return out


def smooth(points: np.ndarray) -> np.ndarray:
    """A curve (M, 2) through points (K, 2): Catmull and Rom's spline."""
    if len(points) == 2:
        return points
    first, last = (3 * a - 3 * b + c for a, b, c in (points[:3], points[:-4:-1]))  # as the curve would go on
    padded = np.concatenate([first[None], points, last[None]]).astype(np.float64)
    t = np.linspace(0, 1, _DENSE, endpoint=False)[:, None]
    parts = [
        b + t * (c - a) / 2 + t**2 * (2 * a - 5 * b + 4 * c - d) / 2 + t**3 * (3 * b - a - 3 * c + d) / 2
        for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False)
    ]
    return np.concatenate([*parts, padded[-2:-1]])


def nearest_on(curve: np.ndarray, point: np.ndarray) -> np.ndarray:
    """The place (2,) on a polyline (M, 2) that is nearest to a point; NaN where the curve is not known."""
    starts, steps = curve[:-1], np.diff(curve, axis=0)
    along = ((point - starts) * steps).sum(axis=1) / np.maximum((steps**2).sum(axis=1), 1e-12)
    places = starts + np.clip(along, 0, 1)[:, None] * steps
    away = ((places - point) ** 2).sum(axis=1)
    return places[int(away.argmin())] if np.isfinite(away).all() else np.full(2, np.nan)
