"""What is known of a camera before it is opened."""

from __future__ import annotations

from dataclasses import dataclass

import cv2


@dataclass(frozen=True)
class Camera:
    """One camera. `path` may change when it is plugged in anew; `stable_path`, where there is one, does not.

    On Linux they are files; elsewhere `path` is the camera's number in the list, `stable_path` is what the system calls
    it by, and `number` is OpenCV's, which holds the back end, too.
    """

    path: str  # /dev/video0; elsewhere 0
    name: str
    stable_path: str | None = None
    number: int | None = None

    def __str__(self) -> str:
        return f"{self.path} ({self.name})"


def with_settings(capture: cv2.VideoCapture, size: tuple[int, int] | None, fps: float | None) -> cv2.VideoCapture:
    """The capture, asked for a size and a rate."""
    for what, value in settings(size, fps).items():
        capture.set(what, value)
    return capture


def settings(size: tuple[int, int] | None, fps: float | None) -> dict[int, float]:
    """A size and a rate as OpenCV's properties; those that are not asked for are left out."""
    width, height = size or (None, None)
    asked = {cv2.CAP_PROP_FRAME_WIDTH: width, cv2.CAP_PROP_FRAME_HEIGHT: height, cv2.CAP_PROP_FPS: fps}
    return {what: value for what, value in asked.items() if value}
