"""Where faces are: `Detector` finds them, `runtime` says what runs its models."""

from tabrt.detection.choosing import RUNTIMES, Detector, Runtime
from tabrt.detection.views import SAME_FACE, intersection_over_minimum, non_maximum_suppression

__all__ = ["RUNTIMES", "SAME_FACE", "Detector", "Runtime", "intersection_over_minimum", "non_maximum_suppression"]
