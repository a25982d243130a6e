"""Cameras of Linux, by Video4Linux."""

from __future__ import annotations

import os
from pathlib import Path

import cv2

from tabrt.errors import TabrtError
from tabrt.live.devices.camera import Camera, with_settings

SYSFS = Path("/sys/class/video4linux")
STABLE_PATHS = Path("/dev/v4l/by-id")


def cameras(sysfs: Path = SYSFS, stable_paths: Path = STABLE_PATHS) -> list[Camera]:
    """The cameras plugged in, in the order of their numbers; none where the system lists none."""
    stable = {link.resolve().name: str(link) for link in _listed(stable_paths)}
    nodes = sorted(_listed(sysfs), key=lambda node: (len(node.name), node.name))
    return [
        Camera(f"/dev/{node.name}", _read(node / "name") or node.name, stable.get(node.name))
        for node in nodes
        if _read(node / "index") in ("", "0")  # the others of a camera carry metadata, not pictures
    ]


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def open_camera(device: str | Camera, size: tuple[int, int] | None, fps: float | None) -> cv2.VideoCapture:
    """The camera at a path. Raises TabrtError for one that may not be opened."""
    path = device.path if isinstance(device, Camera) else device
    _check_device(path)
    capture = cv2.VideoCapture(path, cv2.CAP_V4L2)
    if capture.isOpened():
        set_up(capture, size, fps)
    return capture


def refusal(asking: bool) -> str | None:
    """Linux says no only when a camera is opened."""
    return None


def _check_device(path: str) -> None:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
    except PermissionError:
        raise TabrtError(
            f"camera {path} may not be opened; add yourself to the group video, and log in again"
        ) from None
    except OSError as problem:
        raise TabrtError(
            f"camera {path} cannot be opened ({problem.strerror}); close the program that uses it"
        ) from None


def set_up(capture: cv2.VideoCapture, size: tuple[int, int] | None, fps: float | None) -> None:
    """Ask for size, rate and one buffer; for MJPEG where it brings at least twice the rate."""
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    with_settings(capture, size, fps)
    plain, plain_rate = capture.get(cv2.CAP_PROP_FOURCC), capture.get(cv2.CAP_PROP_FPS)
    plain_width = capture.get(cv2.CAP_PROP_FRAME_WIDTH)
    capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
    with_settings(capture, size, fps)
    larger = capture.get(cv2.CAP_PROP_FRAME_WIDTH) > plain_width
    if not larger and capture.get(cv2.CAP_PROP_FPS) < 2 * plain_rate:
        capture.set(cv2.CAP_PROP_FOURCC, plain)
        with_settings(capture, size, fps)
