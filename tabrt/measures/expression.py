"""What a face does: openness of the eyes, and the ones of ARKit's blend shapes that 98 points can tell.

All of it is read off points in the head's own axes (`facing`): the pose is undone, so that a turned or distant face
gives the same figures. Lengths are in distances between the outer eye corners. A shape is how far a feature has left
its place on the person's neutral face, over how far it goes at full strength; what is less than the spread of neutral
faces counts as nothing. Left and right in the names are the person's, as ARKit has them; `topology` has the picture's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from tabrt.measures.head import EYE_DISTANCE, TURNED_HEAD, side_of
from tabrt.measures.pose import Pose
from tabrt.topology import WFLW98

# The shapes that are told; the others of ARKit's 52 are not, and are absent rather than zero.
SHAPES = (
    *("browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight"),
    *("eyeBlinkLeft", "eyeBlinkRight", "eyeWideLeft", "eyeWideRight"),
    *("eyeLookDownLeft", "eyeLookDownRight", "eyeLookInLeft", "eyeLookInRight"),
    *("eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight"),
    *("jawOpen", "jawLeft", "jawRight", "mouthClose", "mouthLeft", "mouthRight"),
    *("mouthSmileLeft", "mouthSmileRight", "mouthFrownLeft", "mouthFrownRight"),
    *("mouthStretchLeft", "mouthStretchRight", "mouthPucker", "mouthFunnel", "mouthRollLower", "mouthRollUpper"),
)

# What is read off the face: mean (x, y) of points, or a difference of two such means. First the axis.
_FEATURES: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]] = {
    "gap": ("y", (93, 94, 95), (89, 90, 91)),  # between the lips
    "width": ("x", (82,), (76,)),  # of the mouth
    "corner right x": ("x", (76,), ()),
    "corner left x": ("x", (82,), ()),
    "corner right y": ("y", (76,), ()),
    "corner left y": ("y", (82,), ()),
    "mouth x": ("x", (79, 85, 90, 94), ()),
    "chin x": ("x", (15, 16, 17), ()),
    "chin y": ("y", (15, 16, 17), ()),
    "upper lip": ("y", (89, 90, 91), (78, 79, 80)),  # its height
    "lower lip": ("y", (84, 85, 86), (93, 94, 95)),
    "brow right inner": ("y", (37, 38), ()),
    "brow left inner": ("y", (42, 50), ()),
    "brow right outer": ("y", (33, 34, 41), ()),
    "brow left outer": ("y", (46, 45, 47), ()),
    "brow right": ("y", (35, 36, 39, 40), ()),
    "brow left": ("y", (44, 43, 49, 48), ()),
    "eye right": ("x", (64,), (60,)),  # its width
    "eye left": ("x", (72,), (68,)),
    "pupil right x": ("x", (96,), (60, 64)),
    "pupil left x": ("x", (97,), (68, 72)),
    "pupil right y": ("y", (96,), (60, 64)),
    "pupil left y": ("y", (97,), (68, 72)),
}
FEATURES = tuple(_FEATURES)
# Mean and standard deviation over people with a neutral face, of the points that the network gives: ten of Pointing'04
# and nine of the ZJU blinks, left and right together; widths of eyes: 200 portraits of `human`.
_NEUTRAL = {
    "gap": (0.016, 0.018),
    "width": (0.550, 0.025),
    "corner right x": (-0.273, 0.014),
    "corner left x": (0.273, 0.014),
    "corner right y": (0.758, 0.014),
    "corner left y": (0.758, 0.014),
    "mouth x": (0.0, 0.006),
    "chin x": (0.0, 0.008),
    "chin y": (1.234, 0.022),
    "upper lip": (0.086, 0.009),
    "lower lip": (0.093, 0.008),
    "brow right inner": (-0.200, 0.030),
    "brow left inner": (-0.200, 0.030),
    "brow right outer": (-0.199, 0.025),
    "brow left outer": (-0.199, 0.025),
    "brow right": (-0.238, 0.028),
    "brow left": (-0.238, 0.028),
    "eye right": (0.297, 0.024),
    "eye left": (0.297, 0.024),
    "pupil right x": (0.0, 0.005),
    "pupil left x": (0.0, 0.005),
    "pupil right y": (-0.029, 0.007),
    "pupil left y": (-0.029, 0.007),
}
NEUTRAL = np.array([_NEUTRAL[name][0] for name in FEATURES])
SPREAD = np.array([_NEUTRAL[name][1] for name in FEATURES])
FARTHEST = 2.5  # standard deviations that a neutral face is believed to be from the mean one
_LEAST, _MOST = NEUTRAL - FARTHEST * SPREAD, NEUTRAL + FARTHEST * SPREAD


def _weights() -> np.ndarray:
    """(F, 196): the features as a linear map of the x, then y, of points in the head's axes."""
    weights = np.zeros((len(FEATURES), 2, WFLW98.points))
    for row, (axis, plus, minus) in zip(weights, _FEATURES.values(), strict=True):
        row["xy".index(axis), list(plus)] = 1 / len(plus)
        if minus:
            row["xy".index(axis), list(minus)] = -1 / len(minus)
    return weights.reshape(len(FEATURES), -1)


