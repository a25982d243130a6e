"""The way of the system that this is."""

from __future__ import annotations

import sys
from types import ModuleType

import cv2

from tabrt.errors import TabrtError
from tabrt.live.devices import macos, video4linux, windows
from tabrt.live.devices.camera import Camera

WAYS = {"linux": video4linux, "darwin": macos, "win32": windows}


def _way() -> ModuleType:
    return WAYS.get(sys.platform, video4linux)


def cameras() -> list[Camera]:
    """The cameras plugged in, in the order of their numbers; none where the system lists none."""
    return _way().cameras()


def open_camera(device: str | Camera, size: tuple[int, int] | None, fps: float | None) -> cv2.VideoCapture:
    """A camera by its path on Linux, else as it was listed, asked for this size (width, height) and rate.

    It may not be open then. Raises TabrtError for one that may not be opened.
    """
    return _way().open_camera(device, size, fps)


def refusal(asking: bool = False) -> str | None:
    """Why the system lets this program have no camera's pictures, with the remedy; None where it does, or may.

    asking: whether a system that asks its user may do so now.
    """
    return _way().refusal(asking)


def require_permission() -> None:
    """Ask for the cameras where the system wants that. Raises TabrtError, in words, where they are refused."""
    problem = refusal(asking=True)
    if problem:
        raise TabrtError(problem)
