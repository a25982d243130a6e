"""Where eyes look: from the pupils within the lids, and the head's pose."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from tabrt.measures.expression import BEYOND, FEATURES, PROFILE
from tabrt.measures.head import EYE_DISTANCE
from tabrt.measures.pose import Pose

EYEBALL = 0.012  # m, radius: a degree moves the pupil by 0.2 mm, 0.24 % of the eye distance
SHUT = 0.35  # openness below which a pupil is not seen
WIDEST = 45.0  # degrees an eye turns in its socket
NEAR_SEEN = math.cos(math.radians(45))  # of a turn, up to which the eye on the near side is fully seen
CROSSED = 8.0  # degrees by which two eyes may seem to turn towards each other before they are told to
SIDEWAYS, UPWARDS, DOWNWARDS = 35.0, 25.0, 35.0  # degrees at which ARKit's eyeLook shapes are full
_FARTHEST = math.sin(math.radians(WIDEST))
_X = {side: FEATURES.index(f"pupil {side} x") for side in ("left", "right")}
_Y = {side: FEATURES.index(f"pupil {side} y") for side in ("left", "right")}
PUPIL = {"right": 96, "left": 97}  # points


@dataclass(frozen=True, eq=False)
class EyeGaze:
    """Where one eye looks. Angles have the signs of a pose: yaw > 0 to the person's right, pitch > 0 down."""

    yaw: float  # degrees, in the head
    pitch: float
    confidence: float  # 0…1
    head: np.ndarray = field(repr=False)  # (3, 3) rotation of the head

    @cached_property
    def direction(self) -> np.ndarray:
        """(3,) unit, in the camera's axes; (0, 0, -1) looks along the line of sight to the camera."""
        yaw, pitch = math.radians(self.yaw), math.radians(self.pitch)
        straight = math.cos(pitch)  # the eye's own axis, -z turned by yaw and pitch
        return self.head @ (-math.sin(yaw) * straight, math.sin(pitch), -math.cos(yaw) * straight)


@dataclass(frozen=True, eq=False)
class Gaze:
    """Where the person's eyes look; None for an eye that is shut or not seen. Two that are seen move together."""

    left: EyeGaze | None
    right: EyeGaze | None

    @property
    def both(self) -> EyeGaze | None:
        """The mean of the eyes that look, weighed by confidence: the steadiest; None where none does."""
        eyes = [eye for eye in (self.left, self.right) if eye is not None]
        if len(eyes) < 2:
            return eyes[0] if eyes else None
        one, other = eyes
        whole = max(one.confidence + other.confidence, 1e-6)
        share = one.confidence / whole if whole > 1e-6 else 0.5
        yaw, pitch = (
            share * here + (1 - share) * there for here, there in ((one.yaw, other.yaw), (one.pitch, other.pitch))
        )
        return EyeGaze(yaw, pitch, max(one.confidence, other.confidence), one.head)


def gaze_of(moved: np.ndarray, opened: tuple[float, float], pose: Pose, confidence: np.ndarray) -> Gaze:
    """The gaze from features less the neutral ones (F,), openness of the right and the left eye, pose, and confidence
    (98,) of the points.

    Angles are from where the person's pupils are most of the time, for points alone cannot tell where an eye's middle
    is.
    """
    right, left = opened
    return _together(
        Gaze(
            left=_eye("left", moved, left, pose, -pose.yaw, confidence),
            right=_eye("right", moved, right, pose, pose.yaw, confidence),
        )
    )


def _together(gaze: Gaze) -> Gaze:
    """The same of eyes that turn as one, or towards each other: each by itself is off by some degrees.

    That they are crossed is believed as far as the less sure one is: of a head turned far that is a guess.
    """
    left, right, both = gaze.left, gaze.right, gaze.both
    if left is None or right is None or both is None:
        return gaze
    least, most = sorted((left.confidence, right.confidence))
    crossed = max(left.yaw - right.yaw - CROSSED, 0.0)  # yaw > 0 is to the person's right: inwards for the left eye
    inwards = crossed / 2 * (least / most if most > 0 else 0.0)
    return Gaze(
        left=replace(left, yaw=both.yaw + inwards, pitch=both.pitch),
        right=replace(right, yaw=both.yaw - inwards, pitch=both.pitch),
    )


def _eye(
    side: str, moved: np.ndarray, opened: float, pose: Pose, turned: float, confidence: np.ndarray
) -> EyeGaze | None:
    """One eye's. turned: degrees by which it is turned away from the camera: the farther either way, the less it is
    trusted, that on the far side first."""
    if opened < SHUT:
        return None
    told = min(max((BEYOND - abs(turned)) / (BEYOND - PROFILE), 0.0), 1.0)  # in a profile only the head's direction
    sine_yaw, sine_pitch = (
        min(max(float(part) * (EYE_DISTANCE / EYEBALL) * told, -_FARTHEST), _FARTHEST)
        for part in (-moved[_X[side]], moved[_Y[side]])
    )
    across = math.cos(math.radians(turned))  # how wide the eye on the near side is still seen
    seen = max(math.cos(math.radians(turned * 1.5)) if turned > 0 else min(1.0, across / NEAR_SEEN), 0.0)
    sure = float(confidence[PUPIL[side]]) * min(1.0, (opened - SHUT) / 0.3) * seen
    yaw, pitch = math.degrees(math.asin(sine_yaw)), math.degrees(math.asin(sine_pitch))
    return EyeGaze(yaw, pitch, min(max(sure, 0.0), 1.0), pose.rotation)


def look_shapes(gaze: Gaze) -> dict[str, float]:
    """ARKit's eyeLook shapes of a gaze, 0…1; those of an eye that is shut are absent."""
    found = {}
    for side, eye, inwards in (("Left", gaze.left, 1), ("Right", gaze.right, -1)):
        if eye is None:
            continue
        aside = eye.yaw * inwards / SIDEWAYS  # yaw > 0 is to the person's right: inwards for the left eye
        found[f"eyeLookIn{side}"], found[f"eyeLookOut{side}"] = _parts(aside)
        found[f"eyeLookDown{side}"] = _parts(eye.pitch / DOWNWARDS)[0]
        found[f"eyeLookUp{side}"] = _parts(eye.pitch / UPWARDS)[1]
    return found


def _parts(value: float) -> tuple[float, float]:
    """Positive and negative part, each at most 1."""
    return min(max(0.0, value), 1.0), min(max(0.0, -value), 1.0)