_WEIGHTS = _weights()
FLATTEST = 0.35  # cosine between a line of sight and the head's own z axis, below which that plane counts as steeper

# Opposite points: three pairs of the lids of the right eye and of the left, then each eye's corners.
_UPPER = np.array([61, 62, 63, 71, 70, 69, 60, 72])
_LOWER = np.array([67, 66, 65, 73, 74, 75, 64, 68])
_OPPOSITE = np.zeros((WFLW98.points, 8))  # from one to the other, as a linear map
_OPPOSITE[_UPPER, np.arange(8)], _OPPOSITE[_LOWER, np.arange(8)] = 1, -1
_EYES = FEATURES.index("eye right"), FEATURES.index("eye left")

OPEN = 0.30  # height over width of an eye that is open as usual …
LEAST_OPEN, MOST_OPEN = 0.17, 0.42  # … and as it may be
SURELY_OPEN = 0.2  # the network's lids never meet: a shut eye has about 0.17, and less than this may be one
SHUT = 0.6  # of the open height: that of a shut eye …
LEAST_SHUT, MOST_SHUT = 0.45, 0.8  # … and as it may be
WINK = 0.25, 0.5  # differences in openness from which eyes are told apart a little, and wholly
SETTLING = 3.0  # s, in which a new face is learnt quickly


def facing(points: np.ndarray, pose: Pose) -> np.ndarray:
    """Points (98, 2) in frame px, as they would lie on a head that faces the camera: (98, 2) in eye distances.

    Each point is taken along its line of sight to the plane, parallel to the face, in which it lies on the mean head;
    where that plane is seen from its edge, FLATTEST keeps it near to where it is on that head. How far points slide
    over a head that turns is taken off.
    """
    rotation, lens = pose.unsighted, pose.lens
    sideways = rotation[:2].T / lens.focal
    across, down = lens.centre
    ahead = rotation[2] - across * sideways[:, 0] - down * sideways[:, 1]
    sight = sideways @ points.T.astype(np.float64) + ahead[:, None]  # (3, 98), in the head's axes
    x, y, z = (pose.translation @ rotation * (-1 / EYE_DISTANCE)).tolist()  # the camera, seen from the head
    before, share = side_of(*pose.rotation[2].tolist())
    layers = TURNED_HEAD.layer_steps[before] * share
    layers += TURNED_HEAD.layers[before]
    # How far along its line of sight each point is: as far as on the mean head, and on to its plane.
    far = rotation[2] @ layers[:3]
    far += pose.translation[2] / EYE_DISTANCE
    far += (layers[2] - z - far * sight[2]) / np.maximum(sight[2], FLATTEST)
    faced = sight[:2] * far
    faced += layers[3:]
    faced += [[x], [y]]
    return faced.T


def features(faced: np.ndarray) -> np.ndarray:
    """(F,) the features of points (98, 2) from `facing`."""
    return _WEIGHTS @ faced.T.ravel()


