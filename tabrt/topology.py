"""Landmark schemes: names of the boundaries, mirror images, and conversions.

Left and right are those of the picture, not of the person.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tabrt.errors import TabrtError

BOUNDARIES = (
    "jaw",
    "left brow upper",
    "left brow lower",
    "right brow upper",
    "right brow lower",
    "nose bridge",
    "nose base",
    "left eye upper",
    "left eye lower",
    "right eye upper",
    "right eye lower",
    "outer lip upper",
    "outer lip lower",
    "inner lip upper",
    "inner lip lower",
)
BOUNDARY_CHANNELS = len(BOUNDARIES) + 1  # the last is the union of all


@dataclass(frozen=True, eq=False)
class Topology:
    """A landmark scheme. `boundaries` names the polylines through its points (paper §3.1)."""

    name: str
    points: int
    boundaries: dict[str, tuple[int, ...]]
    mirror_pairs: tuple[tuple[int, int], ...]
    left_eye: tuple[int, ...]
    right_eye: tuple[int, ...]
    mouth: tuple[int, ...]
    normaliser: tuple[tuple[int, ...], tuple[int, ...]] | None  # the two groups whose distance scales the NME

    @cached_property
    def boundary_lines(self) -> tuple[tuple[int, ...] | None, ...]:
        """The polyline of each of BOUNDARIES, or None where the scheme lacks it."""
        return tuple(self.boundaries.get(name) for name in BOUNDARIES)

    @cached_property
    def mirror(self) -> np.ndarray:
        """(L,): the index of each point's mirror image."""
        return _permutation(self.points, self.mirror_pairs)

    def roll(self, points: np.ndarray) -> float:
        """The angle, in radians, by which a face with points (L, 2) is turned in the picture.

        Eye line and the line from eyes to mouth are added up, so that a profile, whose eyes fall together, keeps
        a sound angle.
        """
        chosen, weights = self._upright
        across, down = (weights @ points.take(chosen, axis=0)).tolist()
        return math.atan2(across[1] - down[0], across[0] + down[1])

    @cached_property
    def _upright(self) -> tuple[np.ndarray, np.ndarray]:
        """The points (K,) of eyes and mouth, and their weights (2, K) in the lines across and down the face."""
        groups = self.left_eye, self.right_eye, self.mouth
        weights = np.zeros((2, self.points))
        for group, share in zip(groups, ((-1, -0.5), (1, -0.5), (0, 1)), strict=True):
            for point in group:
                weights[:, point] += np.array(share) / len(group)
        chosen = np.array(sorted({point for group in groups for point in group}))
        return chosen, weights[:, chosen]


def _permutation(count: int, pairs: tuple[tuple[int, int], ...]) -> np.ndarray:
    permutation = np.arange(count)
    for a, b in pairs:
        permutation[[a, b]] = b, a
    return permutation


BOUNDARY_MIRROR = _permutation(BOUNDARY_CHANNELS, ((1, 3), (2, 4), (7, 9), (8, 10)))


def _run(first: int, last: int) -> tuple[int, ...]:
    return tuple(range(first, last + 1))


WFLW98 = Topology(
    name="wflw98",
    points=98,
    boundaries={
        "jaw": _run(0, 32),
        "left brow upper": _run(33, 37),
        "left brow lower": (33, 41, 40, 39, 38),
        "right brow upper": _run(42, 46),
        "right brow lower": _run(46, 50),
        "nose bridge": _run(51, 54),
        "nose base": _run(55, 59),
        "left eye upper": _run(60, 64),
        "left eye lower": (60, 67, 66, 65, 64),
        "right eye upper": _run(68, 72),
        "right eye lower": (68, 75, 74, 73, 72),
        "outer lip upper": _run(76, 82),
        "outer lip lower": (76, 87, 86, 85, 84, 83, 82),
        "inner lip upper": _run(88, 92),
        "inner lip lower": (88, 95, 94, 93, 92),
    },
    mirror_pairs=(
        *((i, 32 - i) for i in range(16)),
        *((33, 46), (34, 45), (35, 44), (36, 43), (37, 42), (38, 50), (39, 49), (40, 48), (41, 47)),
        *((60, 72), (61, 71), (62, 70), (63, 69), (64, 68), (65, 75), (66, 74), (67, 73)),
        *((55, 59), (56, 58), (76, 82), (77, 81), (78, 80), (87, 83), (86, 84)),
        *((88, 92), (89, 91), (95, 93), (96, 97)),
    ),
    left_eye=_run(60, 67),
    right_eye=_run(68, 75),
    mouth=_run(76, 95),
    normaliser=((60,), (72,)),
)

