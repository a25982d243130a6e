"""What a hidden face looks like: blurred, in blocks, or black. Nothing of it can be brought back.

A blur that only smooths can be undone, and blocks that stay while a face moves under them tell more with every frame.
Here a head is reduced to a handful of colours, in a grid that moves, turns and grows with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import cv2
import numpy as np

from tabrt.geometry import Crop
from tabrt.hiding.regions import POWER, Region, rounded

Mode = Literal["blur", "mosaic", "black"]
MODES: tuple[Mode, ...] = get_args(Mode)

Window = tuple[int, int, int, int]  # left, top, right, bottom, frame px

VIEW = 96  # px of the square in which a cover is made …
SMALL = 24  # … and of that in which its colours flow into each other
SLACK = 0.04  # of a region's size: more than a px of that square, and than one of the next, over which edges are drawn
SPREAD = 256  # px of a square in which a smooth cover of a large head is turned, before it is enlarged
BLUR_CELLS = 4  # colours along a cover, about two across a face …
MOSAIC_CELLS = 4.5  # … and along a region without its edge
FEATHER = {"blur": 0.25, "mosaic": 0.12, "black": 0.08}  # of a region's size, outside of it
PLATE_FEATHER = 0.1  # the same, of a plate
BAND = 32  # rows that are blended at once: what is made of them stays in the processor's cache


class Plate(NamedTuple):
    """A flat rectangle of a head's mean colour, or black.

    Detectors take a round shape above shoulders for a face, whatever is in it; they do not take one with corners. Two
    shades break what is left of a face's symmetry.
    """

    size: float  # of the region, in its own
    shades: int = 0  # how far they lie to both sides of the mean, of 255


# By strength, the first where the mode alone is not enough. Of 177 heads in 14 films a detector took 69 when they were
# blurred, 103 in blocks, 68 in black; of these, made stronger step by step, 10, 10 and 37, then 3, 5 and 26, at last 0,
# 2 and 4. With hard edges, in place of soft ones outside, they were 10, 9 and 36, 7, 5 and 25, then 1, 1 and 3.
PLATES = Plate(1.1), Plate(1.25), Plate(1.35, 30)
STRONGEST = len(PLATES)


def cover(image: np.ndarray, region: Region, mode: Mode, strength: int = 0) -> None:
    """Hide a region of image uint8 (H, W, 3) BGR in place: all of it, with a soft edge outside.

    strength: 0 is the mode alone, up to STRONGEST. What is stronger is a plate.
    """
    if strength:
        plate = PLATES[strength - 1]
        _lay(image, region, _Shape(plate.size, PLATE_FEATHER, math.inf), lambda _: _plate(image, region, mode, plate))
    else:
        shape = _Shape(1.0, FEATHER[mode], POWER, smooth=mode != "mosaic")
        _lay(image, region, shape, lambda crop: _fill(image, crop, shape.reach, mode))


class _Shape(NamedTuple):
    """What a cover hides, in sizes of the region, and how it ends."""

    inner: float  # hidden wholly
    feather: float  # outside of it
    power: float  # of the superellipse; infinite for a rectangle
    smooth: bool = True  # or in blocks

    @property
    def reach(self) -> float:
        return self.inner + self.feather


def _lay(image: np.ndarray, region: Region, shape: _Shape, filling: Callable[[Crop], np.ndarray]) -> None:
    """Lay a cover over a region, in place. filling: what it looks like, for a crop of all of it."""
    crop = Crop(region.centre, shape.reach * region.side, region.roll, size=VIEW)
    window = _window(crop, image.shape)
    if window is None:
        return
    left, top, right, bottom = window
    radius = rounded(_ratio(region), VIEW, shape.reach, shape.power)
    alpha = np.clip((shape.reach - radius) / (shape.feather - SLACK), 0, 1)
    alpha *= alpha * (3 - 2 * alpha) * 255
    laid = _spread(filling(crop), crop, window, shape.smooth)
    mask = _spread(alpha.astype(np.uint8), crop, window, border=cv2.BORDER_CONSTANT)
    _blend(image[top:bottom, left:right], laid, mask)


def _ratio(region: Region) -> tuple[float, float]:
    """The region's half sides over the longer one."""
    return region.half[0] / max(region.half), region.half[1] / max(region.half)