def eye_heights(faced: np.ndarray, usual: np.ndarray = NEUTRAL, hidden: float = 0.0) -> tuple[float, float]:
    """Mean height over width of the person's right and left eye, of points (98, 2) from `facing`.

    A head that turns shortens the width, and not the height: so that of the person's usual features (F,) takes its
    place, as far as half of the face is hidden.
    """
    across, down = (faced.T @ _OPPOSITE).tolist()
    lengths = list(map(math.hypot, across, down))
    right, left = (
        max(width + (float(usual[at]) - width) * hidden, 1e-6) for width, at in zip(lengths[6:], _EYES, strict=True)
    )
    return sum(lengths[:3]) / (3 * right), sum(lengths[3:6]) / (3 * left)


# Heads that are turned far

# Degrees of yaw: up to which all is told, from which on half of a face, and from which on hardly a thing.
AHEAD, PROFILE, BEYOND = 30.0, 60.0, 90.0
WANING = 45.0  # degrees, from which less and less is believed of brows and of the mouth's corners …
LIDS_WANING = 75.0  # … and of lids


def hidden_share(yaw: float) -> float:
    """How far the half of a face that is turned away is hidden, for a head turned by degrees: 0…1."""
    return _share(abs(yaw), AHEAD, PROFILE)


def believed(now: np.ndarray, usual: np.ndarray, yaw: float) -> np.ndarray:
    """Features (F,), as far as a head that is turned by degrees shows how they differ from the usual ones (F,).

    What goes up and down on the hidden side is taken from the other one, and fades; what goes across, and how thick
    lips are, is soon gone; how far the mouth is open is seen from everywhere.
    """
    hidden = hidden_share(yaw)
    if hidden == 0:
        return now
    moved, far = now - usual, _OF_RIGHT if yaw > 0 else _OF_LEFT
    both = moved + (moved[_OPPOSITE_SIDE] - moved) * (far * hidden)
    return usual + both * (1 - _SOON_GONE * hidden - _WANING * _share(abs(yaw), WANING, BEYOND))


def of_both_eyes(heights: tuple[float, float], opened: tuple[float, float], yaw: float) -> tuple[float, float]:
    """Heights of the right and the left eye, the hidden one as far from its open height as the other is.

    Seen from the very side, both are as open as usual; wider than usual neither is told from where half is hidden.
    """
    hidden, unseen = hidden_share(yaw), _share(abs(yaw), LIDS_WANING, BEYOND)
    if hidden == 0:
        return heights
    shares = [height / usual for height, usual in zip(heights, opened, strict=True)]
    far, near = (0, 1) if yaw > 0 else (1, 0)
    shares[far] += (shares[near] - shares[far]) * hidden
    shares = [min(share, 1 + (share - 1) * (1 - hidden)) for share in shares]
    right, left = (usual * (share + (1 - share) * unseen) for share, usual in zip(shares, opened, strict=True))
    return right, left


def _other_side(name: str) -> str:
    here, there = (" right", " left") if " right" in name else (" left", " right")
    return name.replace(here, there)


_UP_AND_DOWN = ("corner right y", "corner left y", *(name for name in FEATURES if name.startswith("brow")))
_WANING = np.array([float(name in _UP_AND_DOWN) for name in FEATURES])
_SOON_GONE = np.array([float(name not in _UP_AND_DOWN and name != "gap" and "pupil" not in name) for name in FEATURES])
_OF_RIGHT, _OF_LEFT = (_WANING * [side in name for name in FEATURES] for side in ("right", "left"))
_OPPOSITE_SIDE = np.array([FEATURES.index(_other_side(name)) for name in FEATURES])


