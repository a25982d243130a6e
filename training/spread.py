"""Crops of all kinds of faces, to calibrate by."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from tabrt.geometry import CROP_SIZE
from training.augment import truth_crop
from training.sets import shared_faces

FACES = 256


@cache
def calibration_crops(faces: Path, cache: Path, size: int = CROP_SIZE, count: int = FACES) -> np.ndarray:
    """Crops uint8 (count, size, size, 3) RGB spread over all sets of faces, none of them kept for validation."""
    known, _ = shared_faces(faces, cache)
    sets = [part for part in known.values() if np.isfinite(part.points).any()]  # the others show no face
    each = -(-count // len(sets))
    crops = []
    for part in sets:
        for index in np.unique(np.linspace(0, len(part) - 1, each).astype(int)):
            box = None if part.boxes is None else part.boxes[index]
            crop = replace(truth_crop(part.points[index], box=box), size=size)
            crops.append(crop.cut(part.read(int(index))))
    return np.stack(crops[:count])