IBUG68 = Topology(
    name="300w68",
    points=68,
    boundaries={
        "jaw": _run(0, 16),
        "left brow upper": _run(17, 21),
        "right brow upper": _run(22, 26),
        "nose bridge": _run(27, 30),
        "nose base": _run(31, 35),
        "left eye upper": _run(36, 39),
        "left eye lower": (36, 41, 40, 39),
        "right eye upper": _run(42, 45),
        "right eye lower": (42, 47, 46, 45),
        "outer lip upper": _run(48, 54),
        "outer lip lower": (48, 59, 58, 57, 56, 55, 54),
        "inner lip upper": _run(60, 64),
        "inner lip lower": (60, 67, 66, 65, 64),
    },
    mirror_pairs=(
        *((i, 16 - i) for i in range(8)),
        *((17, 26), (18, 25), (19, 24), (20, 23), (21, 22), (31, 35), (32, 34)),
        *((36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)),
        *((48, 54), (49, 53), (50, 52), (58, 56), (59, 55), (60, 64), (61, 63), (67, 65)),
    ),
    left_eye=_run(36, 41),
    right_eye=_run(42, 47),
    mouth=_run(48, 67),
    normaliser=((36,), (45,)),
)

COFW29 = Topology(
    name="cofw29",
    points=29,
    boundaries={
        "left brow upper": (0, 4, 2),
        "left brow lower": (0, 5, 2),
        "right brow upper": (1, 6, 3),
        "right brow lower": (1, 7, 3),
        "nose base": (18, 21, 19),
        "left eye upper": (8, 12, 10),
        "left eye lower": (8, 13, 10),
        "right eye upper": (9, 14, 11),
        "right eye lower": (9, 15, 11),
        "outer lip upper": (22, 24, 23),
        "inner lip upper": (22, 25, 23),
        "inner lip lower": (22, 26, 23),
        "outer lip lower": (22, 27, 23),
    },
    mirror_pairs=(
        *((0, 1), (2, 3), (4, 6), (5, 7), (8, 9), (10, 11)),
        *((12, 14), (13, 15), (16, 17), (18, 19), (22, 23)),
    ),
    left_eye=(8, 10, 12, 13),
    right_eye=(9, 11, 14, 15),
    mouth=_run(22, 27),
    normaliser=((16,), (17,)),
)

AFLW19 = Topology(
    name="aflw19",
    points=19,
    boundaries={
        "left brow upper": _run(0, 2),
        "right brow upper": _run(3, 5),
        "left eye upper": _run(6, 8),
        "right eye upper": _run(9, 11),
        "nose base": _run(12, 14),
    },
    mirror_pairs=((0, 5), (1, 4), (2, 3), (6, 11), (7, 10), (8, 9), (12, 14), (15, 17)),
    left_eye=_run(6, 8),
    right_eye=_run(9, 11),
    mouth=_run(15, 17),
    normaliser=None,  # by the size of the face box
)

TOPOLOGIES = {topology.name: topology for topology in (WFLW98, IBUG68, COFW29, AFLW19)}


def topology_named(name: str) -> Topology:
    """Look a scheme up by name. Raises TabrtError for a name that is not one of TOPOLOGIES."""
    try:
        return TOPOLOGIES[name]
    except KeyError:
        raise TabrtError(f"no landmark scheme is called {name!r}; there are: {', '.join(TOPOLOGIES)}") from None


INNER_51 = np.arange(17, 68)  # the points of 300w68 without the jaw

