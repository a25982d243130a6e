"""Where faces are: MediaPipe's detectors, and the map from what they give to the box of the landmarks.

A picture is shrunk by area averaging into a square before MediaPipe sees it: its own bilinear shrinking skips pixels,
and misses a third of the faces below 60 px in a 640 px picture. A large picture is also looked at in parts.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import sys
import tempfile
import types
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from tabrt.errors import TabrtError, missing_library
from tabrt.geometry import Box
from tabrt.standins import on_demand, standing_in

MODEL_FOLDER = Path(__file__).parents[1] / "models"
VIEW_SIZE = 192  # px: the full-range model's own input
MIN_SCORE = 0.4  # measured: 0.5 loses every fourth face below 60 px; the network's confidence weeds out the few extra
MIN_PICTURE = 16  # px: no face fits into a picture with a shorter side
MIN_FACE = 12.0  # px, longer side of the landmarks' box: below it nothing is left to place points by
SMALL_FACE = 24  # px of a view: smaller ones are placed twice as badly
WHOLE_SIZE = 640  # px: a picture with a longer side is also looked at in parts
PART_SIZE = 480  # px of a part; more where MAX_PARTS would be passed
PART_OVERLAP = 0.2  # share of a part that its neighbour sees too
MAX_PARTS = 12
SAME_FACE = 0.5  # share of the smaller box inside the larger one from which two boxes are one face


@dataclass(frozen=True)
class Calibration:
    """From a detection to the box of the 98 points, by robust least squares on 2,000 labelled faces, 0…±60° rolled.

    centre: weights of eyes, nose, mouth, ears, and the detection's box; they add up to 1, so the map turns and
    scales with the face. side: weights of box width, eyes to mouth, and ear to ear.
    """

    centre: tuple[float, float, float, float, float]
    side: tuple[float, float, float]


# Median error, faces above 60 px: centre 4.5 % of the side, side 7 %; rolled 30…60°: 6 % and 10 %.
FULL_RANGE = Calibration(centre=(-0.482, 0.410, 0.267, 0.857, -0.052), side=(0.731, 0.169, 0.191))
# Above 100 px: 3.5 % and 5 %; rolled: 4.5 % and 5 %.
SHORT_RANGE = Calibration(centre=(-1.387, 1.534, -0.546, 1.130, 0.269), side=(0.006, 1.033, 0.529))

Window = tuple[int, int, int, int]  # left, top, right, bottom; px of the picture


class Detector:
    """Finds faces. Not for use from several threads at once.

    The full-range model looks at the whole picture; the short-range one only where that finds nothing, for it alone
    finds faces that fill the picture or lie on their side.
    """

    def __init__(self) -> None:
        with _without_chatter():
            self._full_range = _load("face_detection_full_range_sparse.tflite")
            self._short_range = _load("face_detection_short_range.tflite")
            for model in (self._full_range, self._short_range):  # MediaPipe chatters at the first picture too
                _detections(model, np.zeros((VIEW_SIZE, VIEW_SIZE, 3), np.uint8))
        # Without it MediaPipe complains when the interpreter ends before `close`.
        self._finalizer = weakref.finalize(self, _close, self._full_range, self._short_range)
        self._turn = 0

    def __call__(self, image: np.ndarray, limit: int, thorough: bool = True) -> list[Box]:
        """Faces in image uint8 (H, W, 3) BGR, best first, at most `limit`.

        Boxes are those of the 98 points, about: square, rolled with the face. thorough: look at all parts of a large
        picture while fewer than `limit` are seen well; otherwise at one part, the next at each call.
        """
        height, width = image.shape[:2]
        if min(height, width) < MIN_PICTURE or limit < 1:
            return []
        whole = (0, 0, width, height)
        found = _look(self._full_range, FULL_RANGE, image, whole)
        if not found:
            found = _look(self._short_range, SHORT_RANGE, image, whole)
        least = SMALL_FACE * max(width, height) / VIEW_SIZE
        clear = [box for box in found if box.width >= least]
        closer: list[Box] = []
        if len(_distinct(clear)) < limit:
            for part in self._parts(width, height, thorough):
                closer += _look(self._full_range, FULL_RANGE, image, part)
        # A part shows a small face better than the whole picture does.
        found = _distinct([*clear, *closer, *(box for box in found if box.width < least)])
        return sorted(found, key=lambda box: -box.score)[:limit]

    def _parts(self, width: int, height: int, thorough: bool) -> list[Window]:
        parts = part_windows(width, height)
        if thorough or not parts:
            return parts
        self._turn += 1
        return [parts[self._turn % len(parts)]]

    def close(self) -> None:
        """Free the models; the detector cannot be used afterwards."""
        self._finalizer()


def part_windows(width: int, height: int) -> list[Window]:
    """The overlapping parts in which a picture is looked at, at most MAX_PARTS; none for a small picture."""
    if max(width, height) <= WHOLE_SIZE:
        return []
    size = float(PART_SIZE)
    while _parts_along(width, size) * _parts_along(height, size) > MAX_PARTS:
        size *= 1.1
    return [
        (left, top, right, bottom)
        for top, bottom in _spread(height, size)
        for left, right in _spread(width, size)
        if (right - left, bottom - top) != (width, height)
    ]


def _parts_along(length: int, size: float) -> int:
    return max(1, math.ceil((length - PART_OVERLAP * size) / ((1 - PART_OVERLAP) * size)))


def _spread(length: int, size: float) -> list[tuple[int, int]]:
    span = min(length, math.ceil(size))
    return [(int(start), int(start) + span) for start in np.linspace(0, length - span, _parts_along(length, size))]


def _load(name: str):
    path = MODEL_FOLDER / name
    if not path.is_file():
        raise TabrtError(f"the face detector's model {name} is not installed; install tabrt again")
    with _without_plots():
        from mediapipe.tasks.python.core.base_options import BaseOptions
        from mediapipe.tasks.python.vision.face_detector import FaceDetector, FaceDetectorOptions

    options = FaceDetectorOptions(
        base_options=BaseOptions(model_asset_buffer=path.read_bytes()), min_detection_confidence=MIN_SCORE
    )
    try:
        return FaceDetector.create_from_options(options)
    except (RuntimeError, ValueError, OSError) as error:
        problem = missing_library(error) or f"({error}); install tabrt and mediapipe again"
        raise TabrtError(f"the face detector cannot start: {problem}") from error


def _without_plots() -> contextlib.AbstractContextManager[None]:
    """Let MediaPipe be imported without what it needs for plots and microphones alone: a third of a start."""
    if "matplotlib" in sys.modules or "sounddevice" in sys.modules:
        return contextlib.nullcontext()
    matplotlib, pyplot = types.ModuleType("matplotlib"), on_demand("matplotlib.pyplot")
    matplotlib.pyplot = pyplot
    return standing_in(matplotlib, pyplot, on_demand("sounddevice"))


def _close(*models) -> None:
    for model in models:
        try:
            model.close()
        except RuntimeError:  # the interpreter is ending, and MediaPipe's thread is gone: nothing is left to free
            model._handle = None


def _detections(model, view: np.ndarray) -> list:
    from mediapipe.tasks.python.vision.core.image import Image, ImageFormat

    return model.detect(Image(ImageFormat.SRGB, view)).detections


def _look(model, calibration: Calibration, image: np.ndarray, window: Window) -> list[Box]:
    """Faces that one model sees in one window of image."""
    view, scale = _view(image, window)
    boxes = []
    for detection in _detections(model, view):
        points = np.array([(point.x, point.y) for point in detection.keypoints]) * VIEW_SIZE / scale
        box = detection.bounding_box
        corner = np.array([box.origin_x + box.width / 2, box.origin_y + box.height / 2]) / scale
        # MediaPipe counts from the corner of the first pixel, tabrt from its centre.
        offset = np.array(window[:2]) - 0.5
        boxes.append(_calibrated(points + offset, corner + offset, box.width / scale, _score(detection), calibration))
    return [box for box in boxes if _is_sound(box, image.shape)]


def _view(image: np.ndarray, window: Window) -> tuple[np.ndarray, float]:
    """The window, shrunk into the top left of a black square: uint8 (192, 192, 3) RGB, and the scale."""
    left, top, right, bottom = window
    scale = VIEW_SIZE / max(right - left, bottom - top)
    width, height = (max(1, round(length * scale)) for length in (right - left, bottom - top))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(image[top:bottom, left:right], (width, height), interpolation=interpolation)
    view = np.zeros((VIEW_SIZE, VIEW_SIZE, 3), np.uint8)
    view[:height, :width] = small[:, :, ::-1]
    return view, scale


def _score(detection) -> float:
    return float(detection.categories[0].score)


def _calibrated(
    points: np.ndarray, box_centre: np.ndarray, box_width: float, score: float, calibration: Calibration
) -> Box:
    """Detection with points (6, 2): eye, eye, nose tip, mouth, ear, ear, in the picture's left to right."""
    eyes, nose, mouth, ears = (points[0] + points[1]) / 2, points[2], points[3], (points[4] + points[5]) / 2
    across, down = points[1] - points[0], mouth - eyes
    roll = math.atan2(across[1] - down[0], across[0] + down[1])  # as Topology.roll
    x, y = calibration.centre @ np.stack([eyes, nose, mouth, ears, box_centre])
    lengths = box_width, np.linalg.norm(down), np.linalg.norm(points[5] - points[4])
    half = float(np.dot(calibration.side, lengths)) / 2
    return Box(float(x - half), float(y - half), float(x + half), float(y + half), score, roll)


