"""Steady points: Kalman filters on a face's pose and on its shape.

A face moves in two ways. As a whole it shifts, turns and grows: four numbers, known from all points at once and so
almost free of noise; they are followed closely. Within the face little moves, and seldom: the shape, seen in the face's
own frame, is smoothed hard, which costs no lag when the head moves. Points that move together (an eye's lids, a lip)
share one filter and one measured noise, so that a single look at its innovation tells a blink from noise; motion passes
at once. Talk comes back some three times a second, and a head that turns goes on turning: head, lips, nose and jaw that
moved are expected to move again; they rest only after a while.
"""

from __future__ import annotations

import math
from statistics import median

import numpy as np

from tabrt.topology import WFLW98, Topology
from tabrt.tracking.kalman import BlockFilter

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
QUICK = "left eye", "right eye", "upper lip", "lower lip"  # groups
TALKING = "upper lip", "lower lip", "chin"  # groups that move again and again …
TURNING = "nose", "left jaw", "right jaw"  # … and those that move, as the pose does, while a head turns
RHYTHM = 0.2  # s, in which what such a group is known to move by fades: a syllable comes sooner
EXPECTED_MOTION = 0.1  # share of the variance of that motion which is expected in each frame
FIRST_MOTION = 0.03  # from frame to frame, by which a face is taken to have moved before it was first seen
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
        shares = [POSE_SHARE, *(QUICK_SHARE if name in QUICK else 1.0 for name in groups)]
        self._calm = (self._strength * np.array(shares)) ** 2  # factor on the variance of noise of what rests
        self._talking = np.array([False, *(name in TALKING for name in groups)])
        self._turning = np.array([True, *(name in TURNING for name in groups)])
        self._group = np.empty(topology.points, int)  # of each point
        for number, group in enumerate(groups.values()):
            self._group[group] = number
        self._means = _means(self._group)
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
        # As complex numbers: a similarity is one product.
        seen = np.ascontiguousarray(points, np.float64).view(complex)[:, 0]
        confidence = np.maximum(confidence, LEAST_CONFIDENCE)
        if self._filter is None or not 0 <= step <= LONGEST_STEP:
            self._start(seen, confidence)
            return points
        smooth = self._follow(self._filter, seen, confidence, step)
        return smooth.view(float).reshape(-1, 2).astype(points.dtype)

    def _start(self, seen: np.ndarray, confidence: np.ndarray) -> None:
        """Begin with a look that is as unsure as the next ones, and as if the face had been moving."""
        centre = seen.mean()
        size = max(SIZE_PER_RADIUS * math.sqrt(_power(seen - centre).mean()), 1e-6)
        shape = (seen - centre) / size
        self._variances = np.full(len(self._means), POINT_NOISE**2)
        self._last = shape, np.zeros_like(shape), np.zeros_like(shape)  # in the face's own frame, and its differences
        blocks = np.concatenate([[0, 0], 1 + self._group])  # the pose, then the groups
        variances = self._noise(size, confidence) * self._calm
        self._filter = _Filter(np.concatenate([[centre, size], shape]), blocks, variances, self._talking, self._turning)
        moved = np.zeros(len(variances))
        moved[0] = (FIRST_MOTION * size) ** 2
        self._filter.remember(moved)

    def _follow(self, kalman: _Filter, seen: np.ndarray, confidence: np.ndarray, step: float) -> np.ndarray:
        size = max(abs(kalman.positions[1]), 1e-6)
        kalman.follow(POSE_DRIFT * size**2, step)
        shape = kalman.positions[2:]
        # What moves within the face does not tell how the face moves.
        offset, turn = fit_similarity(shape, seen, confidence / (1 + kalman.motion[1:])[self._group])
        inside = (seen - offset) / turn if turn else shape  # in the face's own frame
        self._measure_noise(inside)
        kalman.take(np.concatenate([[offset, turn], inside]), self._noise(size, confidence), self._calm, step)
        positions = kalman.positions
        return positions[0] + positions[1] * positions[2:]

    def _noise(self, size: float, confidence: np.ndarray) -> np.ndarray:
        """(B,): variance of the noise of each block, of a face of a size in px."""
        usual = median(self._variances.tolist())
        sure = self._means @ np.repeat(confidence, 2)
        noise = np.empty(len(self._calm))
        noise[0] = usual * size**2
        noise[1:] = np.minimum(self._variances, MAX_NOISE_RATIO**2 * usual) / (sure * sure)
        return noise

    def _measure_noise(self, inside: np.ndarray) -> None:
        """Follow the variance of noise of each group: a network sees eyes better than lips, and cameras differ.

        The third difference of white noise has twenty times its variance; that of motion, even of talking lips, is
        little. The quantile over time leaves out what moves now and then.
        """
        last, last_first, last_second = self._last
        first = inside - last
        second = first - last_first
        self._last = inside, first, second
        bends = _mean_power(self._means, second - last_second) / 20
        followed = self._variances * np.where(bends > self._variances, _NOISIER, _CALMER)
        self._variances = np.minimum(np.maximum(followed, LEAST_NOISE**2), MOST_NOISE**2)


_NOISIER, _CALMER = math.exp(NOISE_RATE * NOISE_QUANTILE), math.exp(NOISE_RATE * (NOISE_QUANTILE - 1))


