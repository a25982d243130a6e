"""Cameras as cv2-enumerate-cameras lists them, on the systems where OpenCV knows them by numbers alone."""

from __future__ import annotations

import logging

from tabrt.errors import first_line
from tabrt.live.devices.camera import Camera

log = logging.getLogger("tabrt")


def listed(*backends: int) -> list[Camera]:
    """The cameras of OpenCV's back ends, each once, those of the first back end first."""
    try:
        from cv2_enumerate_cameras import enumerate_cameras

        found = [each for backend in backends for each in enumerate_cameras(backend)]
    except Exception as problem:  # of the system's own frameworks; a number can still be opened
        log.warning("the cameras cannot be listed (%s); --camera 0 is the first", first_line(problem))
        return []
    kept: dict[object, tuple[str, str | None, int]] = {}
    for each in found:
        # A back end that is asked for by number holds up to a hundred cameras.
        kept.setdefault(each.path or (each.backend, each.index), (each.name, each.path, each.backend + each.index))
    return [Camera(str(place), *about) for place, about in enumerate(kept.values())]