def _plate(image: np.ndarray, region: Region, mode: Mode, plate: Plate) -> np.ndarray:
    """(VIEW, VIEW, 3) BGR: the colours of a plate, darker on one side of a diagonal than on the other."""
    mean = np.zeros(3)
    if mode != "black":
        inside = rounded(_ratio(region), SMALL, 1.0) <= 1
        mean = _seen(image, Crop(region.centre, region.side, region.roll, size=SMALL))[inside].mean(axis=0)
    mean = mean.clip(plate.shades, 255 - plate.shades)
    across = np.arange(VIEW)
    side = np.clip(across - across[:, None], -1, 1)[..., None]
    return _colours(mean + plate.shades * side)


def _window(crop: Crop, shape: tuple[int, ...]) -> Window | None:
    """Left, top, right, bottom of what a crop shows of an image; None where that is nothing."""
    end = crop.size - 0.5
    corners = crop.to_frame(np.array([(x, y) for x in (-0.5, end) for y in (-0.5, end)]))
    if not np.isfinite(corners).all():
        return None
    limit = np.array(shape[1::-1])
    left, top = np.clip(np.floor(corners.min(axis=0)), 0, limit).astype(int).tolist()
    right, bottom = np.clip(np.ceil(corners.max(axis=0)) + 1, 0, limit).astype(int).tolist()
    return (left, top, right, bottom) if left < right and top < bottom else None


def _spread(
    view: np.ndarray, crop: Crop, window: Window, smooth: bool = True, border: int = cv2.BORDER_REPLICATE
) -> np.ndarray:
    """What a view (VIEW, VIEW) or (VIEW, VIEW, 3) of a crop looks like in a window of the picture.

    What is smooth is turned small and then enlarged, for a turn costs ten times as much for each px.
    """
    left, top, right, bottom = window
    shrink = max(1, int(crop.side / SPREAD)) if smooth else 1
    matrix = crop.matrix
    matrix[:, 2] += matrix[:, :2] @ (left + (shrink - 1) / 2, top + (shrink - 1) / 2)
    matrix[:, :2] *= shrink
    size = -(-(right - left) // shrink), -(-(bottom - top) // shrink)
    how = cv2.WARP_INVERSE_MAP | (cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST)
    turned = cv2.warpAffine(view, matrix, size, flags=how, borderMode=border)
    if shrink > 1:
        turned = cv2.resize(turned, (size[0] * shrink, size[1] * shrink), interpolation=cv2.INTER_LINEAR)
    return turned[: bottom - top, : right - left]


def _fill(image: np.ndarray, crop: Crop, reach: float, mode: Mode) -> np.ndarray:
    """(VIEW, VIEW, 3) BGR: what is laid over what the crop shows."""
    if mode == "black":
        return np.zeros((VIEW, VIEW, 3), np.uint8)
    cells = round(MOSAIC_CELLS * reach) if mode == "mosaic" else BLUR_CELLS
    mean = cv2.resize(_seen(image, crop), (cells, cells), interpolation=cv2.INTER_AREA)
    if mode == "mosaic":
        return cv2.resize(_colours(mean), (VIEW, VIEW), interpolation=cv2.INTER_NEAREST)
    smooth = cv2.resize(mean, (SMALL, SMALL), interpolation=cv2.INTER_CUBIC)
    smooth = cv2.GaussianBlur(smooth, (0, 0), SMALL / cells / 2)
    return _colours(cv2.resize(smooth, (VIEW, VIEW), interpolation=cv2.INTER_CUBIC))


def _seen(image: np.ndarray, crop: Crop) -> np.ndarray:
    """(SMALL, SMALL, 3) float32 BGR: what a crop shows."""
    seen = cv2.cvtColor(crop.cut(image, border=cv2.BORDER_REPLICATE), cv2.COLOR_RGB2BGR)
    return cv2.resize(seen, (SMALL, SMALL), interpolation=cv2.INTER_AREA).astype(np.float32)


def _colours(values: np.ndarray) -> np.ndarray:
    colours: np.ndarray = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return colours


def _blend(part: np.ndarray, laid: np.ndarray, mask: np.ndarray) -> None:
    """Lay a picture on a part of an image, in place, by mask uint8 (H, W): where that is 255, nothing else is left."""
    for top in range(0, len(mask), BAND):
        there, here = part[top : top + BAND], laid[top : top + BAND]
        alpha = cv2.cvtColor(mask[top : top + BAND], cv2.COLOR_GRAY2BGR)
        there[...] = cv2.add(cv2.multiply(there, 255 - alpha, scale=1 / 255), cv2.multiply(here, alpha, scale=1 / 255))
