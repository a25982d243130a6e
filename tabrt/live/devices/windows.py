"""Cameras of Windows: Media Foundation's, and those that DirectShow alone knows, as virtual ones."""

from __future__ import annotations

import cv2

from tabrt.live.devices.camera import Camera, settings, with_settings
from tabrt.live.devices.listing import listed

DIRECT_SHOW = range(cv2.CAP_DSHOW, cv2.CAP_DSHOW + 100)  # its numbers


def cameras() -> list[Camera]:
    """The cameras plugged in; a camera that both list is Media Foundation's."""
    return listed(cv2.CAP_MSMF, cv2.CAP_DSHOW)


def open_camera(device: str | Camera, size: tuple[int, int] | None, fps: float | None) -> cv2.VideoCapture:
    """A camera as it was listed, or by its number.

    Each setting after opening costs Media Foundation seconds, so they are given with it. DirectShow gives ten pictures
    a second of most cameras unless MJPEG is asked for first.
    """
    number = int(device) if isinstance(device, str) else device.number or 0
    asked = settings(size, fps)
    if number in DIRECT_SHOW:
        asked = {cv2.CAP_PROP_FOURCC: float(cv2.VideoWriter.fourcc(*"MJPG")), **asked}
    if asked:
        capture = cv2.VideoCapture(number, cv2.CAP_ANY, [int(word) for pair in asked.items() for word in pair])
        if capture.isOpened():
            return capture
        capture.release()  # it has not all of them: it gives the nearest
    capture = cv2.VideoCapture(number, cv2.CAP_ANY)
    return with_settings(capture, size, fps) if capture.isOpened() else capture


def refusal(asking: bool) -> str | None:
    """Windows says no only by giving no pictures."""
    return None
