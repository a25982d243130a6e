"""Steady points: Kalman filters on a face's pose and on its shape.

A face moves in two ways. As a whole it shifts, turns and grows: four numbers, known from all points at once and so
almost free of noise; they are followed closely. Within the face little moves, and seldom: the shape, seen in the face's
own frame, is smoothed hard, which costs no lag when the head moves. Points that move together (an eye's lids, the lips)
share one filter, so that a single look at its innovation tells a blink from noise; motion passes at once.
"""

from __future__ import annotations

import math

import numpy as np
from filterpy.kalman import KalmanFilter

from tabrt.topology import WFLW98, Topology

# Lengths are in units of the face's size: the distance of the outer eye corners of a frontal face. The values are those
# of the best curve of jitter against lag on still and moving faces.
SIZE_PER_RADIUS = 1.56  # that size over the root mean square distance of the points from their mean
POINT_NOISE = 0.004  # standard deviation of a point of full confidence in the face's own frame, before it is measured
LEAST_NOISE, MOST_NOISE = 0.001, 0.01  # what may be measured
NOISE_QUANTILE = 0.4  # of the frames: the stillest tell the noise
NOISE_RATE = 0.1  # per frame, of the logarithm of its variance
POSE_SHARE = 0.4  # noise of what all points share, the crop's own jitter, over that of a point
POSE_DRIFT = 0.02  # 1/s³: spectral density of the acceleration always expected of the face …
POINT_DRIFT = 5e-5  # … and of a point within the face: little, for what is more is told by the innovations
POINT_PERSISTENCE = 0.1  # s, after which a point's velocity within the face is gone: lips and lids turn back soon
MOTION = 4.0  # standard deviations above its expected square at which an innovation is motion, not noise
LEANING = 0.4  # share of the newest innovation in their running mean, which tells slow motion
STRONGEST = 8.0  # factor on the measured noise at strength 1; 2 at a half
QUICK_SHARE = 0.385  # of that factor for lids and lips, which turn back faster than a filter can learn
LONGEST_STEP = 0.5  # s: after a longer gap the filters start anew
LEAST_CONFIDENCE = 0.1
MEASURED = np.array([[1.0, 0.0]])  # of the state [position, velocity]


class Smoother:
    """Smooths one face's points from frame to frame.

    strength: 0 leaves the points exactly as they are, 0.5 is the default, 1 the steadiest.
    """

    def __init__(self, strength: float = 0.5, topology: Topology = WFLW98):
        self._strength = STRONGEST * strength**2
        self._groups = motion_groups(topology)
        quick = [*topology.left_eye, *topology.right_eye, *topology.mouth]
        self._shares = [QUICK_SHARE if np.isin(group, quick).all() else 1.0 for group in self._groups]
        self._time = 0.0
        self.reset()

    def reset(self) -> None:
        """Forget the frames so far."""
        self._pose: _Follower | None = None

    def __call__(self, points: np.ndarray, confidence: np.ndarray, time: float) -> np.ndarray:
        """Smoothed points (L, 2) of raw points (L, 2) with confidence (L,), seen at `time` seconds."""
        if self._strength == 0:
            return points
        step, self._time = time - self._time, time
        seen = points.astype(np.float64) @ np.array([1, 1j])  # as complex numbers: a similarity is one product
        if self._pose is None or not 0 <= step <= LONGEST_STEP:
            self._start(seen)
            return points
        smooth = self._follow(self._pose, seen, np.maximum(confidence, LEAST_CONFIDENCE), step)
        return np.stack([smooth.real, smooth.imag], axis=1).astype(points.dtype)

    def _start(self, seen: np.ndarray) -> None:
        centre = seen.mean()
        size = max(SIZE_PER_RADIUS * float(np.sqrt((np.abs(seen - centre) ** 2).mean())), 1e-6)
        shape = (seen - centre) / size
        self._variance = POINT_NOISE**2
        self._before = [shape, shape]  # the last two frames, in the face's own frame
        self._pose = _Follower(np.array([centre, size]), POSE_SHARE * POINT_NOISE * size)
        self._shape = [_Follower(shape[group], POINT_NOISE, POINT_PERSISTENCE) for group in self._groups]

    def _follow(self, pose: _Follower, seen: np.ndarray, confidence: np.ndarray, step: float) -> np.ndarray:
        size = max(abs(pose.position[1]), 1e-6)
        pose.predict(POSE_DRIFT * size**2, step)
        shape = np.empty_like(seen)
        for group, follower in zip(self._groups, self._shape, strict=True):
            follower.predict(POINT_DRIFT, step)
            shape[group] = follower.position
        offset, turn = fit_similarity(shape, seen, confidence)
        inside = (seen - offset) / turn if turn else shape  # in the face's own frame
        self._measure_noise(inside, confidence)
        variance = self._strength**2 * self._variance
        pose.update(np.array([offset, turn]), variance * (POSE_SHARE * size) ** 2, step)
        for group, follower, share in zip(self._groups, self._shape, self._shares, strict=True):
            follower.update(inside[group], variance * (share / confidence[group].mean()) ** 2, step)
            shape[group] = follower.position
        offset, turn = pose.position
        return offset + turn * shape

    def _measure_noise(self, inside: np.ndarray, confidence: np.ndarray) -> None:
        """Follow the variance of a point of full confidence, which differs between cameras and faces.

        The second difference of white noise has six times its variance; that of steady motion is nothing. The median
        of the groups leaves out a talking mouth, the quantile over time a turning head.
        """
        bend = np.abs((inside - 2 * self._before[1] + self._before[0]) * confidence) ** 2 / 12
        self._before = [self._before[1], inside]
        louder = np.median([bend[group].mean() for group in self._groups]) > self._variance
        change = NOISE_RATE * (NOISE_QUANTILE if louder else NOISE_QUANTILE - 1)
        self._variance = float(np.clip(self._variance * np.exp(change), LEAST_NOISE**2, MOST_NOISE**2))


