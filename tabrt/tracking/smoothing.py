"""Steady points: Kalman filters on a face's pose and on its shape.

A face moves in two ways. As a whole it shifts, turns and grows: four numbers, known from all points at once and so
almost free of noise; they are followed closely. Within the face little moves, and seldom: the shape, seen in the face's
own frame, is smoothed hard, which costs no lag when the head moves. Points that move together (an eye's lids, a lip)
share one filter and one measured noise, so that a single look at its innovation tells a blink from noise; motion passes
at once.
"""

from __future__ import annotations

import math
from statistics import median

import numpy as np

from tabrt.topology import WFLW98, Topology
from tabrt.tracking.kalman import KalmanFilter

# Lengths are in units of the face's size: the distance of the outer eye corners of a frontal face. The values are those
# of the best curve of jitter against lag on still and moving faces.
SIZE_PER_RADIUS = 1.56  # that size over the root mean square distance of the points from their mean
POINT_NOISE = 0.004  # standard deviation of a point of full confidence in the face's own frame, before it is measured
LEAST_NOISE, MOST_NOISE = 0.001, 0.01  # what may be measured
NOISE_QUANTILE = 0.4  # of the frames: the stillest tell the noise
NOISE_RATE = 0.1  # per frame, of the logarithm of its variance
MAX_NOISE_RATIO = 2.0  # times the usual group's noise that one group is believed to have: what is more, is motion
POSE_SHARE = 0.4  # noise of what all points share, the crop's own jitter, over that of a point
POSE_DRIFT = 0.0005  # 1/s³: spectral density of the acceleration always expected of the face …
POINT_DRIFT = 5e-5  # … and of a point within the face: little, for what is more is told by the innovations
POINT_PERSISTENCE = 0.1  # s, after which a point's velocity within the face is gone: lips and lids turn back soon
MOTION = 4.0  # standard deviations above its expected square at which an innovation is motion, not noise
BIAS_RATE = 0.4  # share of the newest innovation in their running mean, which tells slow motion
MAX_NOISE_FACTOR = 10.0  # factor on the measured noise at strength 1; 2.5 at a half
QUICK_SHARE = 0.3  # of that factor for lids and lips, which turn back faster than a filter can learn
DEFAULT_STRENGTH = 0.7  # chosen from the curve of jitter against lag: benchmarks/results/stability-curve.png
LONGEST_STEP = 0.5  # s: after a longer gap the filters start anew
LEAST_CONFIDENCE = 0.1