# Each brow point of 300w68 as weights on the wflw98 outline, for the left brow from its outer end. Humans put the
# 68-point brow on the outline's upper edge: a midline would lie 3.8 % of the eye distance off, these lie within 1 %
# (fitted on the 2,204 human-labelled faces, left and mirrored right together).
_BROW_WEIGHTS: tuple[dict[int, float], ...] = (
    {33: 1.05, 38: -0.05},
    {34: 0.88, 41: 0.20, 38: -0.08},
    {35: 1.06, 37: -0.06},
    {36: 1.0},
    {37: 0.755, 38: 0.33, 40: -0.085},
)
_LIDS_68 = {  # lid in wflw98 order, and the two 300w68 points on it
    (60, 61, 62, 63, 64): (37, 38),
    (64, 65, 66, 67, 60): (40, 41),
    (68, 69, 70, 71, 72): (43, 44),
    (72, 73, 74, 75, 68): (46, 47),
}


def to_68(points: np.ndarray) -> np.ndarray:
    """Convert wflw98 points (..., 98, 2) to 300w68 points (..., 68, 2).

    Jaw, nose and mouth are a choice of points; brows follow the outline's upper edge; lid points lie at 1/3 and 2/3 of
    the lid's length, on a spline through its five points.
    """
    out = np.empty((*points.shape[:-2], 68, 2), points.dtype)
    out[..., :17, :] = points[..., 0:33:2, :]
    for index, weights in enumerate(_BROW_WEIGHTS):
        for brow_point, mirrored in ((17 + index, False), (26 - index, True)):
            sources = [WFLW98.mirror[i] if mirrored else i for i in weights]
            out[..., brow_point, :] = np.einsum("k,...kd->...d", list(weights.values()), points[..., sources, :])
    out[..., 27:36, :] = points[..., 51:60, :]
    out[..., 48:68, :] = points[..., 76:96, :]
    for eye, corners in ((36, (60, 64)), (42, (68, 72))):
        out[..., eye, :], out[..., eye + 3, :] = points[..., corners[0], :], points[..., corners[1], :]
    for lid, pair in _LIDS_68.items():
        out[..., list(pair), :] = _along(points[..., list(lid), :], (1 / 3, 2 / 3))
    return out


def _spline_matrix(knots: int, samples: int) -> np.ndarray:
    """(samples, knots): a natural cubic spline through evenly spaced knots, sampled evenly, as a linear map."""
    second = np.eye(knots)
    right = np.zeros((knots, knots))
    for i in range(1, knots - 1):
        second[i, i - 1 : i + 2] = 1 / 6, 2 / 3, 1 / 6
        right[i, i - 1 : i + 2] = 1, -2, 1
    curvature = np.linalg.solve(second, right)
    at = np.linspace(0, knots - 1, samples)
    left = np.minimum(at.astype(int), knots - 2)
    b = (at - left)[:, None]
    a = 1 - b
    eye = np.eye(knots)
    return a * eye[left] + b * eye[left + 1] + ((a**3 - a) * curvature[left] + (b**3 - b) * curvature[left + 1]) / 6


_LID_SPLINE = _spline_matrix(5, 61)


def _along(points: np.ndarray, shares: tuple[float, ...]) -> np.ndarray:
    """Points at these shares of the length of a spline through points (..., 5, 2): (..., len(shares), 2)."""
    curve = np.einsum("sk,...kd->...sd", _LID_SPLINE, points)
    steps = np.linalg.norm(np.diff(curve, axis=-2), axis=-1)
    length = np.concatenate([np.zeros((*steps.shape[:-1], 1)), steps.cumsum(axis=-1)], axis=-1)
    out = np.empty((*points.shape[:-2], len(shares), 2), points.dtype)
    for index in np.ndindex(points.shape[:-2]):
        targets = np.asarray(shares) * length[index][-1]
        for axis in (0, 1):
            out[(*index, slice(None), axis)] = np.interp(targets, length[index], curve[(*index, slice(None), axis)])
    return out