class _Follower:
    """A constant-velocity filter on complex numbers (N,) that share one covariance: its state is (2, 2N)."""

    def __init__(self, position: np.ndarray, deviation: float, persistence: float = math.inf):
        self._persistence = persistence
        flat = np.ascontiguousarray(position).view(np.float64)
        self._kalman = KalmanFilter(dim_x=2, dim_z=1)
        self._kalman.x = np.stack([flat, np.zeros_like(flat)])
        self._kalman.P = np.diag([deviation**2, deviation**2])
        self._leaning = np.zeros((1, flat.size))  # running mean of the innovations

    @property
    def position(self) -> np.ndarray:
        return np.ascontiguousarray(self._kalman.x[0]).view(np.complex128)

    def predict(self, drift: float, step: float) -> None:
        """Move on by a time step in seconds; the velocity wanders as by white-noise acceleration."""
        noise = drift * np.array([[step**3 / 3, step**2 / 2], [step**2 / 2, step]])
        kept = math.exp(-step / self._persistence)
        self._kalman.predict(F=np.array([[1.0, step * kept], [0.0, kept]]), Q=noise)

    def update(self, position: np.ndarray, variance: float, step: float) -> None:
        """Take in a measurement with this variance of noise.

        Where the innovation is too large for noise, or leans to one side for too long, the velocity was not what it was
        thought to be: its variance is raised to what explains the innovation, and the gain tends to 1.
        """
        measured = np.ascontiguousarray(position).view(np.float64)[None]
        innovation = measured - self._kalman.x[:1]
        expected = self._kalman.P[0, 0] + variance
        self._leaning += LEANING * (innovation - self._leaning)
        surplus = float((innovation**2).mean()) - expected
        share = LEANING / (2 - LEANING)  # variance of the running mean over that of its terms
        lean = float((self._leaning**2).mean()) - share * expected
        limit = MOTION * np.sqrt(2 / measured.size) * expected
        if surplus > limit or lean > share * limit:
            reach = np.array([1.0, 1 / step if step > 0 else 0.0])
            self._kalman.P = self._kalman.P + max(surplus, lean) * np.outer(reach, reach)
            self._leaning[:] = 0
        self._kalman.update(measured, R=variance, H=MEASURED)


def motion_groups(topology: Topology) -> list[np.ndarray]:
    """Points that move together: a brow, an eye, the nose, the lips, a third of the jaw, and those on no boundary."""
    groups: dict[str, list[int]] = {}
    for name, line in topology.boundaries.items():
        part = "lips" if "lip" in name else name.rsplit(maxsplit=1)[0]  # "left eye upper" is of "left eye"
        groups.setdefault(part, []).extend(line)
    jaw = np.array_split(np.array(groups.pop("jaw", []), int), 3)
    found = [*jaw, *(np.unique(group) for group in groups.values())]
    rest = np.setdiff1d(np.arange(topology.points), np.concatenate(found))
    return [group for group in (*found, rest) if len(group)]


def fit_similarity(source: np.ndarray, target: np.ndarray, weights: np.ndarray) -> tuple[complex, complex]:
    """Offset and turn that carry complex points source (L,) nearest to target (L,): target ≈ offset + turn·source."""
    weights = weights / weights.sum()
    centre, goal = weights @ source, weights @ target
    arms = source - centre
    turn = (weights * arms.conj()) @ (target - goal) / max((weights * np.abs(arms) ** 2).sum(), 1e-12)
    return goal - turn * centre, turn
