"""Scenes as a camera that other programs can choose."""

from __future__ import annotations

import logging
from typing import Any

from tabrt.errors import TabrtError, first_line
from tabrt.faces import Scene
from tabrt.sinks.sink import Sink

log = logging.getLogger("tabrt")


class VirtualCamera(Sink):
    """A camera of width by height px at `rate` pictures a second, through pyvirtualcam.

    Raises TabrtError where there is none.
    """

    def __init__(self, width: int, height: int, rate: float):
        pyvirtualcam = find_pyvirtualcam()
        try:
            self._camera = pyvirtualcam.Camera(width, height, rate, fmt=pyvirtualcam.PixelFormat.BGR)
        except RuntimeError as problem:
            raise TabrtError(
                f"no virtual camera ({first_line(problem)}); on Linux: sudo modprobe v4l2loopback"
            ) from None
        log.info("virtual camera: %s", self._camera.device)

    def __call__(self, scene: Scene) -> None:
        self._camera.send(scene.picture)

    def close(self) -> None:
        self._camera.close()


def find_pyvirtualcam() -> Any:
    """The package behind VirtualCamera. Raises TabrtError where it is not installed."""
    try:
        import pyvirtualcam
    except ModuleNotFoundError:
        raise TabrtError("--virtual-camera needs pyvirtualcam (GPLv2); run: pip install pyvirtualcam") from None
    return pyvirtualcam