def _is_sound(box: Box, shape: tuple[int, ...]) -> bool:
    """Whether a box is finite, of a face's size, and centred in the picture."""
    x, y = box.centre
    if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(box.roll)):
        return False
    return MIN_FACE <= box.width <= 2 * max(shape[:2]) and 0 <= x < shape[1] and 0 <= y < shape[0]


def _distinct(boxes: list[Box]) -> list[Box]:
    """Boxes without those that share a face with an earlier one."""
    kept: list[Box] = []
    for box in boxes:
        if all(shared(box, other) < SAME_FACE for other in kept):
            kept.append(box)
    return kept


def shared(a: Box, b: Box) -> float:
    """Share of the smaller box that lies inside the other, both taken upright."""
    width = min(a.right, b.right) - max(a.left, b.left)
    height = min(a.bottom, b.bottom) - max(a.top, b.top)
    smaller = min(a.width * a.height, b.width * b.height)
    return width * height / smaller if width > 0 and height > 0 and smaller > 0 else 0.0


# What MediaPipe says at every start whatever happens. Anything else it says is passed on.
_CHATTER = re.compile(
    r"XNNPACK delegate|absl::InitializeLog|inference_feedback_manager|Feedback manager|gl_context|GL version|^\s*$"
)


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Catch what native code writes to stderr, and pass on what is not known chatter."""
    try:
        sys.stderr.flush()
        kept = os.dup(2)
    except (OSError, AttributeError, ValueError):  # no stderr at all
        yield
        return
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            lines = caught.read().decode(errors="replace").splitlines(keepends=True)
            sys.stderr.write("".join(line for line in lines if not _CHATTER.search(line)))
