"""Steady points: Kalman filters on a face's pose and on its shape.

A face moves in two ways. As a whole it shifts, turns and grows: four numbers, known from all points at once and so
almost free of noise; they are followed closely. Within the face little moves, and seldom: the shape, seen in the face's
own frame, is smoothed hard, which costs no lag when the head moves. Points that move together (an eye's lids, the lips)
share one filter, so that a single look at its innovation tells a blink from noise; motion passes at once.
"""

from __future__ import annotations

import numpy as np
from filterpy.kalman import KalmanFilter

from tabrt.topology import WFLW98, Topology

# Lengths are in units of the face's size: the distance of the outer eye corners of a frontal face.
POINT_NOISE = 0.004  # standard deviation of a point of full confidence in the face's own frame
POSE_NOISE = 0.0015  # of what all points share: the crop's own jitter
POINT_DRIFT = 0.02  # 1/s³: spectral density of the acceleration that is always expected of a point within the face …
POSE_DRIFT = 0.1  # … and of the face as a whole
SOFT=False
MOTION = 2.5  # an innovation above this many times its expected variance is motion, not noise
LONGEST_STEP = 0.5  # s: after a longer gap the filters start anew
SIZE_PER_RADIUS = 1.56  # face size over the root mean square distance of its points from their mean
LEAST_CONFIDENCE = 0.1
POSITION = np.array([[1.0, 0.0]])  # what is measured of the state [position, velocity]


class Smoother:
    """Smooths one face's points from frame to frame.

    strength: 0 leaves the points exactly as they are, 0.5 is the default, 1 the steadiest.
    """

    def __init__(self, strength: float = 0.5, topology: Topology = WFLW98):
        self._noise = 1.05 * strength / (1.05 - strength)  # factor on the noise: 0, 0.95 at a half, 21 at 1
        self._groups = motion_groups(topology)
        self._pose: KalmanFilter | None = None
        self._shapes: list[KalmanFilter] = []
        self._time = 0.0

    def reset(self) -> None:
        """Forget the frames so far."""
        self._pose = None

    def __call__(self, points: np.ndarray, confidence: np.ndarray, time: float) -> np.ndarray:
        """Smoothed points (L, 2) of raw points (L, 2) with confidence (L,), seen at `time` seconds."""
        if self._noise == 0:
            return points
        step, self._time = time - self._time, time
        seen = points.astype(np.float64) @ (1, 1j)  # points as complex numbers: a similarity is one product
        if self._pose is None or not 0 <= step <= LONGEST_STEP:
            self._start(seen)
            return points
        smooth = self._follow(seen, np.maximum(confidence, LEAST_CONFIDENCE), step)
        return np.stack([smooth.real, smooth.imag], axis=1).astype(points.dtype)

    def _start(self, seen: np.ndarray) -> None:
        centre = seen.mean()
        size = SIZE_PER_RADIUS * np.sqrt((np.abs(seen - centre) ** 2).mean())
        self._pose = _filter(np.array([centre, size]), POSE_NOISE * size)
        self._shapes = [_filter((seen[group] - centre) / size, POINT_NOISE) for group in self._groups]

    def _follow(self, seen: np.ndarray, confidence: np.ndarray, step: float) -> np.ndarray:
        size = abs(_position(self._pose)[1])
        shape = np.empty_like(seen)
        for group, kalman in zip(self._groups, self._shapes, strict=True):
            _predict(kalman, POINT_DRIFT, step)
            shape[group] = _position(kalman)
        _predict(self._pose, POSE_DRIFT * size**2, step)
        offset, turn = fit_similarity(shape, seen, confidence)
        _update(self._pose, np.array([offset, turn]), (self._noise * POSE_NOISE * size) ** 2, step)
        inside = (seen - offset) / turn  # in the face's own frame
        for group, kalman in zip(self._groups, self._shapes, strict=True):
            deviation = self._noise * POINT_NOISE / confidence[group].mean()
            _update(kalman, inside[group], deviation**2, step)
            shape[group] = _position(kalman)
        offset, turn = _position(self._pose)
        return offset + turn * shape


def motion_groups(topology: Topology) -> list[np.ndarray]:
    """Points that move together: each brow, eye, the nose, the lips, thirds of the jaw, and the points on no boundary."""
    groups: dict[str, list[int]] = {}
    for name, line in topology.boundaries.items():
        part = "lips" if "lip" in name else name.removesuffix(" upper").removesuffix(" lower").removesuffix(" bridge")
        groups.setdefault(part.removesuffix(" base"), []).extend(line)
    found = [np.unique(group) for name, group in groups.items() if name != "jaw"]
    jaw = np.array_split(np.array(groups.get("jaw", []), int), 3)
    rest = np.setdiff1d(np.arange(topology.points), np.concatenate([*found, *jaw]))
    return [group for group in (*jaw, *found, rest) if len(group)]


def fit_similarity(source: np.ndarray, target: np.ndarray, weights: np.ndarray) -> tuple[complex, complex]:
    """The offset and turn that carry complex points source (L,) nearest to target (L,): target ≈ offset + turn·source."""
    weights = weights / weights.sum()
    centre, goal = weights @ source, weights @ target
    arms = source - centre
    turn = (weights * arms.conj()) @ (target - goal) / max((weights * np.abs(arms) ** 2).sum(), 1e-12)
    return goal - turn * centre, turn


def _filter(position: np.ndarray, deviation: float) -> KalmanFilter:
    """A constant-velocity filter at rest on complex numbers (N,): state (2, 2N), one covariance for all."""
    kalman = KalmanFilter(dim_x=2, dim_z=1)
    flat = np.ascontiguousarray(position).view(np.float64)
    kalman.x = np.stack([flat, np.zeros_like(flat)])
    kalman.P = np.diag([deviation**2, deviation**2])
    return kalman


def _position(kalman: KalmanFilter) -> np.ndarray:
    return np.ascontiguousarray(kalman.x[0]).view(np.complex128)


def _predict(kalman: KalmanFilter, drift: float, step: float) -> None:
    """Move on by a time step. Q is that of a velocity that wanders as white-noise acceleration."""
    noise = drift * np.array([[step**3 / 3, step**2 / 2], [step**2 / 2, step]])
    kalman.predict(F=np.array([[1.0, step], [0.0, 1.0]]), Q=noise)


def _update(kalman: KalmanFilter, position: np.ndarray, variance: float, step: float) -> None:
    """Take in a measurement. Where the innovation is too large for noise, the velocity was not what it was thought to
    be: its variance is raised to what explains the innovation, so that the gain tends to 1."""
    measured = np.ascontiguousarray(position).view(np.float64)[None]
    surprise = float(((measured - kalman.x[:1]) ** 2).mean())
    expected = kalman.P[0, 0] + variance
    usual = expected * (1 + MOTION * np.sqrt(2 / measured.size))
    if surprise > usual:
        reach = np.array([1.0, 1 / step if step > 0 else 0.0])
        kalman.P = kalman.P + (surprise - (usual if SOFT else expected)) * np.outer(reach, reach)
    kalman.update(measured, R=variance, H=POSITION)
