"""The One-Euro filter (Casiez et al., CHI 2012) on landmarks, with the constants and the scaling of MediaPipe's
Face Landmarker: what most people's landmarks go through today."""

from __future__ import annotations

import math

import numpy as np

MEDIAPIPE = {"min_cutoff": 0.05, "beta": 80.0, "derivative_cutoff": 1.0}


def one_euro(
    track: np.ndarray,
    times: np.ndarray,
    min_cutoff: float = MEDIAPIPE["min_cutoff"],
    beta: float = MEDIAPIPE["beta"],
    derivative_cutoff: float = MEDIAPIPE["derivative_cutoff"],
) -> np.ndarray:
    """Smooth a track (T, L, 2) seen at times (T,), seconds. Cutoffs in Hz.

    Speeds count in face sizes a second: the mean of width and height of the points' box, frame by frame.
    """
    out = np.empty_like(track)
    out[0] = smooth = track[0]
    speed = np.zeros_like(track[0])
    for now in range(1, len(track)):
        elapsed = times[now] - times[now - 1]
        size = np.ptp(track[now], axis=0).mean()
        change = (track[now] - track[now - 1]) / size / elapsed
        speed = speed + _share(derivative_cutoff, elapsed) * (change - speed)
        smooth = smooth + _share(min_cutoff + beta * np.abs(speed), elapsed) * (track[now] - smooth)
        out[now] = smooth
    return out


def _share(cutoff, elapsed: float):
    """The weight of the new value in a first-order low pass."""
    return 1 / (1 + 1 / (2 * math.pi * cutoff * elapsed))
