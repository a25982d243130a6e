"""What a tracker meets in the wild, made on purpose: each face spoilt in one stated way, the same way every time."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from tabrt.geometry import CROP_SIZE, Crop
from training.effects import hard_light

PERTURBATIONS = {
    "boxes": "boxes shifted by up to ±10 % of their side along x and y, and scaled by ±10 %, at random",
    "blur": "gaussian blur of 4 px in the 256-px crop",
    "dark": "a fifth of the light, with sensor noise of 4 grey levels",
    "covered": "the left, right, upper or lower half of the face under a grey sheet",
    "roll": "turned by +45° or −45°",
    "round": "turned by any angle",
    "light": "light of a single hue, a posterised print, two stage lights, or hardly any light",
}


def moved(name: str | None, crop: Crop, rng: np.random.Generator, margin: float = 1.25) -> Crop:
    """The crop that the network is given instead. margin: of the crop over its box."""
    if name == "roll":
        return replace(crop, roll=crop.roll + float(rng.choice((-1, 1))) * np.pi / 4)
    if name == "round":
        return replace(crop, roll=crop.roll + float(rng.uniform(-np.pi, np.pi)))
    if name == "boxes":
        x, y = np.asarray(crop.centre) + rng.uniform(-0.1, 0.1, 2) * crop.side / margin
        return replace(crop, centre=(float(x), float(y)), side=crop.side * float(rng.uniform(0.9, 1.1)))
    return crop


def spoilt(
    name: str, pixels: np.ndarray, points: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The crop's pixels, spoilt, and which of its true points (L, 2), in crop px, are covered (L,)."""
    covered = np.zeros(len(points), bool)
    if name == "blur":
        pixels = cv2.GaussianBlur(pixels, (0, 0), 4)
    elif name == "dark":
        noise = rng.normal(0, 4, pixels.shape)
        pixels = np.clip(pixels * 0.2 + noise, 0, 255).astype(np.uint8)
    elif name == "light":
        pixels = hard_light(pixels, rng)
    elif name == "covered":
        pixels, covered = _cover_half(pixels, points, rng)
    return pixels, covered


def _cover_half(pixels: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.nanmin(points, axis=0), np.nanmax(points, axis=0)
    axis, upper = int(rng.integers(2)), bool(rng.integers(2))
    grown = 0.1 * (high - low)
    sheet = np.array([low - grown, high + grown])
    sheet[0 if upper else 1, axis] = middle = (low[axis] + high[axis]) / 2
    (left, top), (right, bottom) = np.clip(np.round(sheet), 0, CROP_SIZE).astype(int)
    out = pixels.copy()
    out[top:bottom, left:right] = 127
    return out, points[:, axis] > middle if upper else points[:, axis] < middle