@dataclass
class Neutral:
    """What is known of one person's face at rest. `learn` follows it from frame to frame.

    At first all is that of the mean of people. Features go towards what they are most of the time, by small steps that
    do not depend on how far they are off, so that a strong expression is no more than a passing one; and no
    farther than people differ. Eyes are open at the height that they seldom exceed.
    """

    features: np.ndarray = field(default_factory=NEUTRAL.copy)  # (F,)
    opened: tuple[float, float] = (OPEN, OPEN)  # heights of the open eyes, right and left
    shut: float = SHUT  # height of shut eyes over that of open ones
    age: float = 0.0  # s, that were learnt from
    fixed: bool = False  # set by hand: nothing is learnt

    PACE = 1 / 30  # standard deviations a second …
    FIRST_PACE = 0.7  # … and while settling
    # Time constants of the open height, s: eyes that are wider, or narrower; while settling; and surely not all open.
    RISING, FALLING, FIRST_RISING, FIRST_FALLING, WINKING, DOUBTING = 4.0, 6.0, 0.4, 1.0, 4.0, 60.0

    def learn(self, now: np.ndarray, heights: tuple[float, float], step: float) -> None:
        """Take in features (F,) and heights of the eyes of a frame, `step` seconds after the last."""
        if self.fixed:
            return
        settling = self.age < SETTLING
        self.age += step
        move = (self.FIRST_PACE if settling else self.PACE) * step * SPREAD
        moved = self.features + np.minimum(np.maximum(now - self.features, -move), move)
        self.features = np.minimum(np.maximum(moved, _LEAST), _MOST)
        either_open = max(heights) > SURELY_OPEN
        right, left = (
            self._followed(height, opened, step, settling, either_open)
            for height, opened in zip(heights, self.opened, strict=True)
        )
        self.opened = right, left

    def _followed(self, height: float, opened: float, step: float, settling: bool, either_open: bool) -> float:
        """The open height of an eye, a frame later."""
        if height > opened:
            span = self.FIRST_RISING if settling else self.RISING
        elif height > SURELY_OPEN:
            span = self.FIRST_FALLING if settling else self.FALLING
        else:  # shut; or narrow, where the other eye is not
            span = (self.FIRST_FALLING if settling else self.WINKING) if either_open else self.DOUBTING
        return min(max(opened + (height - opened) * (1 - math.exp(-step / span)), LEAST_OPEN), MOST_OPEN)

    def blinked(self, lowest: float) -> None:
        """Take in how far eyes went down in a blink, as a share of their open height."""
        if lowest < MOST_SHUT:
            self.shut = max(self.shut + 0.3 * (lowest - self.shut), LEAST_SHUT)

    def fix(self, now: np.ndarray, heights: tuple[float, float]) -> None:
        """Call this the neutral face."""
        self.features, self.fixed = now.copy(), True
        right, left = (min(max(height, LEAST_OPEN), MOST_OPEN) for height in heights)
        self.opened = right, left


def openness(heights: tuple[float, float], neutral: Neutral) -> tuple[float, float]:
    """How far the right and the left eye are open, 0…1, of their heights."""
    right, left = (
        (height / opened - neutral.shut) / (1 - neutral.shut)
        for height, opened in zip(heights, neutral.opened, strict=True)
    )
    # Lids move together but for a wink: what small difference there is, is noise.
    low, high = WINK
    apart = min(max((abs(right - left) - low) / (high - low), 0.0), 1.0)
    middle, aside = (right + left) / 2, (right - left) / 2 * apart
    return min(max(middle + aside, 0.0), 1.0), min(max(middle - aside, 0.0), 1.0)


def frontal(yaw: float) -> float:
    """How far what only a face that looks ahead tells is believed of a head turned by degrees, 0…1."""
    return min(max((45 - abs(yaw)) / 30, 0.0), 1.0)


# How far features have moved for each part of the shapes: their weights, what counts as nothing, and full strength. An
# opening mouth draws its corners down; a corner goes up, or out, or both.
_UP, _OUT = 0.15, 0.5


def _side(side: str, out: int) -> dict[str, tuple[dict[str, float], float, float]]:
    """The parts on the person's left or right; out: the sign of x away from the middle."""
    name = side.lower()
    up = {f"corner {name} y": -1.0, "gap": _UP}
    outwards = {f"corner {name} x": float(out), "mouth x": -float(out)}
    return {
        f"mouthFrown{side}": ({part: -weight for part, weight in up.items()}, 0.02, 0.065),
        f"browDown{side}": ({f"brow {name} inner": 0.5, f"brow {name}": 0.5}, 0.025, 0.065),
        f"browOuterUp{side}": ({f"brow {name} outer": -1.0}, 0.03, 0.095),
        f"up {side}": (up, 0.025, 0.13),
        f"up and out {side}": (up | {part: _OUT * weight for part, weight in outwards.items()}, 0.025, 0.13),
        f"out {side}": (outwards, 0.025, 0.085),
        f"out, not up {side}": (outwards | {part: -weight for part, weight in up.items()}, 0.025, 0.085),
    }


