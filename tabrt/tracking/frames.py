"""What a tracker is given, made into frames: films, cameras, captures, bare arrays, anything that yields them."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tabrt.errors import TabrtError
from tabrt.faces import Frame

NOMINAL_STEP = 1 / 30  # s between frames that have no time
SOURCES = "a film's path, a camera's number, a cv2.VideoCapture, or frames or images one after the other"


def as_frame(given: Any, index: int) -> Frame:
    """A frame with an image uint8 (H, W, 3) BGR, and an index and time that are numbers.

    A bare image is the frame of this index, at its nominal time. Raises TabrtError for anything else.
    """
    if isinstance(given, np.ndarray):
        given = Frame(given, index, index * NOMINAL_STEP)
    if not isinstance(given, Frame):
        raise TabrtError(f"a frame is {_described(given)}; give tabrt.Frame(image, index, time), or a bare image")
    image = as_bgr(given.image)
    number = index if given.index is None else given.index
    moment = number * NOMINAL_STEP if given.time is None else given.time
    try:
        moment = float(moment)
    except (TypeError, ValueError):
        raise TabrtError(f"a frame's time is {given.time!r}; give seconds as a number") from None
    if image is given.image and number is given.index and moment is given.time:
        return given
    return replace(given, image=image, index=number, time=moment)


def as_bgr(image: Any) -> np.ndarray:
    """image as uint8 (H, W, 3) BGR: grey and BGRA are converted. Raises TabrtError for anything else."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim not in (2, 3) or image.size == 0:
        raise TabrtError(
            f"a frame's image is {_described(image)}; give uint8 (height, width, 3) BGR, with at least one pixel"
        )
    if image.ndim == 2 or image.shape[2] == 1:
        return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_GRAY2BGR)
    if image.shape[2] == 4:
        return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGRA2BGR)
    if image.shape[2] != 3:
        raise TabrtError(f"a frame's image has {image.shape[2]} channels; give 3 (BGR), 4 (BGRA) or 1 (grey)")
    return image if image.flags.c_contiguous else np.ascontiguousarray(image)


def _described(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return "None" if value is None else f"a {type(value).__name__}"


def frames_of(source: Any) -> Iterator[Frame | np.ndarray]:
    """The frames of a source, see SOURCES. Closes what it opened. Raises TabrtError."""
    if isinstance(source, str | Path):
        yield from _film(source)
    elif isinstance(source, int | np.integer) and not isinstance(source, bool):
        yield from _camera(int(source))
    elif isinstance(source, cv2.VideoCapture):
        yield from _captured(source)
    elif isinstance(source, Frame) or (isinstance(source, np.ndarray) and source.ndim in (2, 3)):
        yield source
    elif isinstance(source, Iterable) and not isinstance(source, dict | bytes):
        yield from source
    else:
        raise TabrtError(f"a source is {_described(source)}; give {SOURCES}")


def _film(path: str | Path) -> Iterator[Frame]:
    from tabrt.film import open_film

    with open_film(path) as film:
        frames: Any = iter(film)
        with closing(frames):
            yield from frames


def _camera(number: int) -> Iterator[Frame]:
    """A camera by its number, as OpenCV counts them. `tabrt live` reads cameras with more care."""
    capture = cv2.VideoCapture(number)
    try:
        if not capture.isOpened():
            raise TabrtError(f"camera {number} does not open; `tabrt doctor` lists the cameras that are here")
        yield from _captured(capture)
    finally:
        capture.release()


def _captured(capture: cv2.VideoCapture) -> Iterator[Frame]:
    """A capture's pictures: at the film's own times where it has them, else as they come."""
    if not capture.isOpened():
        raise TabrtError("the cv2.VideoCapture is not open; check its source")
    begun = time.monotonic()
    for index in itertools.count():
        found, image = capture.read()
        if not found:
            return
        at = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        recorded = capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0 and math.isfinite(at)
        yield Frame(image, index, at if recorded else time.monotonic() - begun)
