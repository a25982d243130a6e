"""What a hidden face looks like: blurred, in blocks, or black. Nothing of it can be brought back.

A blur that only smooths can be undone, and blocks that stay while a face moves under them tell more with every frame.
Here a head is reduced to a handful of colours, in a grid that moves, turns and grows with it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import cv2
import numpy as np

from tabrt.geometry import Crop
from tabrt.hiding.regions import Region, rounded

Mode = Literal["blur", "mosaic", "black"]
MODES: tuple[Mode, ...] = get_args(Mode)

VIEW = 96  # px of the square in which a cover is made …
SMALL = 24  # … and of that in which its colours flow into each other
SLACK = 0.03  # of a region's size: more than a px of that square, over which edges are interpolated
BLUR_CELLS = 4  # colours along a cover, about two across a face …
MOSAIC_CELLS = 4.5  # … and along a region without its edge
FEATHER = {"blur": 0.25, "mosaic": 0.12, "black": 0.08}  # of a region's size, outside of it


class Step(NamedTuple):
    """How a cover is made stronger. Detectors take a head's outline above shoulders for a face, whatever is in it: so
    the edge grows wide and soft, and the colours become those around the head."""

    size: float  # of the region, in its own
    feather: float  # of a region's size, where that is more than the mode's own
    around: float  # share of the colours around the head


# Of 65 blurred heads of three films, those that it takes for faces most, a detector took 77 %, 55 %, 17 % and none.
STEPS = Step(1.0, 0.0, 0.0), Step(1.15, 0.5, 0.5), Step(1.3, 0.5, 1.0), Step(1.3, 0.8, 1.0)
STRONGEST = len(STEPS) - 1


def cover(image: np.ndarray, region: Region, mode: Mode, strength: int = 0) -> None:
    """Hide a region of image uint8 (H, W, 3) BGR in place: all of it, with a soft edge outside.

    strength: 0 is the mode alone, up to STRONGEST.
    """
    step = STEPS[strength]
    region = region.grown(step.size)
    reach = 1 + max(step.feather, FEATHER[mode])
    crop = Crop(region.centre, reach * region.side, region.roll, size=VIEW)
    window = _window(crop, image.shape)
    if window is None:
        return
    left, top, right, bottom = window
    ratio = region.half[0] / max(region.half), region.half[1] / max(region.half)
    alpha = np.clip((reach - rounded(ratio, VIEW, reach)) / (reach - 1 - SLACK), 0, 1)
    alpha *= alpha * (3 - 2 * alpha) * 255
    fill = _fill(image, crop, rounded(ratio, SMALL, reach), reach, mode, strength)
    matrix = crop.matrix
    matrix[:, 2] += matrix[:, :2] @ (left, top)
    size = right - left, bottom - top
    how = cv2.INTER_NEAREST if mode == "mosaic" else cv2.INTER_LINEAR
    laid = cv2.warpAffine(fill, matrix, size, flags=how | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE)
    mask = cv2.warpAffine(alpha.astype(np.uint8), matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    _blend(image[top:bottom, left:right], laid, mask)


def _window(crop: Crop, shape: tuple[int, ...]) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom of what a crop shows of an image; None where that is nothing."""
    end = crop.size - 0.5
    corners = crop.to_frame(np.array([(x, y) for x in (-0.5, end) for y in (-0.5, end)]))
    if not np.isfinite(corners).all():
        return None
    limit = np.array(shape[1::-1])
    left, top = np.clip(np.floor(corners.min(axis=0)), 0, limit).astype(int).tolist()
    right, bottom = np.clip(np.ceil(corners.max(axis=0)) + 1, 0, limit).astype(int).tolist()
    return (left, top, right, bottom) if left < right and top < bottom else None


def _fill(image: np.ndarray, crop: Crop, radius: np.ndarray, reach: float, mode: Mode, strength: int) -> np.ndarray:
    """(VIEW, VIEW, 3) BGR: what is laid over what the crop shows. radius: (SMALL, SMALL) of the region in it."""
    if mode == "black" and strength < STRONGEST:
        return np.zeros((VIEW, VIEW, 3), np.uint8)
    seen = cv2.cvtColor(crop.cut(image, border=cv2.BORDER_REPLICATE), cv2.COLOR_RGB2BGR)
    around = 1.0 if mode == "black" else STEPS[strength].around
    small = cv2.resize(seen, (SMALL, SMALL), interpolation=cv2.INTER_AREA).astype(np.float32)
    flowing = _surroundings(small, radius) if around else small
    cells = round(MOSAIC_CELLS * reach) if mode == "mosaic" else BLUR_CELLS
    mean = cv2.resize((1 - around) * small + around * flowing, (cells, cells), interpolation=cv2.INTER_AREA)
    if mode == "mosaic":
        return cv2.resize(_colours(mean), (VIEW, VIEW), interpolation=cv2.INTER_NEAREST)
    smooth = cv2.resize(mean, (SMALL, SMALL), interpolation=cv2.INTER_CUBIC)
    smooth = cv2.GaussianBlur(smooth, (0, 0), SMALL / cells / 2)
    return _colours(cv2.resize(smooth, (VIEW, VIEW), interpolation=cv2.INTER_CUBIC))


def _surroundings(view: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """The colours outside the region, flowing into it: float32."""
    outside = (radius > 1 + SLACK).astype(np.float32)
    spread = cv2.GaussianBlur(view * outside[..., None], (0, 0), SMALL / 4)
    weight = cv2.GaussianBlur(outside, (0, 0), SMALL / 4)
    flowing: np.ndarray = spread / np.maximum(weight, 1e-3)[..., None]
    return flowing


def _colours(values: np.ndarray) -> np.ndarray:
    colours: np.ndarray = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return colours


def _blend(part: np.ndarray, laid: np.ndarray, mask: np.ndarray) -> None:
    """Lay a picture on a part of an image, in place, by mask uint8 (H, W): where that is 255, nothing else is left."""
    alpha = cv2.cvtColor(mask, cv2.COLOR_GRAY2BGR)
    part[...] = cv2.add(cv2.multiply(part, 255 - alpha, scale=1 / 255), cv2.multiply(laid, alpha, scale=1 / 255))
