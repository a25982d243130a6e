"""Which model looks at which part of a picture, and what is a face in the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np

from tabrt.detection.views import (
    MIN_PICTURE,
    SAME_FACE,
    VIEW_SIZE,
    Calibration,
    Detection,
    Window,
    boxes_of,
    intersection_over_minimum,
    non_maximum_suppression,
    tiles,
    turned_back,
    view_of,
)
from tabrt.errors import TabrtError
from tabrt.geometry import Box, Crop

Runtime = Literal["onnxruntime", "mediapipe"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)

MIN_SCORE = 0.3  # measured: 0.5 loses every fourth face below 60 px, 0.4 some profiles; the network weeds out the extra
SURE = 0.7  # of the full-range model: below it the short-range one is asked too, which knows profiles better
PORTRAIT_MARGINS = (3.0, 4.0)  # face sides, of the views in which a face is confirmed
SMALL_FACE = 24  # px of a view: smaller ones are placed twice as badly

# Median errors on held-out portraits above 60 px: centre 4.4 % of the side, side 4.9 %; profiles 7.5 % and 9.2 %,
# hardly one that all share (-1.9 %; the smallest tenth -18 %).
FULL_RANGE = Calibration(centre=(-0.551, 0.5, 0.234, 0.928, -0.111), side=(0.452, 0.254, 0.359, 0.524))
# Above 100 px: 3.5 % and 2.8 %; profiles 5.9 % and 5.8 % (-0.4 %; -16 %).
SHORT_RANGE = Calibration(centre=(-1.004, 1.048, -0.222, 0.978, 0.199), side=(0.086, 0.901, 0.451, 0.476))

Model = Callable[[np.ndarray], list[Detection]]


class Detector:
    """Finds faces. Not for use from several threads at once.

    The full-range model looks at the whole picture; the short-range one only where that finds nothing, for it alone
    finds faces that fill the picture or lie on their side. runtime: "onnxruntime", or "mediapipe" (an extra), which
    runs the same models and does not survive a fork. Raises TabrtError.
    """

    def __init__(self, runtime: str = "onnxruntime"):
        self.runtime = runtime
        self._full_range, self._short_range = _models(runtime)
        self._turn = self._quarter = 0

    def __call__(self, image: np.ndarray, limit: int, thorough: bool = True) -> list[Box]:
        """Faces in image uint8 (H, W, 3) BGR, best first, at most `limit`.

        Boxes are those of the 98 points, about: square, rolled with the face. thorough: look at all tiles of a large
        picture while fewer than `limit` are seen well; otherwise at one tile, the next at each call.
        """
        height, width = image.shape[:2]
        if min(height, width) < MIN_PICTURE or limit < 1:
            return []
        whole = (0, 0, width, height)
        found = _look(self._full_range, FULL_RANGE, image, whole)
        if all(box.score < SURE for box in found):
            found += _look(self._short_range, SHORT_RANGE, image, whole)
            found = non_maximum_suppression(sorted(found, key=lambda box: -box.score))
        least = SMALL_FACE * max(width, height) / VIEW_SIZE
        clear = [box for box in found if box.width >= least]
        closer: list[Box] = []
        if len(non_maximum_suppression(clear)) < limit:
            for tile in self._tiles(width, height, thorough):
                closer += _look(self._full_range, FULL_RANGE, image, tile)
        # A tile shows a small face better than the whole picture does.
        found = non_maximum_suppression([*clear, *closer, *(box for box in found if box.width < least)])
        return sorted(found, key=lambda box: -box.score)[:limit]

    def turned(self, image: np.ndarray, limit: int, thorough: bool = True) -> list[Box]:
        """Faces that are seen when the picture is turned by a quarter, a half or three: by the next at each call.

        thorough: by all three.
        """
        height, width = image.shape[:2]
        if min(height, width) < MIN_PICTURE:
            return []
        self._quarter = self._quarter % 3 + 1
        found: list[Box] = []
        for quarters in (1, 2, 3) if thorough else (self._quarter,):
            for model, calibration in ((self._full_range, FULL_RANGE), (self._short_range, SHORT_RANGE)):
                found += _look(model, calibration, image, (0, 0, width, height), quarters)
        return non_maximum_suppression(sorted(found, key=lambda box: -box.score))[:limit]

    def certainty(
        self, image: np.ndarray, points: np.ndarray, roll: float, known: Callable[[Box], bool] = lambda _: False
    ) -> float:
        """How sure the models are of a face with points (L, 2), turned by roll: 0…1.

        Both look at it upright, from as far as they see faces best: what is no face is seldom one to both, from there.
        known: whether a box, in frame px, is of another face, which does not vouch for this one.
        """
        scores = []
        for margin in PORTRAIT_MARGINS:
            crop = Crop.following(points, roll, margin, VIEW_SIZE)
            view, face = crop.cut(image), Box.of(crop.to_crop(points))
            for model, calibration in ((self._full_range, FULL_RANGE), (self._short_range, SHORT_RANGE)):
                boxes = boxes_of(model(view), calibration, (0, 0, VIEW_SIZE, VIEW_SIZE), 1.0, view.shape)
                here = [box for box in boxes if intersection_over_minimum(box, face) >= SAME_FACE]
                scores.append(max((box.score for box in here if not known(_in_frame(box, crop))), default=0.0))
        return float(np.mean(scores))

    def _tiles(self, width: int, height: int, thorough: bool) -> list[Window]:
        every = tiles(width, height)
        if thorough or not every:
            return every
        self._turn += 1
        return [every[self._turn % len(every)]]

    def close(self) -> None:
        """Free the models; the detector cannot be used afterwards."""
        self._full_range.close()
        self._short_range.close()


def _models(runtime: str) -> tuple[Any, Any]:
    if runtime == "onnxruntime":
        from tabrt.detection import onnx

        return onnx.BlazeFace(*onnx.FULL_RANGE, MIN_SCORE), onnx.BlazeFace(*onnx.SHORT_RANGE, MIN_SCORE)
    if runtime == "mediapipe":
        from tabrt.detection import mediapipe

        return mediapipe.BlazeFace(mediapipe.FULL_RANGE, MIN_SCORE), mediapipe.BlazeFace(
            mediapipe.SHORT_RANGE, MIN_SCORE
        )
    raise TabrtError(f"there is no detector {runtime!r}; choose {' or '.join(RUNTIMES)}")


def _in_frame(box: Box, crop: Crop) -> Box:
    """A box of what a crop shows, in frame px."""
    x, y = crop.to_frame(np.array([box.centre]))[0].tolist()
    half = box.width / 2 * crop.side / crop.size
    return Box(x - half, y - half, x + half, y + half, box.score, box.roll + crop.roll)


def _look(model: Model, calibration: Calibration, image: np.ndarray, window: Window, quarters: int = 0) -> list[Box]:
    """Faces that one model sees in one window of image, turned by quarters."""
    view, scale = view_of(image, window)
    if not quarters:
        return boxes_of(model(view), calibration, window, scale, image.shape)
    found = [turned_back(each, quarters) for each in model(np.ascontiguousarray(np.rot90(view, quarters)))]
    return boxes_of(found, calibration, window, scale, image.shape)
