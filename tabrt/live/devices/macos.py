"""Cameras of macOS, by AVFoundation, which gives pictures to no program that its user has not allowed to have them."""

from __future__ import annotations

import logging
import os
import threading
from typing import Any

import cv2

from tabrt.live.devices.camera import Camera, with_settings
from tabrt.live.devices.listing import listed

# AVAuthorizationStatus
NOT_DETERMINED, RESTRICTED, DENIED, AUTHORIZED = range(4)
PATIENCE = 60.0  # seconds for the user to answer
SETTINGS = "System Settings, Privacy & Security, Camera"
REFUSALS = {
    RESTRICTED: "macOS restricts cameras on this machine (Screen Time, or a profile); ask who manages it",
    DENIED: f"macOS does not let this program use the camera: allow your terminal in {SETTINGS}, then start the "
    "terminal again (if it is not listed there: tccutil reset Camera)",
    NOT_DETERMINED: f"nobody answered whether this program may use the camera: start it in Terminal, which asks, or "
    f"allow it in {SETTINGS}",
}

log = logging.getLogger("tabrt")


def cameras() -> list[Camera]:
    """The cameras plugged in, in OpenCV's order, by the name and the unique id that macOS gives them."""
    return listed(cv2.CAP_AVFOUNDATION)


def open_camera(device: str | Camera, size: tuple[int, int] | None, fps: float | None) -> cv2.VideoCapture:
    """A camera as it was listed, or by its number."""
    number = int(device) if isinstance(device, str) else device.number or 0
    capture = cv2.VideoCapture(number % cv2.CAP_AVFOUNDATION, cv2.CAP_AVFOUNDATION)
    return with_settings(capture, size, fps) if capture.isOpened() else capture


def refusal(asking: bool) -> str | None:
    """What macOS has decided on this program; with `asking`, its user is asked who has not answered yet.

    Asked here and not by OpenCV, which can ask from the main thread alone: cameras are opened in another.
    """
    try:
        import AVFoundation
    except ImportError:
        return None  # OpenCV asks
    kind, cameras_of = AVFoundation.AVMediaTypeVideo, AVFoundation.AVCaptureDevice
    status = cameras_of.authorizationStatusForMediaType_(kind)
    if not asking:
        return REFUSALS.get(status) if status in (RESTRICTED, DENIED) else None
    if status == NOT_DETERMINED:
        status = _asked(cameras_of, kind)
    os.environ["OPENCV_AVFOUNDATION_SKIP_AUTH"] = "1"
    return REFUSALS.get(status)


def _asked(cameras_of: Any, kind: Any) -> int:
    log.warning("macOS asks whether this program may use the camera")
    answered = threading.Event()
    cameras_of.requestAccessForMediaType_completionHandler_(kind, lambda _granted: answered.set())
    answered.wait(PATIENCE)
    return cameras_of.authorizationStatusForMediaType_(kind)
