"""What points mean: head pose, gaze, openness of the eyes, blinks, expression. Pure functions of points.

`Person` holds what must be remembered from frame to frame; everything else depends on its arguments alone.
"""

from tabrt.measures.blinks import Blink, BlinkFinder, find_blinks
from tabrt.measures.expression import SHAPES, Neutral
from tabrt.measures.gaze import EyeGaze, Gaze
from tabrt.measures.lens import Calibration, Lens
from tabrt.measures.person import Measures, Person, Sight
from tabrt.measures.pose import Pose, head_pose, rotation_of

__all__ = [
    "SHAPES",
    "Blink",
    "BlinkFinder",
    "Calibration",
    "EyeGaze",
    "Gaze",
    "Lens",
    "Measures",
    "Neutral",
    "Person",
    "Pose",
    "Sight",
    "find_blinks",
    "head_pose",
    "rotation_of",
]