class Smoother:
    """Smooths one face's points from frame to frame.

    strength: 0 leaves the points exactly as they are, 1 is the steadiest.
    """

    def __init__(self, strength: float = DEFAULT_STRENGTH, topology: Topology = WFLW98):
        self._strength = MAX_NOISE_FACTOR * strength**2
        groups = motion_groups(topology)
        quick = [*topology.left_eye, *topology.right_eye, *topology.mouth]
        self._shares = np.array([QUICK_SHARE if np.isin(group, quick).all() else 1.0 for group in groups])
        self._group = np.empty(topology.points, int)  # of each point
        for number, group in enumerate(groups):
            self._group[group] = number
        self._sizes = np.bincount(self._group)
        self._time = 0.0
        self.reset()

    def reset(self) -> None:
        """Forget the frames so far."""
        self._filter: _Filter | None = None

    def __call__(self, points: np.ndarray, confidence: np.ndarray, time: float) -> np.ndarray:
        """Smoothed points (L, 2) of raw points (L, 2) with confidence (L,), seen at `time` seconds."""
        if self._strength == 0:
            return points
        step, self._time = time - self._time, time
        seen = points.astype(np.float64) @ np.array([1, 1j])  # as complex numbers: a similarity is one product
        if self._filter is None or not 0 <= step <= LONGEST_STEP:
            self._start(seen)
            return points
        smooth = self._follow(self._filter, seen, np.maximum(confidence, LEAST_CONFIDENCE), step)
        return np.stack([smooth.real, smooth.imag], axis=1).astype(points.dtype)

    def _start(self, seen: np.ndarray) -> None:
        centre = seen.mean()
        size = max(SIZE_PER_RADIUS * math.sqrt(_power(seen - centre).mean()), 1e-6)
        shape = (seen - centre) / size
        self._variances = np.full(len(self._sizes), POINT_NOISE**2)
        self._before = [shape] * 3  # the last three frames, in the face's own frame
        blocks = np.concatenate([[0, 0], 1 + self._group])  # the pose, then the groups
        deviations = np.full(1 + len(self._sizes), POINT_NOISE)
        deviations[0] = POSE_SHARE * POINT_NOISE * size
        self._filter = _Filter(np.concatenate([[centre, size], shape]), blocks, deviations)

    def _follow(self, kalman: _Filter, seen: np.ndarray, confidence: np.ndarray, step: float) -> np.ndarray:
        size = max(abs(kalman.positions[1]), 1e-6)
        kalman.predict(POSE_DRIFT * size**2, step)
        shape = kalman.positions[2:]
        offset, turn = fit_similarity(shape, seen, confidence)
        inside = (seen - offset) / turn if turn else shape  # in the face's own frame
        self._measure_noise(inside)
        usual = median(self._variances.tolist())
        believed = (
            np.minimum(self._variances, MAX_NOISE_RATIO**2 * usual) * (self._shares / self._means(confidence)) ** 2
        )
        variances = self._strength**2 * np.concatenate([[usual * (POSE_SHARE * size) ** 2], believed])
        kalman.update(np.concatenate([[offset, turn], inside]), variances, step)
        positions = kalman.positions
        return positions[0] + positions[1] * positions[2:]

    def _means(self, values: np.ndarray) -> np.ndarray:
        """The mean of values (L,) in each group."""
        return np.bincount(self._group, values) / self._sizes

    def _measure_noise(self, inside: np.ndarray) -> None:
        """Follow the variance of noise of each group: a network sees eyes better than lips, and cameras differ.

        The third difference of white noise has twenty times its variance; that of motion, even of talking lips, is
        little. The quantile over time leaves out what moves now and then.
        """
        oldest, older, last = self._before
        self._before = [older, last, inside]
        bend = self._means(_power(inside - oldest + 3 * (older - last))) / 40
        change = NOISE_RATE * np.where(bend > self._variances, NOISE_QUANTILE, NOISE_QUANTILE - 1)
        self._variances = np.clip(self._variances * np.exp(change), LEAST_NOISE**2, MOST_NOISE**2)


