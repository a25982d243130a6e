"""Augmentation: one warp, then light, blur, noise and cover. All randomness comes from the generator passed in."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from tabrt.geometry import CROP_SIZE, Box, Crop
from tabrt.topology import Topology


@dataclass(frozen=True)
class Augmentation:
    """How far a training crop may stray. Probabilities in 0…1; angles in degrees; shifts as shares of the crop."""

    flip: float = 0.5
    rotate: float = 0.6
    rotation: float = 60.0
    scale: float = 0.25
    shift: float = 0.0
    cover: float = 0.5  # paper: coarse dropout, 20 % of the cells of a grid of 2 % of the pixels
    patches: float = 0.0  # one large patch: flat, noisy, or from another place in the picture
    brightness: float = 0.5  # ×0.5–1.5 and ±25
    tone: float = 0.0  # contrast, gamma, colour cast, grey
    blur: float = 0.0  # soft focus, motion, lost resolution
    compression: float = 0.0  # JPEG and sensor noise


PAPER = Augmentation()
STRONG = Augmentation(
    rotation=50.0, scale=0.2, shift=0.07, cover=0.1, patches=0.35, brightness=0.3, tone=0.5, blur=0.25, compression=0.25
)
MILD = Augmentation(
    rotate=0.5, rotation=45.0, scale=0.15, shift=0.06, cover=0.05, patches=0.25, brightness=0.25, tone=0.4, blur=0.2,
    compression=0.2,
)  # fmt: skip


def training_crop(
    image: np.ndarray,
    points: np.ndarray,
    topology: Topology,
    how: Augmentation,
    rng: np.random.Generator,
    margin: float = 1.25,
    box: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """A crop uint8 (256, 256, 3) RGB and its points (L, 2) in crop px, of image (H, W, 3) BGR and points in its px."""
    crop = _stray(truth_crop(points, margin, box), how, rng)
    pixels, moved = crop.cut(image), crop.to_crop(points)
    if rng.random() < how.flip:
        pixels = np.ascontiguousarray(pixels[:, ::-1])
        moved = moved[topology.mirror] * (-1, 1) + (CROP_SIZE - 1, 0)
    return _spoil(pixels, how, rng), moved.astype(np.float32)


def truth_crop(points: np.ndarray, margin: float = 1.25, box: np.ndarray | None = None) -> Crop:
    """The crop of the labelled points' box, or of the list's own box (4,)."""
    labelled = points[np.isfinite(points).all(axis=1)]
    return Crop.around(Box.of(labelled) if box is None else Box(*map(float, box)), margin)


def _stray(crop: Crop, how: Augmentation, rng: np.random.Generator) -> Crop:
    side = crop.side * (1 + rng.uniform(-how.scale, how.scale))
    x, y = np.asarray(crop.centre) + rng.uniform(-how.shift, how.shift, 2) * side
    turned = rng.random() < how.rotate
    roll = np.deg2rad(rng.uniform(-how.rotation, how.rotation)) if turned else 0.0
    return Crop((float(x), float(y)), float(side), crop.roll + float(roll))


def _spoil(pixels: np.ndarray, how: Augmentation, rng: np.random.Generator) -> np.ndarray:
    if rng.random() < how.patches:
        pixels = _patch(pixels, rng)
    if rng.random() < how.cover:
        pixels = _coarse_dropout(pixels, rng)
    if rng.random() < how.tone:
        pixels = _tone(pixels, rng)
    if rng.random() < how.brightness:
        pixels = cv2.convertScaleAbs(pixels, alpha=rng.uniform(0.5, 1.5), beta=rng.uniform(-25, 25))
    if rng.random() < how.blur:
        pixels = _blur(pixels, rng)
    if rng.random() < how.compression:
        pixels = _compress(pixels, rng)
    return pixels


def _coarse_dropout(pixels: np.ndarray, rng: np.random.Generator, share: float = 0.2, size: float = 0.02) -> np.ndarray:
    cells = max(2, round(CROP_SIZE * size))
    kept = (rng.random((cells, cells)) >= share).astype(np.uint8)
    return pixels * cv2.resize(kept, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_NEAREST)[..., None]


def _patch(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cover a part as a hand, hair or a mug would: a filled ellipse or bar of a flat, noisy or borrowed texture."""
    mask = np.zeros((CROP_SIZE, CROP_SIZE), np.uint8)
    centre = rng.integers(20, CROP_SIZE - 20, 2).tolist()
    axes = (CROP_SIZE * rng.uniform(0.06, 0.28, 2)).astype(int).tolist()
    angle = float(rng.uniform(0, 180))
    if rng.random() < 0.5:
        cv2.ellipse(mask, centre, axes, angle, 0, 360, 255, -1)
    else:
        corners = cv2.boxPoints((tuple(map(float, centre)), tuple(2.0 * a for a in axes), angle))
        cv2.fillConvexPoly(mask, corners.astype(np.int32), 255)
    kind = rng.random()
    if kind < 0.35:
        fill = np.full_like(pixels, rng.integers(0, 256, 3))
    elif kind < 0.5:
        coarse = rng.integers(0, 256, (rng.integers(2, 24), rng.integers(2, 24), 3), dtype=np.uint8)
        fill = cv2.resize(coarse, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_LINEAR)
    else:
        fill = np.roll(pixels, rng.integers(40, 216, 2).tolist(), axis=(0, 1))
    return np.where(mask[..., None] > 0, fill, pixels)


def _tone(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    ramp = np.linspace(0, 1, 256)[:, None] ** rng.uniform(0.6, 1.7)
    ramp = (ramp - 0.5) * rng.uniform(0.5, 1.3) + 0.5 + rng.uniform(-0.1, 0.1)
    table = np.clip(ramp * rng.uniform(0.85, 1.15, 3) * 255, 0, 255).astype(np.uint8)
    toned = cv2.LUT(pixels, table[:, None, :])
    if rng.random() < 0.2:
        toned = cv2.cvtColor(cv2.cvtColor(toned, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return toned


def _blur(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    kind = rng.random()
    if kind < 0.35:
        return cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.6, 3.0))
    if kind < 0.6:
        length = int(rng.integers(3, 14))
        kernel = np.zeros((length, length), np.float32)
        kernel[length // 2] = 1 / length
        turn = cv2.getRotationMatrix2D(((length - 1) / 2,) * 2, rng.uniform(0, 180), 1)
        kernel = cv2.warpAffine(kernel, turn, (length, length))
        return cv2.filter2D(pixels, -1, kernel / max(float(kernel.sum()), 1e-6))
    small = int(rng.integers(40, 160))
    shrunk = cv2.resize(pixels, (small, small), interpolation=cv2.INTER_AREA)
    return cv2.resize(shrunk, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_LINEAR)


def _compress(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.5:
        noise = np.empty(pixels.shape, np.int16)
        cv2.setRNGSeed(int(rng.integers(1 << 30)))
        cv2.randn(noise, (0, 0, 0), (float(rng.uniform(2, 16)),) * 3)
        pixels = cv2.add(pixels, noise, dtype=cv2.CV_8U)
    if rng.random() < 0.6:
        _, coded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 80))])
        pixels = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    return pixels