_PARTS: dict[str, tuple[dict[str, float], float, float]] = {
    "lips": ({"gap": 1.0}, 0.02, 0.32),
    "parted": ({"gap": 1.0}, 0.0, 0.12),
    "narrower": ({"width": -1.0}, 0.035, 0.14),
    "mouthLeft": ({"mouth x": 1.0}, 0.02, 0.14),
    "mouthRight": ({"mouth x": -1.0}, 0.02, 0.14),
    "browInnerUp": ({"brow left inner": -0.5, "brow right inner": -0.5}, 0.03, 0.085),
    "mouthRollUpper": ({"upper lip": -1.0}, 0.018, 0.06),
    "mouthRollLower": ({"lower lip": -1.0}, 0.018, 0.065),
    **_side("Left", 1),
    **_side("Right", -1),
}
_LEAST_MOVE, _FULL_MOVE = (np.array([part[i] for part in _PARTS.values()]) for i in (1, 2))
_MOVES = np.array([[part[0].get(name, 0.0) for name in FEATURES] for part in _PARTS.values()])  # (P, F)
_MOVES = _MOVES / (_FULL_MOVE - _LEAST_MOVE)[:, None]
_NOTHING = _LEAST_MOVE / (_FULL_MOVE - _LEAST_MOVE)
_CHIN_X, _CHIN_Y = FEATURES.index("chin x"), FEATURES.index("chin y")
_DIRECT = tuple(name for name in _PARTS if name[0].islower() and name in SHAPES)  # parts that are shapes


def shapes(
    moved: np.ndarray, heights: tuple[float, float], opened: tuple[float, float], neutral: Neutral, yaw: float
) -> dict[str, float]:
    """The shapes of brows, jaw, mouth and lids: 0…1 by ARKit's names.

    moved (F,): features less the neutral ones. heights, opened: of the right and the left eye, their openness too. yaw:
    degrees that the head is turned; the jaw's points slide along the outline as it turns, so that jaw and chin are
    trusted less.
    """
    told = dict(zip(_PARTS, np.minimum(np.maximum(_MOVES @ moved - _NOTHING, 0.0), 1.0).tolist(), strict=True))
    found = {name: told[name] for name in _DIRECT}
    for side in ("Left", "Right"):
        found[f"mouthSmile{side}"] = max(told[f"up {side}"], told[f"up and out {side}"])
        found[f"mouthStretch{side}"] = min(told[f"out {side}"], told[f"out, not up {side}"])
    found["mouthPucker"] = told["narrower"] * (1 - told["parted"])
    found["mouthFunnel"] = told["narrower"] * told["parted"]
    ahead = frontal(yaw)
    aside, dropped = float(moved[_CHIN_X]) * ahead, float(moved[_CHIN_Y]) * ahead
    found["jawOpen"] = max(told["lips"], _share(dropped, 0.06, 0.38))
    found["mouthClose"] = max(0.0, found["jawOpen"] - told["lips"])
    found["jawLeft"], found["jawRight"] = _share(aside, 0.045, 0.11), _share(-aside, 0.045, 0.11)
    found["eyeBlinkRight"], found["eyeBlinkLeft"] = 1 - opened[0], 1 - opened[1]
    found["eyeWideRight"] = _share(heights[0] / neutral.opened[0] - 1, 0.12, 0.4)
    found["eyeWideLeft"] = _share(heights[1] / neutral.opened[1] - 1, 0.12, 0.4)
    return found


def _share(value: float, nothing: float, full: float) -> float:
    """Where a value lies from what counts as nothing to full strength, 0…1."""
    return min(max(0.0, (value - nothing) / (full - nothing)), 1.0)
