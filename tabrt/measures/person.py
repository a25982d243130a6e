"""One followed person: what must be remembered from frame to frame, and what is read of a face with it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from tabrt.measures.blinks import Blink, BlinkFinder
from tabrt.measures.corners import Corners
from tabrt.measures.expression import (
    AHEAD,
    PROFILE,
    Neutral,
    believed,
    eye_heights,
    facing,
    features,
    hidden_share,
    of_both_eyes,
    openness,
    shapes,
)
from tabrt.measures.gaze import Gaze, gaze_of, look_shapes
from tabrt.measures.lens import Lens
from tabrt.measures.pose import Pose, head_pose

LONGEST_STEP = 0.5  # s between frames, after which a pose is no start for the next
SURE = 0.6  # mean confidence of the points, below which much is covered: nothing is learnt, and no blink is told


@dataclass(frozen=True, eq=False)
class Measures(Mapping[str, float]):
    """What a face does: 0…1 by ARKit's names, such as `eyeBlinkLeft`, of which those that are told are in it.

    Left and right are the person's. An eye that is shut has no eyeLook shapes.
    """

    shapes: dict[str, float]
    left_eye: float  # openness 0…1
    right_eye: float
    blink: Blink | None  # the one that ended in this frame

    def __getitem__(self, name: str) -> float:
        return self.shapes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


class Person:
    """The memory behind one id: the last pose, the neutral face, and the blink under way.

    Frames are to be given in the order of their times: one that is not newer than the last is read, and teaches
    nothing.
    """

    def __init__(self) -> None:
        self.neutral = Neutral()
        self._blinks = BlinkFinder()
        self._pose: Pose | None = None
        self._corners = Corners()
        self._pose_time = self._time = -np.inf
        self._now: tuple[np.ndarray, tuple[float, float]] | None = None

    def pose(self, points: np.ndarray, confidence: np.ndarray, lens: Lens, time: float) -> Pose | None:
        """The pose of points (98, 2) in frame px, sought near the last one."""
        step = time - self._pose_time
        last = self._pose if 0 <= step <= LONGEST_STEP else None
        held = None if last is None else self._corners.held(points, last, step)
        found = head_pose(points, confidence, lens, last, held)
        if step >= 0:
            if last is None:
                self._corners = Corners()
            if found is not None:
                self._corners.learn(found, held, step)
            self._pose, self._pose_time = found, time
        return found

    def read(
        self, points: np.ndarray, confidence: np.ndarray, pose: Pose | None, time: float, later: float = 0.0
    ) -> tuple[Gaze | None, Measures | None]:
        """Gaze and measures of points (98, 2) in frame px with confidence (98,) and this pose; None without one.

        later: seconds by which the times of blinks are told later than by `time`.
        """
        if pose is None:
            return None, None
        faced = facing(points, pose)
        usual = self.neutral.features
        now = believed(features(faced), usual, pose.yaw)
        heights = eye_heights(faced, usual, hidden_share(pose.yaw))
        heights = of_both_eyes(heights, self.neutral.opened, pose.yaw)
        blink = None
        if time > self._time:
            self._now = now, heights
            step, self._time = min(time - self._time, LONGEST_STEP), time
            sure = float(confidence.sum()) > SURE * len(confidence)
            seen = sure and abs(pose.yaw) < PROFILE
            blink = self._blinks(time, sum(heights) / 2 if seen else math.nan, self.neutral.shut)
            if blink is not None:
                self.neutral.blinked(blink.lowest)
                blink = replace(blink, time=blink.time + later, lowest_time=blink.lowest_time + later)
            if sure and abs(pose.yaw) < AHEAD:
                self.neutral.learn(now, heights, step)
        right, left = opened = openness(heights, self.neutral)
        moved = now - self.neutral.features
        gaze = gaze_of(moved, opened, pose, confidence)
        found = shapes(moved, heights, opened, self.neutral, pose.yaw) | look_shapes(gaze)
        return gaze, Measures(found, left, right, blink)

    def be_neutral(self) -> None:
        """Take the face as it was last seen for this person's neutral one."""
        if self._now is not None:
            self.neutral.fix(*self._now)


@dataclass(frozen=True, eq=False)
class Sight:
    """How a face was seen: by what lens, of whom, and when."""

    lens: Lens
    person: Person
    clock: float  # s, which always advances
    time: float  # s, the frame's own
    scale: tuple[float, float] = (1.0, 1.0)  # square px for one px of the frame, along x and y