class _Filter(BlockFilter):
    """Constant-velocity filters of complex numbers side by side: block 0 is the pose, whose velocity stays; the others'
    fades.

    Blocks that are `turning` (B,) remember for a while how much they moved, each for itself; those that are `talking`
    (B,) as one, for where a lip moves, the chin is about to. `motion` (B,) is the variance of that over that of noise:
    0 for what rests.
    """

    def __init__(
        self,
        positions: np.ndarray,
        blocks: np.ndarray,
        variances: np.ndarray,
        talking: np.ndarray,
        turning: np.ndarray,
    ):
        super().__init__(positions, blocks, variances)
        self._means = _means(blocks)
        self._limits = MOTION * np.sqrt(2 / (2 * np.bincount(blocks)))
        self._drift = np.full(len(variances), POINT_DRIFT)
        self._kept = np.ones(len(variances))
        self._bias = np.zeros_like(positions)  # running mean of the innovations
        self._talking, self._turning = talking, turning
        self._moved_by = np.zeros(len(variances))  # variance of the motion that is remembered
        self.motion = np.zeros(len(variances))

    @property
    def positions(self) -> np.ndarray:
        return self.x[0]

    def follow(self, pose_drift: float, step: float) -> None:
        """Move on by a time step in seconds; the velocities wander as by white-noise acceleration."""
        self._drift[0] = pose_drift
        self._kept[1:] = math.exp(-step / POINT_PERSISTENCE)
        self.predict(step, self._kept, self._drift)
        self._moved_by *= math.exp(-step / RHYTHM)
        self._loosen(EXPECTED_MOTION * self._moved_by, step)

    def take(self, positions: np.ndarray, noise: np.ndarray, calm: np.ndarray, step: float) -> None:
        """Take in measured positions (N,) with the variance of noise of each block (B,), and the factor (B,) by which
        that of one that rests is taken larger than it is.

        Where a block's innovation is too large for noise, or leans to one side for too long, its velocity was not what
        it was thought to be: its variance is raised to what explains the innovation, and the gain tends to 1. The more
        it moves, the less its noise is exaggerated.
        """
        innovation = positions - self.positions
        self._bias += BIAS_RATE * (innovation - self._bias)
        variances = self._exaggerated(noise, calm)
        expected = self.P[0] + variances
        share = BIAS_RATE / (2 - BIAS_RATE)  # variance of the running mean over that of its terms
        surplus = _mean_power(self._means, innovation) - expected
        biased = _mean_power(self._means, self._bias) - share * expected
        limit = self._limits * expected
        moved = (surplus > limit) | (biased > share * limit)
        if moved.any():
            by = np.where(moved, np.maximum(surplus, biased), 0.0)
            self._loosen(by, step)
            self._bias[moved[self.blocks]] = 0
            self.remember(by)
            variances = self._exaggerated(noise, calm)
        self.update(innovation, variances)

    def remember(self, by: np.ndarray) -> None:
        talk = (by * self._talking).max()
        self._moved_by = np.maximum(self._moved_by, by * self._turning + talk * self._talking)

    def _exaggerated(self, noise: np.ndarray, calm: np.ndarray) -> np.ndarray:
        self.motion = self._moved_by / noise
        return noise * np.minimum(calm, 1 + (calm - 1) / (1 + self.motion))

    def _loosen(self, by: np.ndarray, step: float) -> None:
        """Raise the variances of positions, and of the velocities that would explain it."""
        speed = 1 / step if step > 0 else 0.0
        self.P += np.array([[1.0], [speed], [speed**2]]) * by


def _means(groups: np.ndarray) -> np.ndarray:
    """(G, 2 N): the mean of each group, of the real and imaginary parts of numbers whose groups (N,) these are."""
    members = np.arange(groups.max() + 1)[:, None] == np.repeat(groups, 2)
    return members / members.sum(axis=1, keepdims=True)


def _mean_power(means: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """(G,): mean square of the real and imaginary parts of complex numbers (N,) of each group."""
    parts = numbers.view(float)
    return means @ (parts * parts)


def _power(numbers: np.ndarray) -> np.ndarray:
    """Squared magnitudes of complex numbers."""
    return numbers.real**2 + numbers.imag**2


def motion_groups(topology: Topology) -> dict[str, np.ndarray]:
    """Points that move together: a brow, an eye, the nose, a lip, a third of the jaw, and those on no boundary."""
    groups: dict[str, list[int]] = {}
    taken: set[int] = set()  # the corners of the mouth go with the upper lip
    for name, line in topology.boundaries.items():
        *part, side = name.split()
        group = f"{side} lip" if "lip" in part else " ".join(part) or side  # "left eye upper" is of "left eye"
        groups.setdefault(group, []).extend(point for point in line if point not in taken)
        taken.update(line)
    thirds = np.array_split(np.array(groups.pop("jaw", []), int), 3)
    found = dict(zip(("left jaw", "chin", "right jaw"), thirds, strict=True))
    found |= {name: np.array(group) for name, group in groups.items()}
    found["rest"] = np.setdiff1d(np.arange(topology.points), np.concatenate(list(found.values())))
    return {name: group for name, group in found.items() if len(group)}


def fit_similarity(source: np.ndarray, target: np.ndarray, weights: np.ndarray) -> tuple[complex, complex]:
    """Offset and turn that carry complex points source (L,) nearest to target (L,): target ≈ offset + turn·source."""
    whole = weights.sum()
    weighed = weights * source
    centre, goal = weighed.sum() / whole, weights @ target / whole
    spread = np.vdot(weighed, source).real - whole * abs(centre) ** 2
    turn = (np.vdot(weighed, target) - whole * centre.conjugate() * goal) / max(spread, 1e-12)
    return goal - turn * centre, turn