class _Filter:
    """Constant-velocity filters of complex numbers side by side, as the blocks of one Kalman filter.

    The numbers (N,) of a block share one covariance. The state is (2 B, W): a row of positions for each of B blocks,
    then a row of velocities for each, padded with zeros to the widest. Block 0 is the pose; the velocities of the
    others fade. Blocks know nothing of each other: all covariances between them stay exactly 0.
    """

    def __init__(self, positions: np.ndarray, blocks: np.ndarray, deviations: np.ndarray):
        count = len(deviations)
        first = np.argsort(blocks, kind="stable")  # numbers of a block side by side
        columns = np.empty_like(blocks)
        columns[first] = np.concatenate([np.arange(size) for size in np.bincount(blocks)])
        self._places = blocks, columns
        self._numbers = 2 * np.bincount(blocks)  # real ones, in each block
        self._at = np.arange(count)
        self._limits = MOTION * np.sqrt(2 / self._numbers)
        self._drift = np.full(count, POINT_DRIFT)
        self._kalman = KalmanFilter(dim_x=2 * count, dim_z=count)
        self._kalman.x = np.zeros((2 * count, columns.max() + 1), complex)
        self._kalman.x[self._places] = positions
        self._kalman.P = np.diag(np.tile(deviations**2, 2))
        self._kalman.H = np.eye(count, 2 * count)
        self._bias = np.zeros_like(self._kalman.x[:count])  # running mean of the innovations

    @property
    def positions(self) -> np.ndarray:
        return self._kalman.x[self._places]

    def predict(self, pose_drift: float, step: float) -> None:
        """Move on by a time step in seconds; the velocities wander as by white-noise acceleration."""
        at, velocity = self._at, self._at + len(self._at)
        kept = np.full(len(at), math.exp(-step / POINT_PERSISTENCE))
        kept[0] = 1
        self._drift[0] = pose_drift
        forward, noise = np.eye(2 * len(at)), np.zeros((2 * len(at), 2 * len(at)))
        forward[at, velocity], forward[velocity, velocity] = step * kept, kept
        noise[at, at], noise[velocity, velocity] = self._drift * step**3 / 3, self._drift * step
        noise[at, velocity] = noise[velocity, at] = self._drift * step**2 / 2
        self._kalman.predict(F=forward, Q=noise)

    def update(self, positions: np.ndarray, variances: np.ndarray, step: float) -> None:
        """Take in measured positions (N,) with the variance of noise of each block (B,).

        Where a block's innovation is too large for noise, or leans to one side for too long, its velocity was not what
        it was thought to be: its variance is raised to what explains the innovation, and the gain tends to 1.
        """
        at = self._at
        measured = np.zeros_like(self._bias)
        measured[self._places] = positions
        innovation = measured - self._kalman.x[: len(at)]
        expected = self._kalman.P[at, at] + variances
        self._bias += BIAS_RATE * (innovation - self._bias)
        surplus = _power(innovation).sum(axis=1) / self._numbers - expected
        share = BIAS_RATE / (2 - BIAS_RATE)  # variance of the running mean over that of its terms
        biased = _power(self._bias).sum(axis=1) / self._numbers - share * expected
        limit = self._limits * expected
        moved = (surplus > limit) | (biased > share * limit)
        if moved.any():
            self._inflate(at[moved], np.maximum(surplus, biased)[moved], step)
        self._kalman.update(measured, R=np.diag(variances), H=self._kalman.H)  # H given: several numbers a block

    def _inflate(self, blocks: np.ndarray, surplus: np.ndarray, step: float) -> None:
        covariance, velocity = self._kalman.P, blocks + len(self._at)
        speed = 1 / step if step > 0 else 0.0
        covariance[blocks, blocks] += surplus
        covariance[velocity, velocity] += surplus * speed**2
        covariance[blocks, velocity] += surplus * speed
        covariance[velocity, blocks] += surplus * speed
        self._bias[blocks] = 0


def _power(numbers: np.ndarray) -> np.ndarray:
    """Squared magnitudes of complex numbers."""
    return numbers.real**2 + numbers.imag**2


def motion_groups(topology: Topology) -> list[np.ndarray]:
    """Points that move together: a brow, an eye, the nose, a lip, a third of the jaw, and those on no boundary."""
    groups: dict[str, list[int]] = {}
    taken: set[int] = set()  # the corners of the mouth go with the upper lip
    for name, line in topology.boundaries.items():
        *part, side = name.split()
        group = f"{side} lip" if "lip" in part else " ".join(part) or side  # "left eye upper" is of "left eye"
        groups.setdefault(group, []).extend(point for point in line if point not in taken)
        taken.update(line)
    jaw = np.array_split(np.array(groups.pop("jaw", []), int), 3)
    found = [*jaw, *map(np.array, groups.values())]
    rest = np.setdiff1d(np.arange(topology.points), np.concatenate(found))
    return [group for group in (*found, rest) if len(group)]


def fit_similarity(source: np.ndarray, target: np.ndarray, weights: np.ndarray) -> tuple[complex, complex]:
    """Offset and turn that carry complex points source (L,) nearest to target (L,): target ≈ offset + turn·source."""
    weights = weights / weights.sum()
    centre, goal = weights @ source, weights @ target
    arms = source - centre
    turn = (weights * arms.conj()) @ (target - goal) / max((weights * np.abs(arms) ** 2).sum(), 1e-12)
    return goal - turn * centre, turn
