"""What a hidden face looks like: blurred, in blocks, or black. Nothing of it can be brought back.

A blur that only smooths can be undone, and blocks that stay while a face moves under them tell more with every frame.
Here a head is reduced to a handful of colours, in a grid that moves, turns and grows with it.
"""

from __future__ import annotations

from typing import Literal, get_args

import cv2
import numpy as np

from tabrt.geometry import Crop
from tabrt.hiding.regions import Region, rounded

Mode = Literal["blur", "mosaic", "black"]
MODES: tuple[Mode, ...] = get_args(Mode)

VIEW = 96  # px of the square in which a cover is made
SLACK = 0.03  # of a region's size: more than a px of that square, over which edges are interpolated
CELLS = {"blur": 4, "mosaic": 5}  # colours along that square, about two across a face
FEATHER = {"blur": 0.25, "mosaic": 0.12, "black": 0.08}  # of a region's size, outside of it
GROWTH = (1.0, 1.0, 1.15, 1.3)  # of a region, by the strength of its cover
STRONGEST = len(GROWTH) - 1
RING = 0.35  # of a region's size: what lies around it, whose colours fill the strongest cover
HATCH, STRIPE = 32, 9  # grey levels of the stripes of stronger covers, and their width in VIEW px


def cover(image: np.ndarray, region: Region, mode: Mode, strength: int = 0) -> None:
    """Hide a region of image uint8 (H, W, 3) BGR in place: all of it, with a soft edge outside.

    strength: 0 is the mode alone. Detectors take a head's outline above shoulders for a face, whatever is in it: from 1
    on stripes break it up, from 2 on the region grows, and 3 is filled with the colours around it alone.
    """
    region = region.grown(GROWTH[strength])
    feather = RING if strength == STRONGEST else FEATHER[mode]
    crop = Crop(region.centre, (1 + feather) * region.side, region.roll, size=VIEW)
    window = _window(crop, image.shape)
    if window is None:
        return
    left, top, right, bottom = window
    longer = max(region.half)
    radius = rounded((region.half[0] / longer, region.half[1] / longer), VIEW, 1 + feather)
    alpha = np.clip((1 + feather - radius) / (feather - SLACK), 0, 1) * 255
    fill = _fill(image, crop, radius, mode, strength)
    matrix = crop.matrix
    matrix[:, 2] += matrix[:, :2] @ (left, top)
    size = right - left, bottom - top
    how = cv2.INTER_NEAREST if mode == "mosaic" and strength < STRONGEST else cv2.INTER_LINEAR
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


def _fill(image: np.ndarray, crop: Crop, radius: np.ndarray, mode: Mode, strength: int) -> np.ndarray:
    """(VIEW, VIEW, 3) BGR: what is laid over what the crop shows."""
    if strength == STRONGEST:
        return _striped(_surroundings(_seen(image, crop), radius), HATCH)
    if mode == "black":
        black = np.zeros((VIEW, VIEW, 3), np.uint8)
        return _striped(black + np.uint8(HATCH), HATCH) if strength else black
    cells = cv2.resize(_seen(image, crop), (CELLS[mode],) * 2, interpolation=cv2.INTER_AREA)
    if mode == "mosaic":
        fill = cv2.resize(cells, (VIEW, VIEW), interpolation=cv2.INTER_NEAREST)
    else:
        smooth = cv2.resize(cells, (VIEW, VIEW), interpolation=cv2.INTER_CUBIC)
        fill = cv2.GaussianBlur(smooth, (0, 0), VIEW / CELLS[mode] / 2)
    return _striped(fill, HATCH) if strength else fill


def _seen(image: np.ndarray, crop: Crop) -> np.ndarray:
    return cv2.cvtColor(crop.cut(image, border=cv2.BORDER_REPLICATE), cv2.COLOR_RGB2BGR)


def _surroundings(view: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """The colours outside the region, flowing into it."""
    outside = (radius > 1 + SLACK).astype(np.float32)
    spread = cv2.GaussianBlur(view * outside[..., None], (0, 0), VIEW / 4)
    weight = cv2.GaussianBlur(outside, (0, 0), VIEW / 4)
    flowing: np.ndarray = np.clip(spread / np.maximum(weight, 1e-3)[..., None], 0, 255).astype(np.uint8)
    return flowing


def _striped(fill: np.ndarray, levels: int) -> np.ndarray:
    rows, columns = np.mgrid[:VIEW, :VIEW]
    stripes = (rows + columns) // STRIPE % 2 * 2 - 1
    striped: np.ndarray = np.clip(fill + (levels * stripes)[..., None], 0, 255).astype(np.uint8)
    return striped


def _blend(part: np.ndarray, laid: np.ndarray, mask: np.ndarray) -> None:
    """Lay a picture on a part of an image, in place, by mask uint8 (H, W): where that is 255, nothing else is left."""
    alpha = cv2.cvtColor(mask, cv2.COLOR_GRAY2BGR)
    part[...] = cv2.add(cv2.multiply(part, 255 - alpha, scale=1 / 255), cv2.multiply(laid, alpha, scale=1 / 255))
